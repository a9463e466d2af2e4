//! What one node took, every other node serves at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::{Rng, sha512};
use clawhub_testkit::oci::{Upload, expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, manifest, until};
use reqwest::{Method, StatusCode};

fn layers(seed: u64) -> Vec<Bytes> {
    let mut rng = Rng::new(seed);
    // Below, at and above the 64 KiB group, and a few groups with a short last one.
    [1, 65_536, 65_537, 1_500_000].map(|len| Bytes::from(rng.bytes(len))).to_vec()
}

#[tokio::test]
async fn an_image_pushed_to_any_node_is_on_every_node_at_once() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    for (i, node) in nodes.iter().enumerate() {
        let repo = node.repo(&format!("pushpull/image-{i}"));
        let pushed = repo.push_image("v1", &layers(i as u64)).await?;
        for other in &nodes {
            let there = repo.on(other);
            ensure!(there.resolve("v1").await? == Some(pushed.digest.clone()), "HEAD by tag");
            ensure!(there.pull_image("v1").await? == pushed.digest, "pull by tag");
            ensure!(there.pull_image(&pushed.digest.to_string()).await? == pushed.digest, "by digest");
            ensure!(there.tags().await? == ["v1"], "tags");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_tag_moves_and_goes_on_every_node_at_once() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("pushpull/moving");
    let first = repo.push_image("latest", &layers(10)).await?;
    let second = repo.on(&nodes[1 % nodes.len()]).push_image("latest", &layers(11)).await?;
    for node in &nodes {
        ensure!(repo.on(node).resolve("latest").await? == Some(second.digest.clone()), "moved");
    }
    let last = repo.on(&nodes[nodes.len() - 1]);
    let answer = last.registry.delete(&last.path("manifests/latest")).await?;
    expect(answer, StatusCode::ACCEPTED).await?;
    for node in &nodes {
        let there = repo.on(node);
        ensure!(there.resolve("latest").await?.is_none(), "the tag is gone");
        // A tag is a name: what it named stays.
        ensure!(there.resolve(&first.digest.to_string()).await?.is_some(), "by digest");
        ensure!(there.tags().await?.is_empty(), "an existing, empty repository lists no tags");
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_manifest_takes_its_tags_along_on_every_node() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("pushpull/deleted");
    let pushed = repo.push_image("a", &layers(20)).await?;
    let (_, bytes) = repo.pull_manifest("a").await?;
    repo.push_manifest("b", manifest::OCI_MANIFEST, &bytes).await?;
    let path = repo.path(&format!("manifests/{}", pushed.digest));
    expect(nodes[nodes.len() - 1].delete(&path).await?, StatusCode::ACCEPTED).await?;
    for node in &nodes {
        for tag in ["a", "b"] {
            let answer = node.get(&repo.path(&format!("manifests/{tag}"))).await?;
            let codes = expect_error(answer, StatusCode::NOT_FOUND).await?;
            ensure!(codes == ["MANIFEST_UNKNOWN"], "{codes:?}");
        }
        ensure!(repo.on(node).resolve(&pushed.digest.to_string()).await?.is_none(), "HEAD by digest");
        // A GET by digest of what a node holds takes no barrier: the deletion reaches it within its lag.
        until("GET by digest to end", Duration::from_secs(5), || async {
            Ok((node.get(&path).await?.status() == StatusCode::NOT_FOUND).then_some(()))
        })
        .await?;
        expect(node.delete(&path).await?, StatusCode::NOT_FOUND).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_blob_is_mounted_where_it_is_and_uploaded_where_it_is_not() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let source = nodes[0].repo("pushpull/mount-from");
    let bytes = Rng::new(30).bytes(200_000);
    let digest = source.push_blob(bytes.clone()).await?;
    let target = nodes[1 % nodes.len()].repo("pushpull/mount-to");
    let mount = |from: &str| {
        let path = target.path(&format!("blobs/uploads/?mount={digest}&from={from}"));
        target.registry.request(Method::POST, &path).send()
    };
    let answer = expect(mount("pushpull/not-there").await?, StatusCode::ACCEPTED).await?;
    ensure!(Upload::of(&answer)?.location.contains("/blobs/uploads/"), "an upload instead");
    let answer = expect(mount("Not A Name").await?, StatusCode::ACCEPTED).await?;
    Upload::of(&answer)?;
    let answer = expect(mount("pushpull/mount-from").await?, StatusCode::CREATED).await?;
    ensure!(header(&answer, "docker-content-digest") == Some(digest.to_string()), "the digest");
    for node in &nodes {
        ensure!(target.on(node).pull_blob(&digest).await? == bytes, "the mounted blob");
    }
    Ok(())
}

#[tokio::test]
async fn a_blob_is_seen_only_in_its_repository() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let digest = nodes[0].repo("pushpull/mine").push_blob(Rng::new(40).bytes(100)).await?;
    nodes[0].repo("pushpull/other").push_blob("another").await?;
    for node in &nodes {
        let answer = node.get(&format!("/v2/pushpull/other/blobs/{digest}")).await?;
        ensure!(expect_error(answer, StatusCode::NOT_FOUND).await? == ["BLOB_UNKNOWN"]);
    }
    Ok(())
}

#[tokio::test]
async fn sha512_names_the_same_bytes_on_every_node() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("pushpull/sha512");
    let bytes = Bytes::from(Rng::new(50).bytes(300_000));
    let digest = sha512(&bytes);
    let upload = repo.open().await?;
    let answer = upload.put(&nodes[1 % nodes.len()], &digest, bytes.clone()).await?;
    let answer = expect(answer, StatusCode::CREATED).await?;
    ensure!(header(&answer, "docker-content-digest") == Some(digest.to_string()));
    for node in &nodes {
        ensure!(repo.on(node).pull_blob(&digest).await? == bytes);
    }
    let config = repo.push_blob(manifest::CONFIG_BYTES).await?;
    let image = manifest::Image::new(&config, manifest::CONFIG_BYTES.len());
    let image = image.layer(&digest, bytes.len()).bytes();
    let name = sha512(&image);
    let put = format!("{name}?tag=v1");
    let answer = expect(repo.put_manifest(&put, manifest::OCI_MANIFEST, &image).await?, StatusCode::CREATED);
    ensure!(header(&answer.await?, "docker-content-digest") == Some(name.to_string()));
    for node in &nodes {
        ensure!(repo.on(node).resolve("v1").await? == Some(name.clone()), "the tag keeps the algorithm");
        ensure!(repo.on(node).pull_manifest(&name.to_string()).await?.1 == image);
    }
    Ok(())
}

/// All pages of a list, following the one link of each.
async fn pages(node: &Registry, first: &str, key: &str) -> Result<Vec<Vec<String>>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next.take() {
        ensure!(pages.len() < 50, "the links go round in circles");
        let answer = expect(node.get(&path).await?, StatusCode::OK).await?;
        if let Some(link) = header(&answer, "link") {
            let (url, rel) = link.split_once('>').unwrap_or_default();
            ensure!(rel == "; rel=\"next\"" && url.starts_with("</v2/"), "{link}");
            next = Some(url[1..].to_owned());
        }
        let value: serde_json::Value = answer.json().await?;
        pages.push(serde_json::from_value(value[key].clone())?);
    }
    Ok(pages)
}

