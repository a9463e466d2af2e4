//! `GET /v2/<name>/referrers/<digest>`: the manifests that name another as their subject, as an image
//! index. Never a 404: an unknown digest or repository has no referrers.

use axum::response::Response;
use clawhub_registry::Referrer;
use clawhub_types::{Digest, MediaType, RepoName};
use http::HeaderValue;
use http::header::LINK;
use serde::Serialize;

use crate::call::{self, Call};
use crate::error::ApiError;
use crate::page;
use crate::path::PREFIX;
use crate::render;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: &'a [Referrer],
}

/// One page. Its size is the registry's choice, just under what clients read: several do not follow the
/// Link.
pub(crate) async fn list(call: &Call, repo: &RepoName, subject: &Digest) -> Result<Response, ApiError> {
    let after = call.query.first("last").map(call::digest).transpose()?;
    // Repeated, the parameter means any of its values; empty, it means nothing.
    let types: Vec<String> =
        call.query.all("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    let reader = call.reader(repo).await?;
    let page = reader.referrers(subject, &types, after).await?;
    let index = Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests: &page.items };
    let mut response = render::json(&index, MediaType::OCI_INDEX);
    let headers = response.headers_mut();
    if !types.is_empty() {
        headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = page.items.last().filter(|_| page.more) {
        let last = last.digest.to_string();
        let filters = types.iter().map(|kind| ("artifactType", kind.as_str()));
        let parameters: Vec<(&str, &str)> = filters.chain([("last", last.as_str())]).collect();
        headers.insert(LINK, page::link(&format!("{PREFIX}/{repo}/referrers/{subject}"), &parameters));
    }
    Ok(response)
}
