//! The fsyncs that an acknowledgement waits for, and the two mutants that leave them out.
//!
//! A client is told 201 once the log and the blobs are durable. Whether the test of power cuts would notice a
//! build that answers too early is shown with two mutants that do: `no-fsync` syncs neither log nor blobs,
//! `early-receipts` syncs the log alone. Everything else in this crate is synced by these, too: a node that had lost
//! its identity would not start, and so would not show what it lost.

use std::fs::File;
use std::io;
use std::path::Path;

use clawhub_mutant::Mutant;

/// Whether the log is not made durable. False in every build that is for use.
pub fn log_left_out() -> bool {
    Mutant::NoFsync.breaks()
}

/// Whether blobs, and the rows that speak of them, are not made durable. False in every build that is for use.
pub fn blobs_left_out() -> bool {
    Mutant::NoFsync.breaks() || Mutant::EarlyReceipts.breaks()
}

/// Makes the bytes of a blob's file durable.
///
/// # Errors
/// The device refuses; what the file holds on it is then unknown.
pub fn sync_blob(file: &File) -> io::Result<()> {
    if blobs_left_out() { Ok(()) } else { file.sync_data() }
}

/// Makes the names in a directory of blobs durable.
///
/// # Errors
/// The directory cannot be opened, or the device refuses.
pub fn sync_blob_dir(dir: &Path) -> io::Result<()> {
    if blobs_left_out() { Ok(()) } else { crate::sync_dir(dir) }
}
