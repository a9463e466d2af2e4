//! Manifests: stored to the byte, served as they were pushed, never converted.

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::{Rng, sha256, sha512};
use clawhub_testkit::manifest::{self, Descriptor, Image};
use clawhub_testkit::oci::{expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, Repo};
use reqwest::{Method, StatusCode};
use serde_json::json;

async fn setup(name: &str) -> Result<(std::sync::Arc<Cluster>, Repo, Vec<Registry>)> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo(name);
    repo.push_blob(manifest::CONFIG_BYTES).await?;
    Ok((cluster, repo, nodes))
}

fn image() -> Image {
    Image::new(&sha256(&manifest::CONFIG_BYTES), manifest::CONFIG_BYTES.len())
}

#[tokio::test]
async fn bytes_and_type_come_back_as_they_were_pushed() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/verbatim").await?;
    let docker = image().field("mediaType", json!(manifest::DOCKER_MANIFEST));
    let untyped = |image: Image| image.field("mediaType", json!(null)).bytes();
    let mut spaced = b"\n  ".to_vec();
    spaced.extend(image().field("unknown", json!({"kept": [1, null, "ü"]})).bytes());
    spaced.extend(b"\n\n");
    let cases = [
        ("plain", manifest::OCI_MANIFEST, image().bytes()),
        ("spaced", manifest::OCI_MANIFEST, spaced),
        ("docker", manifest::DOCKER_MANIFEST, docker.bytes()),
        ("untyped", manifest::OCI_MANIFEST, untyped(image())),
        ("index", manifest::OCI_INDEX, manifest::index(&[])),
        ("data", manifest::OCI_MANIFEST, image().annotation("x", &"y".repeat(100_000)).bytes()),
    ];
    for (tag, media_type, bytes) in cases {
        let with_parameter = format!("{media_type}; charset=utf-8");
        let answer = repo.put_manifest(tag, &with_parameter, &bytes).await?;
        expect(answer, StatusCode::CREATED).await.context(tag)?;
        for node in &nodes {
            // A client that lists other types gets what there is.
            let request = node.request(Method::GET, &repo.path(&format!("manifests/{tag}")));
            let answer = expect(request.header("accept", "text/plain").send().await?, StatusCode::OK).await?;
            ensure!(header(&answer, "content-type").as_deref() == Some(media_type), "{tag}");
            ensure!(header(&answer, "etag") == Some(format!("\"{}\"", sha256(&bytes))), "{tag}");
            ensure!(answer.bytes().await? == bytes, "{tag}");
            let answer = node.head(&repo.path(&format!("manifests/{tag}"))).await?;
            ensure!(header(&answer, "content-length") == Some(bytes.len().to_string()), "HEAD {tag}");
            ensure!(header(&answer, "content-type").as_deref() == Some(media_type), "HEAD {tag}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_large_manifest_is_served_by_every_node() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/large").await?;
    let bytes = image().annotation("fill", &"x".repeat(3_900_000)).bytes();
    let pushed = repo.push_manifest("large", manifest::OCI_MANIFEST, &bytes).await?;
    for node in &nodes {
        ensure!(repo.on(node).pull_manifest("large").await?.1 == bytes);
        ensure!(repo.on(node).pull_manifest(&pushed.digest.to_string()).await?.1 == bytes);
    }
    Ok(())
}

#[tokio::test]
async fn an_index_names_manifests_and_blobs() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/index").await?;
    let child = repo.push_manifest("child", manifest::OCI_MANIFEST, &image().bytes()).await?;
    let cache = Rng::new(1).bytes(5000);
    let blob = Descriptor::new(manifest::OCI_LAYER, &repo.push_blob(cache.clone()).await?, cache.len());
    let index = manifest::index(&[(child.clone(), Some("linux/amd64")), (blob, None)]);
    let inner = repo.push_manifest("index", manifest::OCI_INDEX, &index).await?;
    let outer = manifest::index(&[(inner.clone(), None)]);
    repo.on(&nodes[nodes.len() - 1]).push_manifest("nested", manifest::OCI_INDEX, &outer).await?;
    for node in &nodes {
        let there = repo.on(node);
        ensure!(there.pull_manifest("nested").await?.1 == outer);
        ensure!(there.pull_manifest(&inner.digest.to_string()).await?.1 == index);
        ensure!(there.pull_image(&child.digest.to_string()).await? == child.digest);
    }
    Ok(())
}

