//! The zeros that a power cut leaves at the end of a log.
//!
//! A file system may make a file's new length durable before the pages behind its old end: after a power
//! cut the log then ends in whole sectors of zeros, in the middle of a record that nobody was told of, since
//! it was never synced. RocksDB forgives a last record that the end of the file cuts off, and takes this
//! one for corruption. Cut back to its last sector that is not zero, the log ends as the former does.
//! Nothing that can be read is dropped, and a log that is damaged elsewhere stays as it was found.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a device writes as a whole.
const SECTOR: u64 = 512;
/// Bytes looked at together.
const SCAN_BYTES: u64 = 64 << 10;

/// A log without the zeros at its end, until [`Trimmed::restore`].
pub(crate) struct Trimmed {
    file: File,
    length: u64,
}

/// Cuts the zeros off the newest log of a store; `None` if it does not end in a sector of them.
pub(crate) fn trim(dir: &Path) -> io::Result<Option<Trimmed>> {
    let Some(path) = newest(dir)? else { return Ok(None) };
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let end = last_byte(&file, length)?.next_multiple_of(SECTOR);
    if end >= length {
        return Ok(None);
    }
    file.set_len(end)?;
    file.sync_all()?;
    Ok(Some(Trimmed { file, length }))
}

impl Trimmed {
    /// Puts the zeros back: they were not what was wrong.
    pub(crate) fn restore(self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }
}

/// Logs are numbered as they are made.
fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|kind| kind == "log")
            && let Some(number) = name.and_then(|name| name.parse::<u64>().ok())
        {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last byte ends that is not zero.
fn last_byte(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(SCAN_BYTES);
        let mut piece = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_exact_at(&mut piece, start)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
