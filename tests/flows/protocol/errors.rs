//! Bad input: the status, the code, a JSON body, and nothing changed.

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::fleet::{Member, Spec};
use clawhub_testkit::manifest::{self, Descriptor, Image};
use clawhub_testkit::oci::{expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, Repo};
use reqwest::{Method, StatusCode};
use serde_json::json;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A repository that exists, on a node that does not lead.
async fn repo(cluster: &Cluster, name: &str) -> Result<Repo> {
    let repo = cluster.follower().await?.registry().repo(name);
    repo.push_blob(manifest::CONFIG_BYTES).await?;
    Ok(repo)
}

fn image() -> Image {
    Image::new(&sha256(&manifest::CONFIG_BYTES), manifest::CONFIG_BYTES.len())
}

#[tokio::test]
async fn an_oversized_manifest_is_413() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/oversized").await?;
    let fill = |len: usize| image().annotation("fill", &"x".repeat(len)).bytes();
    let limit = 4 << 20;
    let overhead = fill(0).len();
    let answer = repo.put_manifest("big", manifest::OCI_MANIFEST, &fill(limit - overhead + 1)).await?;
    expect_error(answer, StatusCode::PAYLOAD_TOO_LARGE).await?;
    ensure!(repo.resolve("big").await?.is_none());
    let answer = repo.put_manifest("big", manifest::OCI_MANIFEST, &fill(limit - overhead)).await?;
    expect(answer, StatusCode::CREATED).await.context("exactly 4 MiB")?;
    Ok(())
}

#[tokio::test]
async fn manifests_that_are_none_are_manifest_invalid() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/manifests").await?;
    let schema1 = br#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[],"signatures":[]}"#;
    let none = |image: Image| image.field("mediaType", json!(null)).bytes();
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1.to_vec()),
        ("schema1 by its body", manifest::DOCKER_MANIFEST, schema1.to_vec()),
        ("unknown type", "application/x-tar", image().bytes()),
        ("unknown type in both", "text/plain", image().field("mediaType", json!("text/plain")).bytes()),
        ("no JSON", manifest::OCI_MANIFEST, b"{".to_vec()),
        ("empty", manifest::OCI_MANIFEST, Vec::new()),
        ("an array", manifest::OCI_MANIFEST, b"[]".to_vec()),
        ("types that differ", manifest::DOCKER_MANIFEST, image().bytes()),
        ("two shapes", manifest::OCI_MANIFEST, none(image().field("manifests", json!([])))),
        ("two shapes, typed", manifest::OCI_MANIFEST, image().field("manifests", json!([])).bytes()),
        ("no config", manifest::OCI_MANIFEST, image().field("config", json!(null)).bytes()),
        ("schema version 3", manifest::OCI_MANIFEST, image().field("schemaVersion", json!(3)).bytes()),
        ("layers of text", manifest::OCI_MANIFEST, image().field("layers", json!(["x"])).bytes()),
        ("an index without a list", manifest::OCI_INDEX, b"{\"schemaVersion\":2}".to_vec()),
    ];
    for (what, media_type, bytes) in cases {
        let answer = repo.put_manifest("bad", media_type, &bytes).await?;
        let codes = expect_error(answer, StatusCode::BAD_REQUEST).await.context(what)?;
        ensure!(codes == ["MANIFEST_INVALID"], "{what}: {codes:?}");
        ensure!(repo.resolve("bad").await?.is_none(), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn every_missing_reference_has_an_error_of_its_own() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/missing").await?;
    let missing: Vec<_> = (0..3).map(|i| sha256(format!("missing {i}").as_bytes())).collect();
    let image = missing.iter().fold(image(), |image, digest| image.layer(digest, 9));
    let answer = repo.put_manifest("bad", manifest::OCI_MANIFEST, &image.bytes()).await?;
    let codes = expect_error(answer, StatusCode::BAD_REQUEST).await?;
    ensure!(codes == ["MANIFEST_BLOB_UNKNOWN"; 3], "{codes:?}");
    let child = Descriptor::new(manifest::OCI_MANIFEST, &missing[0], 9);
    let answer = repo.put_manifest("bad", manifest::OCI_INDEX, &manifest::index(&[(child, None)])).await?;
    let codes = expect_error(answer, StatusCode::BAD_REQUEST).await?;
    ensure!(codes == ["MANIFEST_BLOB_UNKNOWN"], "{codes:?}");
    Ok(())
}

#[tokio::test]
async fn digests_that_are_none_are_digest_invalid() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/digests").await?;
    let upper = SHA.to_uppercase().replace("SHA256", "sha256");
    let bad = ["sha256:abc", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &upper, &SHA[..70]];
    for digest in bad {
        for path in [format!("blobs/{digest}"), format!("manifests/{digest}"), format!("referrers/{digest}")]
        {
            let answer = repo.registry.get(&repo.path(&path)).await?;
            let codes = expect_error(answer, StatusCode::BAD_REQUEST).await.context(path.clone())?;
            ensure!(codes == ["DIGEST_INVALID"], "{path}: {codes:?}");
        }
        let answer = repo.put_manifest(digest, manifest::OCI_MANIFEST, &image().bytes()).await?;
        ensure!(expect_error(answer, StatusCode::BAD_REQUEST).await? == ["DIGEST_INVALID"], "{digest}");
    }
    let answer = repo.put_manifest(SHA, manifest::OCI_MANIFEST, &image().bytes()).await?;
    ensure!(expect_error(answer, StatusCode::BAD_REQUEST).await? == ["DIGEST_INVALID"], "another digest");
    Ok(())
}

