#!/usr/bin/env bash
# skopeo: image, multi-arch index, zstd:chunked; every digest is kept on the way in and out.
# shellcheck source=tests/clients/lib.sh
source "$(dirname "$0")/lib.sh"

copy() { skopeo copy --quiet --insecure-policy --preserve-digests "$@"; }

# round_trip WHAT LAYOUT TAG FROM TO [OPTION…]
round_trip() {
  local what=$1 layout=$2 tag=$3 from=$4 to=$5
  shift 5
  copy --dest-tls-verify=false "$@" "oci:$layout:$tag" "docker://$from/clients/skopeo:$tag"
  copy --src-tls-verify=false "$@" "docker://$to/clients/skopeo:$tag" "oci:$scratch/$tag:$tag"
  result "$what" "$from" "$to" "$(oci_digest "$scratch/$tag" "$tag")" "$(oci_digest "$layout" "$tag")"
}

round_trip image "$IMAGES/layout" single "$NODE1" "$NODE3"
round_trip index "$IMAGES/layout" multi "$NODE2" "$NODE1" --all
round_trip zstd:chunked "$IMAGES/chunked" chunked "$NODE3" "$NODE2"
round_trip image "$IMAGES/layout" single "$PROXY" "$PROXY"
