#!/usr/bin/env bash
# podman with storage of its own: image, multi-arch index, and a zstd:chunked image of which it fetches
# only the parts that it needs: the log of the proxy must show a 206 multipart/byteranges.
# shellcheck source=tests/clients/lib.sh
source "$(dirname "$0")/lib.sh"

mkdir -p "$scratch/run"
export CONTAINERS_STORAGE_CONF=$scratch/storage.conf XDG_RUNTIME_DIR=$scratch/run
cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "overlay"
graphroot = "$scratch/graph"
runroot = "$scratch/run/containers"
[storage.options]
pull_options = {enable_partial_images = "true", use_hard_links = "false", ostree_repos = ""}
CONF

pod() { podman --log-level=error --events-backend=none "$@"; }
stop() {
  pod system reset --force >/dev/null 2>&1 || true
  umount "$scratch/graph/overlay" 2>/dev/null || true
}

# pulled REFERENCE: the digest of the manifest that podman stored for a pulled reference.
pulled() { pod image inspect --format '{{.Digest}}' "$1"; }

# podman names an image after the folder it comes from, and a name may hold no capitals.
cd "$IMAGES"
pod pull --quiet oci:layout:single >"$scratch/id"
read -r image <"$scratch/id"
pod push --quiet --tls-verify=false --digestfile "$scratch/pushed" "$image" "docker://$NODE2/clients/podman:single"
pod rmi --force "$image" >/dev/null
pod pull --quiet --tls-verify=false "docker://$NODE1/clients/podman:single" >/dev/null
result image "$NODE2" "$NODE1" "$(pulled "$NODE1/clients/podman:single")" "$(cat "$scratch/pushed")"

pod manifest create clients-multi >/dev/null
pod manifest add --arch amd64 --os linux clients-multi oci:layout:single >/dev/null
pod manifest add --arch arm64 --os linux clients-multi oci:other:other >/dev/null
pod manifest push --quiet --all --tls-verify=false --digestfile "$scratch/pushed" \
  clients-multi "docker://$NODE3/clients/podman:multi" >/dev/null
pod pull --quiet --tls-verify=false --arch arm64 "docker://$NODE2/clients/podman:multi" >/dev/null
result index "$NODE3" "$NODE2" "$(remote_digest "$NODE2" clients/podman multi)" "$(cat "$scratch/pushed")"

# From an empty store, so that nothing is there to be reused.
pod rmi --all --force >/dev/null
skopeo copy --quiet --insecure-policy --preserve-digests --dest-tls-verify=false \
  oci:chunked:chunked "docker://$NODE1/clients/podman:chunked"
pod pull --quiet --tls-verify=false "docker://$PROXY/clients/podman:chunked" >/dev/null
result zstd:chunked "$NODE1" "$PROXY" "$(pulled "$PROXY/clients/podman:chunked")" \
  "$(oci_digest "$IMAGES/chunked" chunked)"
parts=$(grep -c '/clients/podman/blobs/.* 206 multipart/byteranges' "$PROXY_LOG" || true)
result "206 multipart" "$NODE1" "$PROXY" "$([[ $parts -gt 0 ]] && echo seen)" seen
