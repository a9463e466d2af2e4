//! Content whose last copy is gone: who asks whether it is there is told no, so that its next push brings it back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::{Node, Options};
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{self, Image};
use clawhub_testkit::oci::{Upload, expect, expect_error, header};
use clawhub_testkit::{Repo, process, until};
use clawhub_types::Digest;
use futures::future::try_join_all;
use reqwest::StatusCode;

/// A start, and the first look at what is there.
const SOON: Duration = Duration::from_secs(60);

/// Deletes every blob of a node that is dead.
fn lose_blobs(node: &Node) -> Result<()> {
    fn files(dir: &Path, gone: &mut usize) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                files(&entry.path(), gone)?;
            } else {
                fs::remove_file(entry.path())?;
                *gone += 1;
            }
        }
        Ok(())
    }
    let mut gone = 0;
    files(&node.data.join("blobs"), &mut gone)?;
    ensure!(gone > 0, "{} had no blobs", node.name);
    Ok(())
}

/// Pushes as clients do: only what HEAD does not find. How many blobs that are.
async fn push(repo: &Repo, blobs: &[Bytes], tag: &str, image: &[u8]) -> Result<usize> {
    let mut sent = 0;
    for blob in blobs {
        let answer = repo.registry.head(&repo.path(&format!("blobs/{}", sha256(blob)))).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            repo.push_blob(blob.clone()).await?;
            sent += 1;
        } else {
            expect(answer, StatusCode::OK).await?;
        }
    }
    if repo.resolve(tag).await?.is_none() {
        repo.push_manifest(tag, manifest::OCI_MANIFEST, image).await?;
    }
    Ok(sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_node_has_lost_is_pushed_again() -> Result<()> {
    let cluster = Options::new(3).no_restart().start().await?;
    let nodes = cluster.nodes()?;
    let repo = nodes[0].registry().repo("lost/image");
    let blobs = [manifest::CONFIG_BYTES, Rng::new(1).bytes(300_000).into(), Rng::new(2).bytes(10).into()];
    // Too large for the log, so that its bytes are lost as well.
    let mut image = Image::new(&sha256(&blobs[0]), blobs[0].len()).annotation("fill", &"x".repeat(100_000));
    for layer in &blobs[1..] {
        image = image.layer(&sha256(layer), layer.len());
    }
    let image = image.bytes();
    ensure!(push(&repo, &blobs, "v1", &image).await? == blobs.len());
    ensure!(push(&repo, &blobs, "v1", &image).await? == 0, "everything is there");
    // Two nodes have it by now; the third region gets its copy a moment later.
    let roots: Vec<_> = blobs.iter().map(|blob| blake3::hash(blob).to_hex()).collect();
    until("every node to have a copy", SOON, || async {
        Ok(nodes.iter().all(|node| roots.iter().all(|root| node.holds(root))).then_some(()))
    })
    .await?;

    let pids = nodes.iter().map(|node| node.process()).collect::<Result<Vec<_>>>()?;
    for pid in &pids {
        process::kill(*pid)?;
    }
    until("every node to have ended", Duration::from_secs(20), || async {
        Ok((!pids.iter().any(|pid| process::alive(*pid))).then_some(()))
    })
    .await?;
    for node in &nodes {
        lose_blobs(node)?;
    }
    // None of them is ready without another.
    try_join_all(nodes.iter().map(|node| cluster.serve(&node.config, node.address()))).await?;
    cluster.ready().await?;
    let paths: Vec<String> = blobs.iter().map(|blob| repo.path(&format!("blobs/{}", sha256(blob)))).collect();
    let paths: Vec<String> = paths.into_iter().chain([repo.path("manifests/v1")]).collect();
    for path in &paths {
        until("every node to have reported its loss", SOON, || async {
            Ok((repo.registry.head(path).await?.status() == StatusCode::NOT_FOUND).then_some(()))
        })
        .await?;
    }
    for node in &nodes {
        for path in &paths {
            let answer = expect(node.registry().get(path).await?, StatusCode::SERVICE_UNAVAILABLE).await?;
            ensure!(header(&answer, "retry-after").is_some(), "{path}: no Retry-After");
        }
    }
    // There is nothing to mount.
    let mount = format!("blobs/uploads/?mount={}&from={}", sha256(&blobs[1]), repo.name);
    let elsewhere = nodes[1].registry().repo("lost/other");
    let answer = elsewhere.registry.request(reqwest::Method::POST, &elsewhere.path(&mount)).send().await?;
    expect(answer, StatusCode::ACCEPTED).await?;

    ensure!(push(&repo.on(&nodes[2].registry()), &blobs, "v1", &image).await? == blobs.len());
    let expected: Digest = sha256(&image);
    for node in &nodes {
        let pulled = repo.on(&node.registry()).pull_image("v1").await.with_context(|| node.name.clone())?;
        ensure!(pulled == expected);
    }
    Ok(())
}

/// Pushes a blob as skopeo does: a question, and if it is absent, one chunk and the end.
async fn push_in_chunks(repo: &Repo, blob: &Bytes) -> Result<()> {
    let (node, digest) = (&repo.registry, sha256(blob));
    let there = node.head(&repo.path(&format!("blobs/{digest}"))).await?;
    expect(there, StatusCode::NOT_FOUND).await.context("HEAD of a blob that nobody holds")?;
    let upload = repo.open().await?;
    let answer = upload.patch(node, None, blob.clone()).await?;
    let upload = Upload::of(&expect(answer, StatusCode::ACCEPTED).await?)?;
    expect(upload.put(node, &digest, Bytes::new()).await?, StatusCode::CREATED).await?;
    Ok(())
}

/// The only node that holds an image dies, and is removed by force. What that costs is named, and brought again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_node_alone_had_is_pushed_again() -> Result<()> {
    let home = tempfile::tempdir()?;
    // One copy of everything is enough here.
    let spec = |number| Spec { sections: Spec::alone("").sections, ..Spec::zone(number) };
    let mut members = fleet::form(home.path(), (0..3).map(spec).collect()).await?;
    let repo = members[2].registry().repo("lost/removed");
    let layer = Bytes::from(Rng::new(3).bytes(300_000));
    let image = repo.push_image("v1", std::slice::from_ref(&layer)).await?;
    let (_, bytes) = repo.pull_manifest("v1").await?;

    members[2].kill()?;
    let gone = members.pop().context("a third node")?;
    gone.wipe()?;
    let reply = members[0].admin(&["remove", "--force", "3"])?;
    let named = reply["lost"].as_array().into_iter().flatten().map(|blob| blob["digest"].as_str());
    let named: Vec<&str> = named.collect::<Option<_>>().with_context(|| reply.to_string())?;
    ensure!(named.contains(&sha256(&layer).to_string().as_str()), "{reply}");
    is_absent(&members, &repo, &layer).await?;

    let repo = repo.on(&members[1].registry());
    for blob in [manifest::CONFIG_BYTES, layer] {
        push_in_chunks(&repo, &blob).await?;
    }
    let answer = repo.put_manifest("v1", manifest::OCI_MANIFEST, &bytes).await?;
    expect(answer, StatusCode::CREATED).await.context("the manifest again")?;
    for member in &members {
        let pulled = repo.on(&member.registry()).pull_image("v1").await;
        ensure!(pulled.with_context(|| member.spec.name.clone())? == image.digest);
    }
    Ok(())
}

/// Who asks whether it is there is told no; who wants its bytes is told to come again.
async fn is_absent(members: &[Member], repo: &Repo, blob: &[u8]) -> Result<()> {
    let path = repo.path(&format!("blobs/{}", sha256(blob)));
    for member in members {
        let node = member.registry();
        expect(node.head(&path).await?, StatusCode::NOT_FOUND).await.context("HEAD")?;
        let answer = node.get(&path).await?;
        ensure!(header(&answer, "retry-after").is_some(), "no Retry-After");
        ensure!(expect_error(answer, StatusCode::SERVICE_UNAVAILABLE).await? == ["UNAVAILABLE"]);
    }
    Ok(())
}
