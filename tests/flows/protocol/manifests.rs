//! Manifests: stored to the byte, served as they were pushed, never converted.

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::{Rng, sha256, sha512};
use clawhub_testkit::manifest::{self, Descriptor, Image};
use clawhub_testkit::oci::{expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, Repo};
use clawhub_types::Digest;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
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

/// As many as a build tool made of a data set, each a layer of its own.
#[tokio::test]
async fn a_manifest_has_as_many_layers_as_fit_its_size() -> Result<()> {
    const LAYERS: usize = 1391;
    let (_cluster, repo, nodes) = setup("manifests/many").await?;
    let layer = |n: usize| format!("layer {n}").into_bytes();
    let pushes = (0..LAYERS).map(|n| {
        let there = repo.on(&nodes[n % nodes.len()]);
        async move { there.push_blob(layer(n)).await }
    });
    let digests: Vec<Digest> = stream::iter(pushes).buffered(24).try_collect().await?;
    let many =
        digests.iter().enumerate().fold(image(), |image, (n, digest)| image.layer(digest, layer(n).len()));
    let many = many.bytes();
    let pushed = repo.push_manifest("many", manifest::OCI_MANIFEST, &many).await?;
    for node in &nodes {
        ensure!(repo.on(node).pull_manifest("many").await?.1 == many);
        // The first and the last are held alike.
        for digest in [&digests[0], &digests[LAYERS - 1]] {
            let answer = node.delete(&repo.path(&format!("blobs/{digest}"))).await?;
            ensure!(expect_error(answer, StatusCode::METHOD_NOT_ALLOWED).await? == ["UNSUPPORTED"]);
        }
    }
    // One that lacks is named, wherever it stands.
    let absent = sha256(b"absent");
    let lacking = digests.iter().enumerate().fold(image(), |image, (n, digest)| image.layer(digest, n));
    let answer =
        repo.put_manifest("lacking", manifest::OCI_MANIFEST, &lacking.layer(&absent, 1).bytes()).await?;
    ensure!(expect_error(answer, StatusCode::BAD_REQUEST).await? == ["MANIFEST_BLOB_UNKNOWN"]);
    expect(nodes[1].delete(&repo.path(&format!("manifests/{}", pushed.digest))).await?, StatusCode::ACCEPTED)
        .await?;
    for digest in [&digests[0], &digests[LAYERS - 1]] {
        expect(nodes[2].delete(&repo.path(&format!("blobs/{digest}"))).await?, StatusCode::ACCEPTED).await?;
    }
    Ok(())
}

/// Nearly 4 MiB of layers that are elsewhere, so that none need be here.
#[tokio::test]
async fn a_manifest_full_of_references_is_taken() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/full").await?;
    let layer =
        |n: usize| json!({ "digest": sha256(&n.to_be_bytes()).to_string(), "urls": ["https://a.b/"] });
    let layers: Vec<_> = (0..38_000).map(layer).collect();
    let full = image().field("layers", json!(layers)).bytes();
    ensure!((4_000_000..4 << 20).contains(&full.len()), "{} bytes", full.len());
    let pushed = repo.push_manifest("full", manifest::OCI_MANIFEST, &full).await?;
    for node in &nodes {
        ensure!(repo.on(node).pull_manifest("full").await?.1 == full);
    }
    repo.push_manifest("again", manifest::OCI_MANIFEST, &full).await?;
    let path = repo.path(&format!("manifests/{}", pushed.digest));
    expect(nodes[1].delete(&path).await?, StatusCode::ACCEPTED).await?;
    repo.push_manifest("full", manifest::OCI_MANIFEST, &full).await?;
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
async fn null_is_absent_and_bytes_stay_as_they_are() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/null").await?;
    let layer = Rng::new(2).bytes(1000);
    let digest = repo.push_blob(layer.clone()).await?;
    let child = repo.push_manifest("child", manifest::OCI_MANIFEST, &image().bytes()).await?;
    let with = |mut descriptor: serde_json::Value| {
        for field in ["urls", "annotations", "platform", "data", "artifactType"] {
            descriptor[field] = json!(null);
        }
        descriptor
    };
    let config = with(Descriptor::new(manifest::OCI_CONFIG, &sha256(&manifest::CONFIG_BYTES), 0).json());
    let layer = with(Descriptor::new(manifest::OCI_LAYER, &digest, layer.len()).json());
    let mut unsized_layer = layer.clone();
    unsized_layer["size"] = json!(null);
    let index =
        |manifests| json!({ "schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": manifests });
    let image = |layers: serde_json::Value| {
        json!({ "schemaVersion": 2, "mediaType": manifest::OCI_MANIFEST, "config": config, "layers": layers,
                "manifests": null, "subject": null, "artifactType": null, "annotations": { "key": null } })
    };
    let cases = [
        ("urls", manifest::OCI_MANIFEST, image(json!([layer]))),
        ("size", manifest::OCI_MANIFEST, image(json!([unsized_layer]))),
        ("layers", manifest::OCI_MANIFEST, image(json!(null))),
        ("child", manifest::OCI_INDEX, index(json!([with(child.json())]))),
        ("empty", manifest::OCI_INDEX, index(json!(null))),
    ];
    for (tag, media_type, document) in cases {
        let bytes = document.to_string().into_bytes();
        repo.push_manifest(tag, media_type, &bytes).await.context(tag)?;
        for node in &nodes {
            ensure!(repo.on(node).pull_manifest(tag).await?.1 == bytes, "{tag}");
        }
    }
    // The layers are held: nothing was taken for a layer from elsewhere.
    let answer = repo.registry.delete(&repo.path(&format!("blobs/{digest}"))).await?;
    ensure!(expect_error(answer, StatusCode::METHOD_NOT_ALLOWED).await? == ["UNSUPPORTED"]);
    Ok(())
}

