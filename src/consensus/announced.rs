//! What a snapshot's header says that will come. It is from another node, and names files: nothing is made of it before it
//! was looked at.

use std::io;

use crate::record::{self, FileEntry, Manifest};
use crate::transport::SnapshotHeader;

const MAX_FILES: usize = 100_000;

/// The error of a sender that does not keep to the protocol.
pub(crate) fn refused(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// What a header announces.
///
/// # Errors
/// It cannot be read, or names files that nobody may write.
pub(crate) fn announced(header: &SnapshotHeader) -> io::Result<Manifest> {
    let mut manifest = record::decode_manifest(&header.meta)?;
    manifest.files = checked(&header.files)?;
    Ok(manifest)
}

/// Names come from the network and become paths: plain ones only, and each once.
fn checked(files: &[FileEntry]) -> io::Result<Vec<FileEntry>> {
    let plain = |name: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(known)
    };
    let in_order = files.windows(2).all(|pair| pair[0].name < pair[1].name);
    if files.len() > MAX_FILES || !in_order || !files.iter().all(|f| plain(&f.name)) {
        return Err(refused("the snapshot's list of files is not acceptable"));
    }
    Ok(files.to_vec())
}