#[tokio::test]
async fn lists_are_sorted_by_bytes_and_come_in_pages() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("pushpull/lists/deep");
    repo.push_image("seed", &layers(60)).await?;
    let (_, bytes) = repo.pull_manifest("seed").await?;
    for tag in ["b", "B", "_x", "a", "a.1", "a-1", "Z9"] {
        repo.push_manifest(tag, manifest::OCI_MANIFEST, &bytes).await?;
    }
    let all = ["B", "Z9", "_x", "a", "a-1", "a.1", "b", "seed"];
    for node in &nodes {
        ensure!(pages(node, &repo.path("tags/list"), "tags").await? == [all]);
        let paged = pages(node, &repo.path("tags/list?n=3"), "tags").await?;
        ensure!(paged == [&all[..3], &all[3..6], &all[6..]], "{paged:?}");
        // `last` need not exist, `n=0` is an empty list without a link.
        ensure!(pages(node, &repo.path("tags/list?last=aa"), "tags").await? == [&all[6..]]);
        ensure!(pages(node, &repo.path("tags/list?n=0"), "tags").await? == [Vec::<String>::new()]);
        let repos: Vec<String> = pages(node, "/v2/_catalog?n=2", "repositories").await?.concat();
        ensure!(repos.is_sorted() && repos.iter().any(|name| name == &repo.name), "{repos:?}");
        let answer = node.get("/v2/pushpull/no-such/tags/list").await?;
        ensure!(expect_error(answer, StatusCode::NOT_FOUND).await? == ["NAME_UNKNOWN"]);
    }
    Ok(())
}
