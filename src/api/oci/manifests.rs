//! `/v2/<name>/manifests/<reference>`: manifests by tag or digest.
//!
//! The `Accept` header is not consulted: a manifest is stored as it was pushed and sent as it is stored.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use clawhub_api_http::{NotRead, read_whole};
use clawhub_auth::{Delete, Push};
use clawhub_registry::{
    BlobView, Error, Kind, MAX_MANIFEST, ManifestBody, ManifestView, PutManifest, PutView,
};
use clawhub_state::artifact::Condition;
use clawhub_types::{Digest, Reference, RepoName, Tag};
use futures::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::ErrorCode;
use crate::call::Call;
use crate::error::ApiError;
use crate::path::PREFIX;
use crate::query::Query;
use crate::{etag, render};

/// When to come back to a node that has no memory for a manifest.
const CROWDED: Duration = Duration::from_secs(2);

/// The most `tag` parameters of one push (distribution-spec: at least 10).
const MAX_TAGS: usize = 50;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

pub(crate) async fn get(call: &Call, repo: &RepoName, reference: &Reference) -> Result<Response, ApiError> {
    // Content that a digest names never changes; what a tag names does.
    let reader = match reference {
        Reference::Digest(_) => call.reader_now(repo)?,
        Reference::Tag(_) => call.reader(repo).await?,
    };
    let view = reader.manifest(reference, true).await?;
    if let Some(answer) = conditional(call, &view) {
        return answer;
    }
    let body = match view.body.clone() {
        Some(ManifestBody::Whole(bytes)) => Body::from(bytes),
        Some(ManifestBody::Stored(blob)) => stored(&blob).await?,
        None => return Err(Error::internal("the manifest came without its bytes").into()),
    };
    Ok(render_view(&view, body))
}

/// A large manifest's bytes. The first of them are here before the answer begins, so that a manifest that nobody can
/// supply is a 503 and not a broken body.
async fn stored(blob: &BlobView) -> Result<Body, ApiError> {
    let mut pieces = blob.read(0..blob.size);
    let first = pieces.next().await.transpose()?;
    Ok(Body::from_stream(stream::iter(first.map(Ok)).chain(pieces)))
}

/// Whether the manifest exists, and what it is.
pub(crate) async fn head(call: &Call, repo: &RepoName, reference: &Reference) -> Result<Response, ApiError> {
    let view = call.reader(repo).await?.manifest(reference, false).await?;
    conditional(call, &view).unwrap_or_else(|| Ok(render_view(&view, Body::empty())))
}

/// Stores a manifest under a tag or a digest.
pub(crate) async fn put(
    call: &Call,
    body: Body,
    repo: &RepoName,
    reference: &Reference,
) -> Result<Response, ApiError> {
    let target = call.repo::<Push>(repo)?;
    let condition = etag::condition(&call.headers)?;
    let tags = match reference {
        Reference::Digest(_) => extra_tags(&call.query)?,
        Reference::Tag(_) => Vec::new(),
    };
    let content_type = content_type(call)?;
    let bytes = match read_whole(body, MAX_MANIFEST, &call.memory).await.map_err(Error::from)? {
        Ok(bytes) => bytes,
        Err(NotRead::TooLarge) => {
            return Err(Error::new(Kind::TooLarge, "the manifest is larger than 4 MiB").into());
        }
        Err(NotRead::NoMemory) => {
            return Err(Error::unavailable(CROWDED, "this node takes as many manifests as it can").into());
        }
    };
    let manifest = PutManifest { content_type, tags, condition, bytes };
    let stored = target.put_manifest(reference, manifest).await?;
    Ok(render_stored(repo, &stored))
}

/// Deletes a tag, or a manifest and every tag on it.
pub(crate) async fn delete(
    call: &Call,
    repo: &RepoName,
    reference: &Reference,
) -> Result<Response, ApiError> {
    let target = call.repo::<Delete>(repo)?;
    let condition = match reference {
        Reference::Tag(_) => etag::condition(&call.headers)?,
        Reference::Digest(digest) => by_digest(etag::condition(&call.headers)?, digest)?,
    };
    target.delete_manifest(reference, condition).await?;
    Ok(render::empty(StatusCode::ACCEPTED))
}

