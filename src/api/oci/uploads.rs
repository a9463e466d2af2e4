//! `/v2/<name>/blobs/uploads/`: upload sessions, monolithic pushes and mounts.
//!
//! The Content-Type of these requests means nothing: some clients send `application/json`. Every answer
//! about a session that goes on names its Location and how far it has got.

use axum::body::Body;
use axum::response::Response;
use clawhub_api_http::body_stream;
use clawhub_auth::{Pull, Push};
use clawhub_registry::{Error, Kind, Repo, UploadView};
use clawhub_types::{Algorithm, Digest, RepoName, UploadId};
use http::header::{LOCATION, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Body as _;

use crate::ErrorCode;
use crate::call::{self, Call};
use crate::chunk::Chunk;
use crate::error::ApiError;
use crate::render;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Opens a session, or does without one: `mount` takes the blob from another repository, `digest` comes
/// with the whole blob. A mount that cannot be made falls back to a session, whatever the reason.
pub(crate) async fn post(call: &Call, body: Body, repo: &RepoName) -> Result<Response, ApiError> {
    let target = call.repo::<Push>(repo)?;
    if let Some(mount) = call.query.first("mount") {
        let digest = call::digest(mount)?;
        if mounted(call, &target, &digest).await? {
            return Ok(render::blob_created(repo, &digest));
        }
    } else if let Some(digest) = call.query.last("digest") {
        let digest = call::digest(digest)?;
        let chunk = Chunk { range: None, length: body.size_hint().exact() }.of(body_stream(body));
        let digest = target.push_blob(&digest, chunk.length, chunk.body).await?;
        return Ok(render::blob_created(repo, &digest));
    }
    let hint = call.query.first("digest-algorithm").map(algorithm).transpose()?;
    let upload = target.begin_upload(hint).await?;
    Ok(session(repo, &upload, StatusCode::ACCEPTED))
}

pub(crate) async fn status(call: &Call, repo: &RepoName, id: UploadId) -> Result<Response, ApiError> {
    let upload = call.repo::<Push>(repo)?.status(id).await?;
    Ok(session(repo, &upload, StatusCode::NO_CONTENT))
}

pub(crate) async fn patch(
    call: &Call,
    body: Body,
    repo: &RepoName,
    id: UploadId,
) -> Result<Response, ApiError> {
    let target = call.repo::<Push>(repo)?;
    let chunk = Chunk::parse(&call.headers, body.size_hint().exact())?.of(body_stream(body));
    let appended = target.append(id, chunk).await;
    let upload = appended.map_err(|error| failed(repo, error))?;
    Ok(session(repo, &upload, StatusCode::ACCEPTED))
}

/// Appends the last chunk, if there is one, and closes the session.
pub(crate) async fn put(
    call: &Call,
    body: Body,
    repo: &RepoName,
    id: UploadId,
) -> Result<Response, ApiError> {
    let target = call.repo::<Push>(repo)?;
    let Some(digest) = call.query.last("digest") else {
        return Err(ApiError::code(ErrorCode::DigestInvalid, "the digest parameter is missing"));
    };
    let digest = call::digest(digest)?;
    let chunk = Chunk::parse(&call.headers, body.size_hint().exact())?.of(body_stream(body));
    let finished = target.finish(id, &digest, chunk).await;
    let digest = finished.map_err(|error| failed(repo, error))?;
    Ok(render::blob_created(repo, &digest))
}

/// Ends the session and forgets its bytes. Whoever may push may cancel.
pub(crate) async fn cancel(call: &Call, repo: &RepoName, id: UploadId) -> Result<Response, ApiError> {
    call.repo::<Push>(repo)?.cancel(id).await?;
    Ok(render::empty(StatusCode::NO_CONTENT))
}

/// Tries a mount. A source that is not named, is not a name, does not exist or may not be read is no error: the
/// client uploads instead.
async fn mounted(call: &Call, target: &Repo<Push>, digest: &Digest) -> Result<bool, ApiError> {
    let Some(from) = call.query.first("from") else { return Ok(false) };
    let Ok(from) = from.parse::<RepoName>() else { return Ok(false) };
    let Ok(source) = call.permit::<Pull>(&from) else { return Ok(false) };
    Ok(target.mount(&source, digest).await?)
}

fn algorithm(text: &str) -> Result<Algorithm, ApiError> {
    text.parse().map_err(|error| ApiError::code(ErrorCode::DigestInvalid, format!("{error}")))
}

fn session(repo: &RepoName, upload: &UploadView, status: StatusCode) -> Response {
    let mut response = render::empty(status);
    for (name, value) in session_headers(repo, upload) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn session_headers(repo: &RepoName, upload: &UploadView) -> [(HeaderName, HeaderValue); 3] {
    // The last byte held, and 0-0 as well while there is none: clients parse two numbers.
    let last = upload.offset.saturating_sub(1);
    [
        (LOCATION, render::upload_location(repo, upload.id)),
        (RANGE, render::value(format_args!("0-{last}"))),
        (UPLOAD_UUID, render::value(upload.id)),
    ]
}

/// A chunk out of order is told where the session stands.
fn failed(repo: &RepoName, error: Error) -> ApiError {
    let headers = match &error.kind {
        Kind::Range { upload } => Some(session_headers(repo, upload)),
        _ => None,
    };
    let answer = ApiError::from(error);
    headers.into_iter().flatten().fold(answer, |answer, (name, value)| answer.header(name, value))
}
