#!/usr/bin/env bash
# A real Docker engine with folders, socket and network settings of its own, beside any that runs here:
# image and multi-arch index. Loopback registries are plain HTTP to it without being told.
# shellcheck source=tests/clients/lib.sh
source "$(dirname "$0")/lib.sh"

export DOCKER_HOST=unix://$scratch/docker.sock DOCKER_CONFIG=$scratch/config
export DOCKER_CLI_EXPERIMENTAL=enabled
mkdir -p "$DOCKER_CONFIG"
dockerd --host "$DOCKER_HOST" --data-root "$scratch/data" --exec-root "$scratch/exec" \
  --pidfile "$scratch/docker.pid" --bridge=none --iptables=false --ip6tables=false \
  --insecure-registry 127.0.0.0/8 >"$scratch/dockerd.log" 2>&1 &
engine=$!
stop() {
  kill "$engine" 2>/dev/null || true
  # It stops its own containerd first; not for ever.
  for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  umount "$scratch"/data/*/* "$scratch"/exec/* 2>/dev/null || true
}
for _ in $(seq 300); do
  docker version >/dev/null 2>&1 && break
  kill -0 "$engine" || { tail -20 "$scratch/dockerd.log" >&2; exit 1; }
  sleep 0.1
done

# pulled REFERENCE: the digest under which the engine keeps a pulled reference.
pulled() { docker image inspect --format '{{index .RepoDigests 0}}' "$1" | sed 's/.*@//'; }

skopeo copy --quiet --insecure-policy "oci:$IMAGES/layout:single" \
  "docker-archive:$scratch/image.tar:clients/docker:single"
docker load --quiet --input "$scratch/image.tar" >/dev/null
docker tag clients/docker:single "$NODE3/clients/docker:single"
docker push --quiet "$NODE3/clients/docker:single" >/dev/null
pushed=$(remote_digest "$NODE3" clients/docker single)
docker image rm --force clients/docker:single "$NODE3/clients/docker:single" >/dev/null
docker pull --quiet "$NODE2/clients/docker:single" >/dev/null
result image "$NODE3" "$NODE2" "$(pulled "$NODE2/clients/docker:single")" "$pushed"

docker manifest create --insecure "$NODE1/clients/docker:multi" "$NODE1/clients/docker:single" >/dev/null
pushed=$(docker manifest push --insecure "$NODE1/clients/docker:multi" | tail -1)
docker image rm --force "$NODE2/clients/docker:single" >/dev/null
docker pull --quiet "$NODE3/clients/docker:multi" >/dev/null
result index "$NODE1" "$NODE3" "$(pulled "$NODE3/clients/docker:multi")" "$pushed"