#[tokio::test]
async fn names_that_are_none_are_name_invalid() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let node = cluster.follower().await?.registry();
    let long = "a".repeat(256);
    for name in ["Upper", "a..b", "a___b", "-a", "a-", "a/-b", "%61%2e%2e", "a%20b", long.as_str()] {
        for (method, rest) in [
            (Method::GET, "tags/list"),
            (Method::GET, "manifests/v1"),
            (Method::PUT, "manifests/v1"),
            (Method::POST, "blobs/uploads/"),
            (Method::GET, &format!("blobs/{SHA}")),
        ] {
            let answer = node.request(method.clone(), &format!("/v2/{name}/{rest}")).send().await?;
            let codes = expect_error(answer, StatusCode::BAD_REQUEST).await;
            let codes = codes.with_context(|| format!("{method} {name} {rest}"))?;
            ensure!(codes == ["NAME_INVALID"], "{method} {name} {rest}: {codes:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn tags_that_are_none_are_refused() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/tags").await?;
    for tag in [".a", "-a", "a%20b", "a+b", &"t".repeat(129)] {
        let answer = repo.put_manifest(tag, manifest::OCI_MANIFEST, &image().bytes()).await?;
        ensure!(answer.status() == StatusCode::BAD_REQUEST, "{tag}: {}", answer.status());
        expect_error(answer, StatusCode::BAD_REQUEST).await?;
    }
    ensure!(repo.tags().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn page_sizes_that_are_none_are_refused() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/pages").await?;
    for n in ["-1", "x", "1.5", "1e3", "0x10"] {
        for path in [repo.path(&format!("tags/list?n={n}")), format!("/v2/_catalog?n={n}")] {
            let answer = repo.registry.get(&path).await?;
            expect_error(answer, StatusCode::BAD_REQUEST).await.context(path)?;
        }
    }
    // Large is not wrong.
    expect(repo.registry.get(&repo.path("tags/list?n=1000000")).await?, StatusCode::OK).await?;
    Ok(())
}

#[tokio::test]
async fn unknown_things_are_404_with_their_code() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/unknown").await?;
    let missing = sha256(b"never pushed");
    let cases = [
        ("blobs", format!("blobs/{missing}"), "BLOB_UNKNOWN"),
        ("manifest by tag", "manifests/none".to_owned(), "MANIFEST_UNKNOWN"),
        ("manifest by digest", format!("manifests/{missing}"), "MANIFEST_UNKNOWN"),
        ("upload", "blobs/uploads/1-00000000000000000000000000000000".to_owned(), "BLOB_UPLOAD_UNKNOWN"),
        ("upload of no form", "blobs/uploads/nothing".to_owned(), "BLOB_UPLOAD_UNKNOWN"),
    ];
    for (what, path, code) in cases {
        let answer = repo.registry.get(&repo.path(&path)).await?;
        ensure!(expect_error(answer, StatusCode::NOT_FOUND).await.context(what)? == [code], "{what}");
    }
    for path in [format!("blobs/{missing}"), "manifests/none".to_owned()] {
        let answer = repo.registry.head(&repo.path(&path)).await?;
        ensure!(answer.status() == StatusCode::NOT_FOUND && answer.bytes().await?.is_empty(), "HEAD {path}");
        expect_error(repo.registry.delete(&repo.path(&path)).await?, StatusCode::NOT_FOUND).await?;
    }
    // No such route, no such method: still JSON, still alive.
    for path in ["/v2/errors/unknown/nothing/here", "/v2/errors/unknown/blobs/", "/v2/_unknown/x"] {
        let answer = repo.registry.get(path).await?;
        let status = answer.status();
        ensure!(status.is_client_error(), "{path}: {status}");
        expect_error(answer, status).await.context(path)?;
    }
    let answer = repo.registry.request(Method::POST, &repo.path("manifests/v1")).send().await?;
    ensure!(expect_error(answer, StatusCode::METHOD_NOT_ALLOWED).await? == ["UNSUPPORTED"]);
    Ok(())
}

#[tokio::test]
async fn a_blob_that_a_manifest_needs_stays() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/needed").await?;
    let layer = repo.push_blob(Rng::new(1).bytes(1000)).await?;
    let image = image().layer(&layer, 1000).bytes();
    let pushed = repo.push_manifest("v1", manifest::OCI_MANIFEST, &image).await?;
    let path = repo.path(&format!("blobs/{layer}"));
    let answer = repo.registry.delete(&path).await?;
    expect_error(answer, StatusCode::METHOD_NOT_ALLOWED).await?;
    repo.pull_image("v1").await?;
    let manifest = repo.path(&format!("manifests/{}", pushed.digest));
    expect(repo.registry.delete(&manifest).await?, StatusCode::ACCEPTED).await?;
    expect(repo.registry.delete(&path).await?, StatusCode::ACCEPTED).await?;
    // HEAD is linearizable; a GET by digest may see the deletion a moment later.
    ensure!(repo.registry.head(&path).await?.status() == StatusCode::NOT_FOUND, "HEAD after DELETE");
    Ok(())
}