#[tokio::test]
async fn a_layer_with_addresses_that_is_here_is_held() -> Result<()> {
    let (_cluster, repo, _) = setup("manifests/pushed-foreign").await?;
    let layer = Rng::new(3).bytes(1000);
    let digest = repo.push_blob(layer.clone()).await?;
    let foreign = |digest: &Digest| {
        let mut layer = Descriptor::new(manifest::OCI_LAYER, digest, 1000).json();
        layer["urls"] = json!(["https://example.com/layer"]);
        layer
    };
    let bytes = image().field("layers", json!([foreign(&digest), foreign(&sha256(b"absent"))])).bytes();
    let pushed = repo.push_manifest("windows", manifest::OCI_MANIFEST, &bytes).await?;
    let path = repo.path(&format!("blobs/{digest}"));
    let answer = repo.registry.delete(&path).await?;
    ensure!(expect_error(answer, StatusCode::METHOD_NOT_ALLOWED).await? == ["UNSUPPORTED"]);
    ensure!(repo.pull_blob(&digest).await? == layer);
    // Until the manifest goes.
    let manifest = repo.path(&format!("manifests/{}", pushed.digest));
    expect(repo.registry.delete(&manifest).await?, StatusCode::ACCEPTED).await?;
    expect(repo.registry.delete(&path).await?, StatusCode::ACCEPTED).await?;
    Ok(())
}

#[tokio::test]
async fn an_index_outlives_its_children_and_says_which_one_lacks() -> Result<()> {
    let (_cluster, repo, nodes) = setup("manifests/deleted-child").await?;
    let children = [image().annotation("n", "1").bytes(), image().annotation("n", "2").bytes()];
    let mut pushed = Vec::new();
    for child in &children {
        pushed.push((
            repo.push_manifest(&sha256(child).to_string(), manifest::OCI_MANIFEST, child).await?,
            None,
        ));
    }
    let index = manifest::index(&pushed);
    repo.push_manifest("v1", manifest::OCI_INDEX, &index).await?;
    let gone = pushed[0].0.digest.to_string();
    let path = repo.path(&format!("manifests/{gone}"));
    expect(repo.registry.delete(&path).await?, StatusCode::ACCEPTED).await?;
    for node in &nodes {
        let there = repo.on(node);
        ensure!(there.pull_manifest("v1").await?.1 == index, "the index is as it was");
        there.pull_image(&pushed[1].0.digest.to_string()).await?;
        let answer = expect(node.get(&path).await?, StatusCode::NOT_FOUND).await?;
        let body: serde_json::Value = answer.json().await?;
        ensure!(
            body["errors"][0]["code"] == "MANIFEST_UNKNOWN" && body["errors"][0]["detail"]["digest"] == gone
        );
    }
    // The same index again is refused and says so too, until the child is back.
    let answer = repo.put_manifest("v2", manifest::OCI_INDEX, &index).await?;
    let answer = expect(answer, StatusCode::BAD_REQUEST).await?;
    let body: serde_json::Value = answer.json().await?;
    ensure!(body["errors"][0]["detail"]["digest"] == gone, "{body}");
    repo.push_manifest(&gone, manifest::OCI_MANIFEST, &children[0]).await?;
    repo.push_manifest("v2", manifest::OCI_INDEX, &index).await?;
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
