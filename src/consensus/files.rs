//! Blocking work on files, what a file holds, and how much room is left for more.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use openraft::async_runtime::AsyncRuntime;

use crate::Execution;

/// Runs blocking work where it stalls nobody else; in simulation in place.
pub(crate) async fn blocking<R: AsyncRuntime, T: Send + 'static>(
    execution: Execution,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match execution {
        Execution::Inline => work(),
        Execution::Threads => R::spawn_blocking(work).await?,
    }
}

/// Length and BLAKE3 of a file.
pub(crate) fn digest(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((size, *hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

/// Bytes that the file system of a directory offers.
pub(crate) fn room(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