#[tokio::test]
async fn every_answer_names_the_api_and_is_not_compressed() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let repo = repo(&cluster, "errors/headers").await?;
    for path in ["/v2/", "/v2", &repo.path("tags/list"), &repo.path("manifests/none"), "/v2/A/tags/list"] {
        let request = repo.registry.request(Method::GET, path).header("accept-encoding", "gzip, zstd");
        let answer = request.send().await?;
        let version = header(&answer, "docker-distribution-api-version");
        ensure!(version.as_deref() == Some("registry/2.0"), "{path}: {version:?}");
        ensure!(header(&answer, "content-encoding").is_none(), "{path}");
    }
    Ok(())
}

async fn pushes_and_pulls(node: &Registry, name: &str) -> Result<()> {
    let repo = node.repo(name);
    repo.push_image("v1", &[Rng::new(7).bytes(100_000).into()]).await?;
    repo.pull_image("v1").await?;
    Ok(())
}

/// With the configuration that its spec asks for now.
async fn start_again(node: &mut Member) -> Result<()> {
    node.stop();
    node.configure()?;
    node.start().await?;
    node.ready().await
}

#[tokio::test]
async fn without_space_uploads_are_507_and_everything_else_goes_on() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut node = Member::new(home.path(), Spec::alone("full"))?;
    node.start().await?;
    node.init().await?;
    let registry = node.registry();
    pushes_and_pulls(&registry, "errors/space").await?;
    let sections = std::mem::replace(&mut node.spec.sections, "[storage]\nmin_free = \"1000TiB\"\n".into());
    start_again(&mut node).await?;
    let repo = registry.repo("errors/space");
    let answer = registry.request(Method::POST, &repo.path("blobs/uploads/")).send().await?;
    let status = answer.status();
    let refused = if status == StatusCode::ACCEPTED {
        // An upload may open; then its bytes are refused.
        let upload = clawhub_testkit::oci::Upload::of(&answer)?;
        upload.patch(&registry, None, bytes::Bytes::from_static(b"no room")).await?
    } else {
        answer
    };
    expect_error(refused, StatusCode::INSUFFICIENT_STORAGE).await?;
    repo.pull_image("v1").await?;
    let (_, bytes) = repo.pull_manifest("v1").await?;
    repo.push_manifest("v2", manifest::OCI_MANIFEST, &bytes).await.context("a tag needs no space")?;
    let answer = registry.delete(&repo.path("manifests/v1")).await?;
    expect(answer, StatusCode::ACCEPTED).await?;
    node.spec.sections = sections;
    start_again(&mut node).await?;
    pushes_and_pulls(&registry, "errors/space-again").await
}
