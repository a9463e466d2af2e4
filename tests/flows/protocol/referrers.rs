//! Referrers: what points at a manifest, listed by every node at once.

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::{self, Descriptor, Image};
use clawhub_testkit::oci::{expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, Repo};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn setup(name: &str) -> Result<(std::sync::Arc<Cluster>, Repo, Vec<Registry>)> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo(name);
    repo.push_blob(manifest::CONFIG_BYTES).await?;
    repo.push_blob(manifest::EMPTY_BYTES).await?;
    Ok((cluster, repo, nodes))
}

fn image() -> Image {
    Image::new(&sha256(&manifest::CONFIG_BYTES), manifest::CONFIG_BYTES.len())
}

fn entries(index: &Value) -> Vec<String> {
    let list = index["manifests"].as_array().cloned().unwrap_or_default();
    let mut digests: Vec<String> =
        list.iter().filter_map(|entry| entry["digest"].as_str().map(str::to_owned)).collect();
    digests.sort();
    digests
}

#[tokio::test]
async fn referrers_are_listed_and_filtered_on_every_node() -> Result<()> {
    let (_cluster, repo, nodes) = setup("referrers/listed").await?;
    let subject = repo.push_manifest("v1", manifest::OCI_MANIFEST, &image().bytes()).await?;
    let push = async |node: &Registry, image: Image| {
        let bytes = image.subject(&subject).bytes();
        let digest = sha256(&bytes).to_string();
        let answer = repo.on(node).put_manifest(&digest, manifest::OCI_MANIFEST, &bytes).await?;
        let answer = expect(answer, StatusCode::CREATED).await?;
        ensure!(header(&answer, "oci-subject") == Some(subject.digest.to_string()));
        Ok(digest)
    };
    let last = &nodes[nodes.len() - 1];
    let sbom = push(&nodes[0], Image::artifact("application/sbom").annotation("k", "v")).await?;
    let signature = push(last, Image::artifact("application/signature")).await?;
    // Without an artifact type, the config's type stands for it.
    let plain = push(last, image()).await?;
    for node in &nodes {
        let index = repo.on(node).referrers(&subject.digest, "").await?;
        let mut all = vec![sbom.clone(), signature.clone(), plain.clone()];
        all.sort();
        ensure!(entries(&index) == all, "{index}");
        ensure!(index["schemaVersion"] == 2 && index["mediaType"] == manifest::OCI_INDEX, "{index}");
        let find = |digest: &str| {
            index["manifests"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|entry| entry["digest"] == digest)
                .cloned()
        };
        let entry = find(&sbom).context("the SBOM")?;
        ensure!(
            entry["artifactType"] == "application/sbom" && entry["annotations"] == json!({"k": "v"}),
            "{entry}"
        );
        ensure!(entry["mediaType"] == manifest::OCI_MANIFEST && entry["size"].is_u64(), "{entry}");
        ensure!(find(&plain).context("the image")?["artifactType"] == manifest::OCI_CONFIG);
        // One type, and one of several.
        let query = "?artifactType=application/sbom";
        let path = repo.path(&format!("referrers/{}{query}", subject.digest));
        let applied = header(&node.get(&path).await?, "oci-filters-applied");
        ensure!(applied.as_deref() == Some("artifactType"), "{applied:?}");
        let found = entries(&repo.on(node).referrers(&subject.digest, query).await?);
        ensure!(found == std::slice::from_ref(&sbom), "{found:?}");
        let query = "?artifactType=application/sbom&artifactType=application/signature";
        let mut two = vec![sbom.clone(), signature.clone()];
        two.sort();
        ensure!(entries(&repo.on(node).referrers(&subject.digest, query).await?) == two);
    }
    let path = repo.path(&format!("manifests/{sbom}"));
    expect(last.delete(&path).await?, StatusCode::ACCEPTED).await?;
    for node in &nodes {
        let index = repo.on(node).referrers(&subject.digest, "").await?;
        ensure!(!entries(&index).contains(&sbom), "deleted: {index}");
    }
    Ok(())
}