/// What a digest names never changes, so a condition on its deletion can be decided here.
fn by_digest(condition: Condition, digest: &Digest) -> Result<Condition, ApiError> {
    match condition {
        Condition::Any | Condition::Exists => Ok(Condition::Any),
        Condition::Matches(digests) if digests.contains(digest) => Ok(Condition::Any),
        Condition::Matches(_) | Condition::Absent => Err(precondition_failed(digest)),
    }
}

/// The answer to a conditional read whose condition decides it.
fn conditional(call: &Call, view: &ManifestView) -> Option<Result<Response, ApiError>> {
    if !etag::is_expected(&call.headers, &view.digest) {
        return Some(Err(precondition_failed(&view.digest)));
    }
    etag::is_known(&call.headers, &view.digest).then(|| Ok(render::not_modified(&view.digest, view.fresh)))
}

fn precondition_failed(current: &Digest) -> ApiError {
    let kind = Kind::Precondition { current: Some(current.clone()) };
    Error::new(kind, "the precondition does not hold").into()
}

/// The `tag` parameters of a push by digest, without repeats.
fn extra_tags(query: &Query) -> Result<Vec<Tag>, ApiError> {
    let mut tags: Vec<Tag> = Vec::new();
    for (count, text) in query.all("tag").enumerate() {
        if count == MAX_TAGS {
            let message = format!("more than {MAX_TAGS} tags");
            return Err(ApiError::new(StatusCode::URI_TOO_LONG, ErrorCode::SizeInvalid, message));
        }
        let tag = text.parse().map_err(|_| ApiError::code(ErrorCode::NameInvalid, "invalid tag"))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn content_type(call: &Call) -> Result<Option<String>, ApiError> {
    let Some(value) = call.headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text = value
        .to_str()
        .map_err(|_| ApiError::code(ErrorCode::ManifestInvalid, "the Content-Type is not visible ASCII"))?;
    Ok(Some(text.to_owned()))
}

fn render_view(view: &ManifestView, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, render::value(&view.media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(view.size));
    render::content(headers, &view.digest);
    render::warning(headers, view.fresh);
    response
}

fn render_stored(repo: &RepoName, stored: &PutView) -> Response {
    let mut response = render::empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, render::value(format_args!("{PREFIX}/{repo}/manifests/{}", stored.digest)));
    render::content(headers, &stored.digest);
    if let Some(subject) = &stored.subject {
        headers.insert(OCI_SUBJECT, render::value(subject));
    }
    for tag in &stored.tags {
        headers.append(OCI_TAG, render::value(tag));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_parameters_are_checked_counted_and_unique() {
        let tags = |text: &str| extra_tags(&Query::parse(Some(text))).map_err(|error| error.status());
        let names = |tags: Vec<Tag>| tags.iter().map(|tag| tag.to_string()).collect::<Vec<_>>();
        assert_eq!(names(tags("tag=b&x=1&tag=a&tag=b").unwrap()), ["b", "a"]);
        assert_eq!(tags(""), Ok(vec![]));
        for bad in ["tag=", "tag=.a", "tag=a&tag=a%2Fb"] {
            assert_eq!(tags(bad), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        let many = |n: usize| (0..n).map(|i| format!("tag=t{i}")).collect::<Vec<_>>().join("&");
        assert_eq!(tags(&many(MAX_TAGS)).unwrap().len(), MAX_TAGS);
        assert_eq!(tags(&many(MAX_TAGS + 1)), Err(StatusCode::URI_TOO_LONG));
    }

    #[test]
    fn a_digest_only_matches_itself() {
        let (d, other) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        for fine in [Condition::Any, Condition::Exists, Condition::Matches(vec![other.clone(), d.clone()])] {
            assert_eq!(by_digest(fine, &d).unwrap(), Condition::Any);
        }
        for not in [Condition::Absent, Condition::Matches(vec![other]), Condition::Matches(vec![])] {
            assert_eq!(by_digest(not, &d).unwrap_err().status(), StatusCode::PRECONDITION_FAILED);
        }
    }
}
