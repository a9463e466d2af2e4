"""Pushes an artifact and two referrers through one node with the oras library, and reads them back through
another. Arguments: the node to push to, the node to pull from. Prints what it pushed and what it got."""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

import oras.oci
import oras.provider

ARTIFACT = "application/vnd.clawhub.test.report"
NAME = "clients/oras"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main() -> None:
    pushing, pulling = sys.argv[1:]
    os.chdir(tempfile.mkdtemp(dir=os.environ["SCRATCH"]))
    pathlib.Path("report.json").write_text('{"findings": []}')
    registry = oras.provider.Registry(hostname=pushing, insecure=True)
    answer = registry.push(f"{pushing}/{NAME}:v1", files=[f"report.json:{ARTIFACT}"], quiet=True)
    pushed = answer.headers["Docker-Content-Digest"]

    other = oras.provider.Registry(hostname=pulling, insecure=True)
    files = other.pull(f"{pulling}/{NAME}:v1", outdir="pulled")
    same = pathlib.Path(files[0]).read_bytes() == pathlib.Path("report.json").read_bytes()
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = other.do_request(f"http://{pulling}/v2/{NAME}/manifests/v1", headers=accept)
    print("artifact", digest(manifest.content) if same else "other-bytes", pushed, flush=True)

    subject = oras.oci.Subject.from_manifest(other.get_manifest(f"{pulling}/{NAME}:v1"))
    # The library serialises what it read; the subject is the manifest as it stands in the registry.
    subject.digest, subject.size = pushed, len(manifest.content)
    wanted = []
    for kind in ("sbom", "signature"):
        pathlib.Path(kind).write_text(kind)
        answer = registry.push(
            f"{pushing}/{NAME}:{kind}", files=[f"{kind}:{ARTIFACT}.{kind}"], subject=subject, quiet=True
        )
        wanted.append(answer.headers["Docker-Content-Digest"])
    answer = other.do_request(f"http://{pulling}/v2/{NAME}/referrers/{pushed}")
    index = json.loads(answer.content) if answer.status_code == 200 else {"manifests": []}
    found = sorted(entry["digest"] for entry in index["manifests"])
    print("referrers", ",".join(found) or f"status-{answer.status_code}", ",".join(sorted(wanted)))


main()
