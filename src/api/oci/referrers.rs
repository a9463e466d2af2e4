//! `GET /v2/<name>/referrers/<digest>`: the manifests that name another as their subject, as an image
//! index. Never a 404: an unknown digest or repository has no referrers.

use std::fmt;
use std::time::Duration;

use axum::response::Response;
use clawhub_registry::{Error, PageBudget, Referrer};
use clawhub_types::{Digest, MediaType, RepoName};
use http::HeaderValue;
use http::header::LINK;
use serde::{Serialize, Serializer};

use crate::call::{self, Call};
use crate::error::ApiError;
use crate::page;
use crate::path::PREFIX;
use crate::render;

/// A page ends before its descriptors come to more than this: clients read no more than 4 MiB, and several do not
/// follow links.
const PAGE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// When to come back to a node that has no memory for a page. A page takes that of its referrers and of its text.
const CROWDED: Duration = Duration::from_secs(2);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

/// A referrer as clients are sent it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    #[serde(serialize_with = "as_text")]
    media_type: &'a MediaType,
    #[serde(serialize_with = "as_text")]
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations<'a>,
}

impl<'a> From<&'a Referrer> for Descriptor<'a> {
    fn from(referrer: &'a Referrer) -> Self {
        Descriptor {
            media_type: &referrer.media_type,
            digest: &referrer.digest,
            size: referrer.size,
            artifact_type: referrer.artifact_type.as_deref(),
            annotations: Annotations(&referrer.annotations),
        }
    }
}

/// Pairs that are shown as an object, in their order.
struct Annotations<'a>(&'a [(String, String)]);

impl Annotations<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

fn crowded() -> ApiError {
    Error::unavailable(CROWDED, "this node makes as many lists of referrers as it can").into()
}

/// What a referrer takes of a page, in bytes: its descriptor and a comma.
fn length(referrer: &Referrer) -> usize {
    serde_json::to_vec(&Descriptor::from(referrer)).map_or(0, |json| json.len() + 1)
}

/// One page, as long as [`PAGE_BYTES`] allows.
pub(crate) async fn list(call: &Call, repo: &RepoName, subject: &Digest) -> Result<Response, ApiError> {
    let after = call.query.first("last").map(call::digest).transpose()?;
    // Repeated, the parameter means any of its values; empty, it means nothing.
    let types: Vec<String> =
        call.query.all("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    let reader = call.reader(repo).await?;
    let share = call.memory.answer(2 * PAGE_BYTES).await.ok_or_else(crowded)?;
    let budget = PageBudget { bytes: PAGE_BYTES, length: &length };
    let page = reader.referrers(subject, &types, after, budget).await?;
    let manifests = page.items.iter().map(Descriptor::from).collect();
    let index = Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests };
    let mut response = render::json_in(share, &index, MediaType::OCI_INDEX);
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn referrers_render_as_descriptors() {
        let mut referrer = Referrer {
            media_type: MediaType::OCI_MANIFEST.parse().unwrap(),
            digest: Digest::Sha256([1; 32]),
            size: 7,
            artifact_type: Some("text/x".into()),
            annotations: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
        };
        let json = serde_json::to_string(&Descriptor::from(&referrer)).unwrap();
        let hex = "01".repeat(32);
        assert_eq!(
            json,
            format!(
                "{{\"mediaType\":\"{}\",\"digest\":\"sha256:{hex}\",\"size\":7,\"artifactType\":\"text/x\",\
                 \"annotations\":{{\"a\":\"1\",\"b\":\"2\"}}}}",
                MediaType::OCI_MANIFEST
            )
        );
        referrer.artifact_type = None;
        referrer.annotations.clear();
        let bare: Value = serde_json::to_value(Descriptor::from(&referrer)).unwrap();
        assert_eq!(bare.as_object().unwrap().len(), 3);
    }
}
