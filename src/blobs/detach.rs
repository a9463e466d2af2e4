//! Work that goes on when its caller goes away. A client that disconnects drops the handler's future
//! at any await; steps that must not stop half-way run as their own task.

use std::future::Future;

use crate::BlobError;

/// Runs `work` to its end, whether or not the caller waits for the answer.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, BlobError>> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => Err(BlobError::Worker(error.to_string())),
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(BlobError::Worker(error.to_string())),
    }
}

/// Milliseconds since 1970, for rows that people and expiry read.
pub(crate) fn now_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
