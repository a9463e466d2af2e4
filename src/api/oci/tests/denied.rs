//! Every endpoint and every method of it, asked by somebody who may do nothing.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use axum::body::Body;
use clawhub_auth::{Authorizer, Principal};
use support::Cluster;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Every form of path. The methods of each are what its 405 says.
fn endpoints() -> Vec<String> {
    [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/b/tags/list",
        "/v2/a/b/manifests/latest",
        &format!("/v2/a/b/manifests/{SHA}"),
        &format!("/v2/a/b/manifests/{SHA}?tag=x&tag=y"),
        &format!("/v2/a/b/blobs/{SHA}"),
        "/v2/a/b/blobs/uploads/",
        "/v2/a/b/blobs/uploads/?digest-algorithm=sha512",
        &format!("/v2/a/b/blobs/uploads/?digest={SHA}"),
        &format!("/v2/a/b/blobs/uploads/?mount={SHA}&from=a/c"),
        &format!("/v2/a/b/blobs/uploads/?mount={SHA}"),
        &format!("/v2/a/b/blobs/uploads/1-{}?digest={SHA}", "07".repeat(16)),
        &format!("/v2/a/b/referrers/{SHA}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn nobody_gets_past_a_denial() {
    let cluster = Cluster::start(Authorizer::DenyAll).await;
    for (principal, status, code) in
        [(Principal::Anonymous, 401, "UNAUTHORIZED"), (Principal::Operator, 403, "DENIED")]
    {
        let client = cluster.client_as(principal);
        let mut asked = 0;
        for path in endpoints() {
            let unsupported = client.send("OPTIONS", &path, &[], Body::empty()).await;
            unsupported.refused(405, "UNSUPPORTED");
            for method in unsupported.header("allow").split(", ") {
                let answer = client.send(method, &path, &[], "{}").await;
                answer.refused(status, code);
                asked += 1;
            }
        }
        assert_eq!(asked, 33, "an endpoint or a method came or went: is it in the table?");
    }
}
