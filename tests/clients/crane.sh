#!/usr/bin/env bash
# crane: image, multi-arch index, and an artifact attached to an image.
# shellcheck source=tests/clients/lib.sh
source "$(dirname "$0")/lib.sh"

skopeo copy --quiet --insecure-policy "oci:$IMAGES/layout:single" "oci:$scratch/single:single"
crane push --insecure "$scratch/single" "$NODE1/clients/crane:single" >/dev/null
crane pull --insecure --format=oci "$NODE2/clients/crane:single" "$scratch/pulled"
result image "$NODE1" "$NODE2" "$(jq -er '.manifests[0].digest' "$scratch/pulled/index.json")" \
  "$(crane digest --insecure "$NODE1/clients/crane:single")"

skopeo copy --quiet --insecure-policy --all --preserve-digests "oci:$IMAGES/layout:multi" "oci:$scratch/multi:multi"
crane push --insecure --index "$scratch/multi" "$NODE2/clients/crane:multi" >/dev/null
crane index append --insecure -m "$NODE3/clients/crane:single" -t "$NODE3/clients/crane:more" \
  "$NODE3/clients/crane:multi" >/dev/null 2>&1
pushed=$(remote_digest "$NODE3" clients/crane more)
crane copy --insecure "$NODE1/clients/crane:more" "$NODE2/clients/crane-copy:more" 2>/dev/null
result index "$NODE3" "$NODE1" "$(crane digest --insecure "$NODE3/clients/crane-copy:more")" "$pushed"
