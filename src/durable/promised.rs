//! The fsyncs that an acknowledgement waits for, and the two test builds that leave them out.
//!
//! A client is told 201 once the log and the blobs are durable. Whether the test of power cuts would notice a
//! build that answers too early is shown with two builds that do: `unsafe-no-fsync` syncs neither log nor
//! blobs, `unsafe-early-receipts` syncs the log alone. Everything else in this crate is synced in these builds
//! too: a node that had lost its identity would not start, and so would not show what it lost.

use std::fs::File;
use std::io;
use std::path::Path;

/// Whether the log is not made durable. False in every build that is for use.
pub const LOG_LEFT_OUT: bool = cfg!(feature = "unsafe-no-fsync");

/// Whether blobs, and the rows that speak of them, are not made durable. False in every build that is for use.
pub const BLOBS_LEFT_OUT: bool = cfg!(any(feature = "unsafe-no-fsync", feature = "unsafe-early-receipts"));

/// Makes the bytes of a blob's file durable.
///
/// # Errors
/// The device refuses; what the file holds on it is then unknown.
pub fn sync_blob(file: &File) -> io::Result<()> {
    if BLOBS_LEFT_OUT { Ok(()) } else { file.sync_data() }
}

/// Makes the names in a directory of blobs durable.
///
/// # Errors
/// The directory cannot be opened, or the device refuses.
pub fn sync_blob_dir(dir: &Path) -> io::Result<()> {
    if BLOBS_LEFT_OUT { Ok(()) } else { crate::sync_dir(dir) }
}