#[tokio::test]
async fn a_subject_may_come_after_its_referrers() -> Result<()> {
    let (_cluster, repo, nodes) = setup("referrers/early").await?;
    let bytes = image().annotation("late", "yes").bytes();
    let subject = Descriptor::new(manifest::OCI_MANIFEST, &sha256(&bytes), bytes.len());
    let early = Image::artifact("application/early").subject(&subject).bytes();
    let early = repo.push_manifest("early", manifest::OCI_MANIFEST, &early).await?;
    repo.on(&nodes[nodes.len() - 1]).push_manifest("late", manifest::OCI_MANIFEST, &bytes).await?;
    for node in &nodes {
        let index = repo.on(node).referrers(&subject.digest, "").await?;
        ensure!(entries(&index) == [early.digest.to_string()], "{index}");
    }
    Ok(())
}

#[tokio::test]
async fn an_index_can_refer_too() -> Result<()> {
    let (_cluster, repo, nodes) = setup("referrers/index").await?;
    let subject = repo.push_manifest("v1", manifest::OCI_MANIFEST, &image().bytes()).await?;
    let mut typed: Value = serde_json::from_slice(&manifest::index(&[]))?;
    typed["subject"] = subject.json();
    let untyped = typed.to_string();
    typed["artifactType"] = json!("application/bundle");
    for bytes in [typed.to_string(), untyped] {
        repo.push_manifest(&sha256(bytes.as_bytes()).to_string(), manifest::OCI_INDEX, bytes.as_bytes())
            .await?;
    }
    for node in &nodes {
        let index = repo.on(node).referrers(&subject.digest, "").await?;
        let mut types: Vec<&Value> =
            index["manifests"].as_array().context("a list")?.iter().map(|e| &e["artifactType"]).collect();
        types.sort_by_key(|value| value.to_string());
        ensure!(types == [&json!("application/bundle"), &Value::Null], "{index}");
    }
    Ok(())
}

#[tokio::test]
async fn there_is_always_a_list() -> Result<()> {
    let (_cluster, repo, nodes) = setup("referrers/empty").await?;
    let unknown = sha256(b"unknown");
    for node in &nodes {
        ensure!(entries(&repo.on(node).referrers(&unknown, "").await?).is_empty());
        let elsewhere = node.repo("referrers/no-such-repository");
        ensure!(entries(&elsewhere.referrers(&unknown, "").await?).is_empty());
        let answer = node.get(&repo.path("referrers/sha256:0")).await?;
        ensure!(expect_error(answer, StatusCode::BAD_REQUEST).await? == ["DIGEST_INVALID"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_list_too_long_for_one_answer_comes_in_pages() -> Result<()> {
    let (_cluster, repo, nodes) = setup("referrers/pages").await?;
    let subject = repo.push_manifest("v1", manifest::OCI_MANIFEST, &image().bytes()).await?;
    // Six annotations of 900 KB are more than one answer of 4 MiB holds.
    let mut wanted = Vec::new();
    for i in 0..6 {
        let artifact = Image::artifact("application/big").annotation("fill", &format!("{i}").repeat(900_000));
        let bytes = artifact.subject(&subject).bytes();
        let digest = sha256(&bytes).to_string();
        repo.on(&nodes[i % nodes.len()]).push_manifest(&digest, manifest::OCI_MANIFEST, &bytes).await?;
        wanted.push(digest);
    }
    wanted.sort();
    for node in &nodes {
        let mut found = Vec::new();
        let mut next = Some(repo.path(&format!("referrers/{}?artifactType=application/big", subject.digest)));
        let mut pages = 0;
        while let Some(path) = next.take() {
            let answer = expect(node.get(&path).await?, StatusCode::OK).await?;
            next = header(&answer, "link")
                .and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
            let body = answer.bytes().await?;
            ensure!(body.len() <= 4 << 20, "a page of {} bytes", body.len());
            found.extend(entries(&serde_json::from_slice(&body)?));
            pages += 1;
            ensure!(pages < 10, "the links go round in circles");
        }
        found.sort();
        ensure!(found == wanted && pages > 1, "{} of {} on {pages} pages", found.len(), wanted.len());
    }
    Ok(())
}
