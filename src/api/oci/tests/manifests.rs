//! Manifests, tags, referrers and lists over the API.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use axum::body::Body;
use clawhub_auth::Authorizer;
use clawhub_types::{Digest, MediaType};
use serde_json::{Value, json};
use support::{Answer, Client, Cluster, sha256};

const ANY: &[(&str, &str)] = &[];

/// A manifest of one layer, whose blobs are pushed, and its digest.
async fn image(client: &Client, repo: &str, layer: &str) -> (Value, Digest) {
    let config = client.push_blob(repo, b"{}").await;
    let digest = client.push_blob(repo, layer.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": digest.to_string(), "size": layer.len()}],
    });
    let digest = sha256(manifest.to_string().as_bytes());
    (manifest, digest)
}

/// A manifest that names a subject.
async fn referrer(client: &Client, repo: &str, subject: &Digest, kind: &str) -> (Value, Digest) {
    let (mut manifest, _) = image(client, repo, kind).await;
    manifest["subject"] =
        json!({"mediaType": MediaType::OCI_MANIFEST, "digest": subject.to_string(), "size": 1});
    manifest["artifactType"] = kind.into();
    manifest["annotations"] = json!({"of": kind});
    let digest = sha256(manifest.to_string().as_bytes());
    (manifest, digest)
}

fn stored(answer: &Answer, repo: &str, digest: &Digest) {
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("location"), format!("/v2/{repo}/manifests/{digest}"));
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
}

