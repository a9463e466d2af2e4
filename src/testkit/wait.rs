//! Waiting for a condition, always with a limit.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// Polls `probe` until it yields a value.
///
/// # Errors
/// After `limit`, naming `what` and the last thing that the probe complained about.
pub async fn until<T, F, P>(what: &str, limit: Duration, mut probe: P) -> Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut last = None;
    loop {
        match tokio::time::timeout(limit.saturating_sub(start.elapsed()).max(POLL), probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(anyhow::anyhow!("the probe itself did not answer")),
        }
        if start.elapsed() >= limit {
            match last {
                Some(error) => bail!("waited {limit:?} for {what}; last: {error:#}"),
                None => bail!("waited {limit:?} for {what}"),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
