#!/usr/bin/env bash
# oras (the Python package): an artifact, and two artifacts that refer to it.
# shellcheck source=tests/clients/lib.sh
source "$(dirname "$0")/lib.sh"

SCRATCH=$scratch oras-python "$(dirname "$0")/artifact.py" "$NODE1" "$NODE2" >"$scratch/out"
verdict=0
while read -r what got wanted; do
  result "$what" "$NODE1" "$NODE2" "$got" "$wanted" || verdict=1
done <"$scratch/out"
exit $verdict