#[tokio::test]
async fn a_manifest_comes_back_as_it_was_pushed() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let (manifest, digest) = image(&client, "a/b", "layer").await;
    let answer = client.put_manifest("a/b", "v1", ANY, &manifest).await;
    stored(&answer, "a/b", &digest);
    assert!(answer.headers.get("oci-tag").is_none() && answer.headers.get("oci-subject").is_none());
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let accept = [("accept", "application/vnd.docker.distribution.manifest.v2+json")];
        let get = client.send("GET", &path, &accept, Body::empty()).await;
        assert_eq!((get.status.as_u16(), &*get.body), (200, manifest.to_string().as_bytes()));
        // Mirrors are told which host is meant; there is one registry here.
        let head = client.expect("HEAD", &format!("{path}?ns=docker.io"), 200).await;
        assert!(head.body.is_empty());
        for answer in [get, head] {
            assert_eq!(answer.header("content-type"), MediaType::OCI_MANIFEST);
            assert_eq!(answer.header("content-length"), manifest.to_string().len().to_string());
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        }
        for method in ["GET", "HEAD"] {
            let known = client.send(method, &path, &[("if-none-match", &format!("\"{digest}\""))], "").await;
            assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
        }
    }
    client.expect("DELETE", "/v2/a/b/manifests/v1", 202).await;
    client.get("/v2/a/b/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    client.expect("DELETE", &format!("/v2/a/b/manifests/{digest}"), 202).await;
    client.get(&format!("/v2/a/b/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_push_by_digest_can_set_tags() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let (manifest, digest) = image(&client, "a/b", "layer").await;
    let names: Vec<String> = (0..12).map(|i| format!("t{i}")).collect();
    let query = names.iter().map(|name| format!("tag={name}")).collect::<Vec<_>>().join("&");
    let answer = client.put_manifest("a/b", &format!("{digest}?{query}"), ANY, &manifest).await;
    stored(&answer, "a/b", &digest);
    let said: Vec<&str> = answer.headers.get_all("oci-tag").iter().map(|tag| tag.to_str().unwrap()).collect();
    assert_eq!(said, names);
    let head = client.expect("HEAD", "/v2/a/b/manifests/t11", 200).await;
    assert_eq!(head.header("docker-content-digest"), digest.to_string());
    let many = vec!["tag=x"; 51].join("&");
    client
        .put_manifest("a/b", &format!("{digest}?{many}"), ANY, &manifest)
        .await
        .refused(414, "SIZE_INVALID");
    client
        .put_manifest("a/b", &format!("{digest}?tag=.x"), ANY, &manifest)
        .await
        .refused(400, "NAME_INVALID");
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_its_code() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let (manifest, _) = image(&client, "a/b", "layer").await;
    client.put_manifest("a/b", ".invalid", ANY, &manifest).await.refused(400, "NAME_INVALID");
    client.put_manifest("A/b", "v1", ANY, &manifest).await.refused(400, "NAME_INVALID");
    client.put_manifest("a/b", "sha256:bad", ANY, &manifest).await.refused(400, "DIGEST_INVALID");
    client
        .put_manifest("a/b", &sha256(b"else").to_string(), ANY, &manifest)
        .await
        .refused(400, "DIGEST_INVALID");
    let json_type = [("content-type", MediaType::OCI_MANIFEST)];
    client.send("PUT", "/v2/a/b/manifests/v1", &json_type, "no json").await.refused(400, "MANIFEST_INVALID");
    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    client.send("PUT", "/v2/a/b/manifests/v1", &json_type, large).await.refused(413, "SIZE_INVALID");
    // Nothing can be stored under it, so reading it is no mistake.
    client.get("/v2/a/b/manifests/.invalid").await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_tag_moves_only_if_the_condition_holds() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let (one, first) = image(&client, "a/b", "one").await;
    let (two, second) = image(&client, "a/b", "two").await;
    let (first_tag, second_tag) = (format!("\"{first}\""), format!("\"{second}\""));
    let absent = [("if-none-match", "*")];
    client.put_manifest("a/b", "v", &[("if-match", "*")], &one).await.refused(412, "DENIED");
    stored(&client.put_manifest("a/b", "v", &absent, &one).await, "a/b", &first);
    let refused = client.put_manifest("a/b", "v", &absent, &two).await;
    refused.refused(412, "DENIED");
    assert_eq!(refused.header("etag"), first_tag);
    client.put_manifest("a/b", "v", &[("if-match", &second_tag)], &two).await.refused(412, "DENIED");
    stored(&client.put_manifest("a/b", "v", &[("if-match", &first_tag)], &two).await, "a/b", &second);
    for bad in [[("if-none-match", "\"x\"")].as_slice(), &[("if-match", "*"), ("if-none-match", "*")]] {
        client.put_manifest("a/b", "v", bad, &one).await.refused(400, "UNSUPPORTED");
    }
    let delete = |value: String| {
        let client = client.clone();
        async move { client.send("DELETE", "/v2/a/b/manifests/v", &[("if-match", &value)], "").await }
    };
    delete(first_tag).await.refused(412, "DENIED");
    assert_eq!(delete(second_tag).await.status, 202);
    client.expect("HEAD", "/v2/a/b/manifests/v", 404).await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    client.get("/v2/a/b/tags/list").await.refused(404, "NAME_UNKNOWN");
    client.get("/v2/a/b/tags/list?n=0").await.refused(404, "NAME_UNKNOWN");
    let (manifest, _) = image(&client, "a/b", "layer").await;
    let tags = ["A", "B-1", "_x", "a", "b"];
    for tag in ["b", "_x", "A", "a", "B-1"] {
        client.put_manifest("a/b", tag, ANY, &manifest).await;
    }
    let all = client.expect("GET", "/v2/a/b/tags/list", 200).await;
    assert_eq!(all.json(), json!({"name": "a/b", "tags": tags}));
    assert_eq!(all.header("content-type"), "application/json");
    assert!(all.headers.get("link").is_none());
    let mut next = Some("/v2/a/b/tags/list?n=2".to_owned());
    let mut got = Vec::new();
    while let Some(path) = next {
        let page = client.expect("GET", &path, 200).await;
        got.push(page.json()["tags"].clone());
        next = page.headers.get("link").map(|_| {
            let link = page.header("link").strip_prefix('<').unwrap();
            link.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
        });
    }
    assert_eq!(got, [json!(["A", "B-1"]), json!(["_x", "a"]), json!(["b"])]);
    for (query, tags) in [("n=0", json!([])), ("last=C", json!(["_x", "a", "b"])), ("n=1&last=zz", json!([]))]
    {
        let page = client.expect("GET", &format!("/v2/a/b/tags/list?{query}"), 200).await;
        assert_eq!(page.json()["tags"], tags, "{query}");
        assert!(page.headers.get("link").is_none(), "{query}");
    }
    client.get("/v2/a/b/tags/list?n=x").await.refused(400, "SIZE_INVALID");

    image(&client, "a", "layer").await;
    let catalog = client.expect("GET", "/v2/_catalog?n=1", 200).await;
    assert_eq!(catalog.json(), json!({"repositories": ["a"]}));
    assert_eq!(catalog.header("link"), "</v2/_catalog?n=1&last=a>; rel=\"next\"");
    let rest = client.expect("GET", "/v2/_catalog?n=1&last=a", 200).await;
    assert_eq!(rest.json(), json!({"repositories": ["a/b"]}));
}

#[tokio::test]
async fn referrers_are_an_index_and_never_missing() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let subject = sha256(b"not pushed");
    let path = format!("/v2/a/b/referrers/{subject}");
    let none = client.expect("GET", &path, 200).await;
    let empty = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []});
    assert_eq!((none.json(), none.header("content-type")), (empty, MediaType::OCI_INDEX));
    let mut digests = Vec::new();
    for kind in ["a/x", "a/y", "a/z+json"] {
        let (manifest, digest) = referrer(&client, "a/b", &subject, kind).await;
        let answer = client.put_manifest("a/b", &digest.to_string(), ANY, &manifest).await;
        stored(&answer, "a/b", &digest);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
        digests.push((kind, digest.to_string(), manifest.to_string().len()));
    }
    let all = client.expect("GET", &path, 200).await;
    assert!(all.headers.get("oci-filters-applied").is_none());
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 3);
    for (kind, digest, size) in &digests {
        let escaped = kind.replace('+', "%2B");
        for query in [format!("artifactType={escaped}"), format!("artifactType={kind}&artifactType=a/none")] {
            let filtered = client.expect("GET", &format!("{path}?{query}"), 200).await;
            assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
            let descriptor = json!({
                "mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": size,
                "artifactType": kind, "annotations": {"of": kind},
            });
            assert_eq!(filtered.json()["manifests"], json!([descriptor]), "{query}");
        }
    }
    client.get("/v2/a/b/referrers/sha256:bad").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn what_is_no_endpoint_says_so_in_json() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    assert_eq!(client.expect("GET", "/v2/", 200).await.json(), json!({}));
    client.expect("HEAD", "/v2", 200).await;
    for path in ["/v2/a", "/v2/_oci/ext/discover", "/v2/a/tags", "/v2/a/manifests/x/"] {
        client.get(path).await.refused(404, "UNSUPPORTED");
    }
    let wrong = client.send("PUT", "/v2/_catalog", &[], "").await;
    wrong.refused(405, "UNSUPPORTED");
    assert_eq!(wrong.header("allow"), "GET, HEAD");
}
