//! Work that tokio's workers must not be held up by, and work that must not stop half-way.

use std::future::Future;

/// The work never answered: it panicked, or the runtime ends.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Lost(#[from] tokio::task::JoinError);

/// Runs `work` on a thread that may block. It runs to its end even if the caller stops waiting.
///
/// # Errors
/// What `work` answers, or [`Lost`] as the caller's own error.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Lost> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(Lost)?
}

/// Runs `work` as a task of its own, to its end, whether or not the caller waits for the answer. A client that
/// disconnects drops its handler's future at any await; steps that belong together outlive that.
///
/// # Errors
/// What `work` answers, or [`Lost`] as the caller's own error.
pub async fn detached<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Lost> + Send + 'static,
{
    tokio::spawn(work).await.map_err(Lost)?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_caller() {
        let lost: Result<(), Lost> = blocking(|| panic!("of the work")).await;
        assert!(lost.unwrap_err().to_string().contains("panicked"));
        let lost: Result<(), Lost> = detached(async { panic!("of the work") }).await;
        assert!(lost.unwrap_err().to_string().contains("panicked"));
    }

    #[tokio::test]
    async fn detached_work_outlives_its_caller() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let work = detached(async move {
            gone.await.expect("the test lives");
            done.send(7).expect("the test waits");
            Ok::<(), Lost>(())
        });
        // Begun, and dropped half-way.
        assert!(tokio::time::timeout(Duration::from_millis(10), work).await.is_err());
        go.send(()).unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap().unwrap(), 7);
    }
}