#[tokio::test]
async fn what_need_not_be_there_need_not_be_there() -> Result<()> {
    let (_cluster, repo, _) = setup("manifests/absent").await?;
    let elsewhere = sha256(b"somewhere else");
    let foreign = json!([{
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": elsewhere.to_string(), "size": 9, "urls": ["https://example.com/layer"],
    }]);
    let missing = Descriptor::new(manifest::OCI_MANIFEST, &sha256(b"not yet"), 7);
    let cases = [
        ("foreign", image().field("layers", foreign)),
        ("subject", image().subject(&missing)),
        ("no-layers", image()),
    ];
    for (tag, image) in cases {
        let answer = repo.put_manifest(tag, manifest::OCI_MANIFEST, &image.bytes()).await?;
        let answer = expect(answer, StatusCode::CREATED).await.context(tag)?;
        let subject = (tag == "subject").then(|| missing.digest.to_string());
        ensure!(header(&answer, "oci-subject") == subject, "{tag}");
    }
    let empty = repo.push_blob("").await?;
    let image = image().layer(&empty, 0).bytes();
    repo.push_manifest("empty-layer", manifest::OCI_MANIFEST, &image).await?;
    Ok(())
}

#[tokio::test]
async fn one_push_may_set_many_tags() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/tags").await?;
    let bytes = image().annotation("n", "1").bytes();
    let digest = sha256(&bytes);
    let tags: Vec<String> = (0..12).map(|i| format!("tag-{i:02}")).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let reference = format!("{digest}?{}", query.join("&"));
    let answer = repo.put_manifest(&reference, manifest::OCI_MANIFEST, &bytes).await?;
    let answer = expect(answer, StatusCode::CREATED).await?;
    let told = answer.headers().get_all("oci-tag").iter().filter_map(|value| value.to_str().ok());
    let mut told: Vec<&str> = told.flat_map(|value| value.split(',')).map(str::trim).collect();
    told.sort_unstable();
    ensure!(told == tags, "{told:?}");
    for node in &nodes {
        ensure!(repo.on(node).tags().await? == tags);
        ensure!(repo.on(node).resolve("tag-07").await? == Some(digest.clone()));
    }
    let bad = format!("{digest}?tag=good&tag=.bad");
    let answer = repo.put_manifest(&bad, manifest::OCI_MANIFEST, &bytes).await?;
    expect_error(answer, StatusCode::BAD_REQUEST).await?;
    ensure!(repo.resolve("good").await?.is_none(), "all tags or none");
    Ok(())
}

#[tokio::test]
async fn algorithms_are_separate_entries() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/algorithms").await?;
    let bytes = image().annotation("n", "2").bytes();
    let (short, long) = (sha256(&bytes), sha512(&bytes));
    let answer = repo.put_manifest(&long.to_string(), manifest::OCI_MANIFEST, &bytes).await?;
    let answer = expect(answer, StatusCode::CREATED).await?;
    ensure!(header(&answer, "docker-content-digest") == Some(long.to_string()));
    for node in &nodes {
        ensure!(repo.on(node).pull_manifest(&long.to_string()).await?.1 == bytes);
    }
    repo.push_manifest("v1", manifest::OCI_MANIFEST, &bytes).await?;
    for node in &nodes {
        ensure!(repo.on(node).resolve("v1").await? == Some(short.clone()), "a push by tag is sha256");
        ensure!(repo.on(node).resolve(&long.to_string()).await? == Some(long.clone()));
    }
    Ok(())
}

#[tokio::test]
async fn a_tag_that_looks_like_a_digest_is_a_tag() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/lookalike").await?;
    let one =
        repo.push_manifest("one", manifest::OCI_MANIFEST, &image().annotation("n", "3").bytes()).await?;
    let alias = format!("sha256-{}", one.digest.hex());
    ensure!(repo.resolve(&alias).await?.is_none(), "no alias of the digest");
    let bytes = image().annotation("n", "4").bytes();
    let other = repo.push_manifest(&alias, manifest::OCI_MANIFEST, &bytes).await?;
    for node in &nodes {
        ensure!(repo.on(node).resolve(&alias).await? == Some(other.digest.clone()));
    }
    Ok(())
}

#[tokio::test]
async fn a_known_manifest_is_not_sent_again() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/cached").await?;
    let pushed = repo.push_manifest("v1", manifest::OCI_MANIFEST, &image().bytes()).await?;
    for node in &nodes {
        for tag in [format!("\"{}\"", pushed.digest), "*".to_owned(), format!("W/\"{}\"", pushed.digest)] {
            let request = node.request(Method::GET, &repo.path("manifests/v1"));
            let answer = request.header("if-none-match", &tag).send().await?;
            ensure!(answer.status() == StatusCode::NOT_MODIFIED, "{tag}: {}", answer.status());
            ensure!(answer.bytes().await?.is_empty());
        }
        let request = node.request(Method::GET, &repo.path("manifests/v1"));
        let answer = request.header("if-none-match", "\"sha256:other\"").send().await?;
        expect(answer, StatusCode::OK).await?;
    }
    Ok(())
}
