//! `/v2/<name>/blobs/<digest>`: blobs, whole or in ranges.

use std::ops::Range;

use axum::body::Body;
use axum::response::Response;
use clawhub_api_http::{Partial, file_body};
use clawhub_auth::Delete;
use clawhub_registry::{BlobView, Error, Intent, Kind};
use clawhub_types::{Digest, RepoName};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use crate::ErrorCode;
use crate::call::Call;
use crate::error::ApiError;
use crate::multipart::{Multipart, content_range};
use crate::ranges::{self, RangeError, Selection};
use crate::{etag, render};

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The blob, or ranges of it.
pub(crate) async fn get(call: &Call, repo: &RepoName, digest: &Digest) -> Result<Response, ApiError> {
    let reader = call.reader_now(repo)?;
    let known = etag::is_known(&call.headers, digest);
    // Nothing will be sent of what the client holds, so nothing should be fetched for it.
    let intent = if known { Intent::Revalidate } else { Intent::Read };
    let blob = match reader.blob(digest, intent).await {
        // Cut off, a node still knows what it holds.
        Err(Error { kind: Kind::Unavailable { .. }, .. }) if known => {
            call.reader_now(repo)?.blob(digest, Intent::Read).await?
        }
        blob => blob?,
    };
    expected(call, digest)?;
    if known {
        return Ok(render::not_modified(digest, blob.fresh));
    }
    let range = call.header(&RANGE).filter(|_| etag::range_applies(&call.headers, digest));
    match ranges::select(range, blob.size) {
        Ok(Selection::Whole) => Ok(whole(&blob, call.version)),
        Ok(Selection::Single(range)) => Ok(single(&blob, range, call.version)),
        Ok(Selection::Several(ranges)) => Ok(several(blob, ranges)),
        Err(error) => Err(refused(error, blob.size)),
    }
}

/// Whether the blob exists, and its length.
pub(crate) async fn head(call: &Call, repo: &RepoName, digest: &Digest) -> Result<Response, ApiError> {
    let blob = call.reader(repo).await?.blob(digest, Intent::Stat).await?;
    expected(call, digest)?;
    if etag::is_known(&call.headers, digest) {
        return Ok(render::not_modified(digest, blob.fresh));
    }
    let mut response = answer(&blob, StatusCode::OK, Body::empty());
    described(response.headers_mut(), blob.size);
    Ok(response)
}

/// Removes the blob from the repository.
pub(crate) async fn delete(call: &Call, repo: &RepoName, digest: &Digest) -> Result<Response, ApiError> {
    call.repo::<Delete>(repo)?.delete_blob(digest).await?;
    Ok(render::empty(StatusCode::ACCEPTED))
}

fn expected(call: &Call, digest: &Digest) -> Result<(), ApiError> {
    if etag::is_expected(&call.headers, digest) {
        return Ok(());
    }
    let kind = Kind::Precondition { current: Some(digest.clone()) };
    Err(Error::new(kind, "the precondition does not hold").into())
}

fn whole(blob: &BlobView, version: Version) -> Response {
    let body = if blob.size == 0 { Body::empty() } else { body(blob, 0..blob.size, version) };
    let mut response = answer(blob, StatusCode::OK, body);
    described(response.headers_mut(), blob.size);
    response
}

/// Straight from the file where all of it was checked, else checked on the way.
fn body(blob: &BlobView, range: Range<u64>, version: Version) -> Body {
    let straight = blob.local_file().and_then(|file| file_body(file, range.clone(), version));
    straight.unwrap_or_else(|| Body::from_stream(blob.read(range)))
}

fn single(blob: &BlobView, range: Range<u64>, version: Version) -> Response {
    let body = body(blob, range.clone(), version);
    let mut response = answer(blob, StatusCode::PARTIAL_CONTENT, body);
    described(response.headers_mut(), range.end - range.start);
    response.headers_mut().insert(CONTENT_RANGE, render::value(content_range(&range, blob.size)));
    response.extensions_mut().insert(Partial::Single);
    response
}

fn several(blob: BlobView, ranges: Vec<Range<u64>>) -> Response {
    let multipart = Multipart::new(ranges, blob.size);
    let content_type = multipart.content_type();
    let length = multipart.length();
    let body = Body::from_stream(multipart.stream(blob.clone()));
    let mut response = answer(&blob, StatusCode::PARTIAL_CONTENT, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response.extensions_mut().insert(Partial::Multipart);
    response
}

fn answer(blob: &BlobView, status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    render::content(headers, &blob.digest);
    render::warning(headers, blob.fresh);
    response
}

fn described(headers: &mut HeaderMap, length: u64) {
    headers.insert(CONTENT_TYPE, OCTET_STREAM);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
}

fn refused(error: RangeError, size: u64) -> ApiError {
    let code = ErrorCode::SizeInvalid;
    match error {
        RangeError::Unsatisfiable => {
            let message = "no such range in this blob";
            ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, code, message)
                .header(CONTENT_RANGE, render::value(format_args!("bytes */{size}")))
        }
        RangeError::Excessive => {
            ApiError::new(StatusCode::BAD_REQUEST, code, "too many or too overlapping ranges")
        }
    }
}
