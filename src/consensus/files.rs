//! Files and directories, durably.

use std::fs::{self, File};
use std::io::{self, Read, Write};
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

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory whose name is durable; one that exists is fine.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Removes a directory and all below; one that does not exist is fine.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a file that after a crash has either its old content or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Moves a directory, durably.
pub(crate) fn move_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    from.parent().map_or(Ok(()), sync_dir)?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Copies the files of a flat directory into a new one, durably.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    sync_dir(to)?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Length and BLAKE3 of a file.
pub(crate) fn digest(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
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
