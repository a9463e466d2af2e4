# shellcheck shell=bash
# What the client scripts share: a scratch folder, the images to push, one result line per check.
#
# Each client script pushes to one node and pulls from another. The environment names the nodes as
# host:port (NODE1, NODE2, NODE3), the round-robin proxy (PROXY) and its log (PROXY_LOG), the folder
# with the images (IMAGES, made by `run`) and the file for the results (RESULTS).

set -euo pipefail

client=$(basename "$0" .sh)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clawhub-$client.XXXXXX")
# Scripts that start something stop it here.
stop() { :; }
trap 'stop; rm -rf "$scratch"' EXIT

# result WHAT FROM TO DIGEST WANTED: notes whether the digest that came back is the one that went in.
result() {
  local verdict=ok
  if [[ -z $4 || $4 != "$5" ]]; then
    verdict="FAIL (wanted $5)"
  fi
  printf '%s\t%s\t%s → %s\t%s\t%s\n' "$client" "$1" "$2" "$3" "${4:-nothing}" "$verdict" >>"$RESULTS"
  [[ $verdict == ok ]]
}

# oci_digest FOLDER TAG: the digest behind a name of an OCI layout.
oci_digest() {
  jq -er --arg tag "$2" \
    '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $tag) | .digest' \
    "$1/index.json"
}

# remote_digest NODE NAME REFERENCE: the digest a node answers, computed from the bytes it sends.
remote_digest() {
  local accept=application/vnd.oci.image.index.v1+json,application/vnd.oci.image.manifest.v1+json
  accept+=,application/vnd.docker.distribution.manifest.list.v2+json
  accept+=,application/vnd.docker.distribution.manifest.v2+json
  printf 'sha256:'
  curl -fsS --max-time 30 -H "Accept: $accept" "http://$1/v2/$2/manifests/$3" | sha256sum | cut -d' ' -f1
}
