//! Every fsync of this crate, those of its start aside.
//!
//! In one place so that two test builds can leave them out, and the test of power cuts be seen to fail:
//! `unsafe-no-fsync`, where the whole node syncs nothing, and `unsafe-early-receipts`, where receipts do
//! not wait for what makes them true while the log goes on as it should.

use std::fs::File;
use std::io;
use std::path::Path;

use clawhub_kv::{Kv, KvError};

/// Nothing of this crate is made durable. False in every build that is for use.
const LEFT_OUT: bool = cfg!(any(feature = "unsafe-no-fsync", feature = "unsafe-early-receipts"));

/// Makes the bytes of a file durable.
pub(crate) fn fsync_data(file: &File) -> io::Result<()> {
    if LEFT_OUT { Ok(()) } else { file.sync_data() }
}

/// Makes the entries of a directory durable.
pub(crate) fn fsync_dir(dir: &Path) -> io::Result<()> {
    if LEFT_OUT { Ok(()) } else { File::open(dir)?.sync_all() }
}

/// Makes the rows written so far durable.
pub(crate) fn fsync_rows(kv: &dyn Kv) -> Result<(), KvError> {
    if LEFT_OUT { Ok(()) } else { kv.sync() }
}
