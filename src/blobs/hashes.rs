//! What is known of an upload's first bytes without reading them again: its hashes as they stood there, and how much of
//! the group list is in its file.
//!
//! They stay in memory while the files of a session are closed, and from the offset that its client was last told: so
//! neither very many sessions that are used in turn, nor requests that are sent again and again, cost a pass over all the
//! bytes each time. A crash loses them: then it takes one.

use std::io;

use sha2::{Digest, Sha256, Sha512};

use crate::tree::TreeHasher;

/// What they take of memory, at most, in bytes.
pub(crate) const HASHES_BYTES: usize = 4 << 10;

/// The hashes of the first bytes of an upload.
#[derive(Clone)]
pub(crate) struct Hashes {
    /// So many bytes.
    pub(crate) end: u64,
    pub(crate) tree: TreeHasher,
    /// Bytes of the group list that are in its file.
    pub(crate) list: u64,
    pub(crate) sha256: Sha256,
    pub(crate) sha512: Option<Sha512>,
}

impl Hashes {
    /// Those of no bytes.
    pub(crate) fn new(sha512: bool) -> Hashes {
        let sha512 = sha512.then(Sha512::new);
        Hashes { end: 0, tree: TreeHasher::new(), list: 0, sha256: Sha256::new(), sha512 }
    }

    /// Goes on with the next bytes; `write` takes the values of groups that they close.
    pub(crate) fn update(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut values = Vec::new();
        self.tree.update(bytes, &mut values);
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.end += bytes.len() as u64;
        write(&values, self.list)?;
        self.list += values.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_take_little_memory() {
        // Beside what is in place: one value for each level of the tree over 2^64 bytes.
        assert!(size_of::<Hashes>() + 48 * 32 <= HASHES_BYTES, "{}", size_of::<Hashes>());
    }
}
