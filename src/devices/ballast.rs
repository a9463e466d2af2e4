//! Room that is kept for metadata: a file that is given up when the device runs full.
//!
//! Whatever fills the device, votes and entries then still have somewhere to go for as long as it takes to
//! hand over, and to tell an operator. The file has no content that matters; a crash leaves it or not, and
//! the next look makes it right.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

const NAME: &str = "BALLAST";
/// `st_blocks` counts in these, whatever the file system's blocks are.
const BLOCK: u64 = 512;

pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// A ballast of `bytes` in the folder `dir`; not there yet, unless an earlier process left it.
    pub(crate) fn new(dir: &Path, bytes: u64) -> Ballast {
        Ballast { path: dir.join(NAME), bytes }
    }

    /// How large it is meant to be.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of the device it takes at the moment.
    pub(crate) fn held(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.blocks() * BLOCK)
    }

    /// Takes the room. Nothing happens if it is taken already.
    ///
    /// # Errors
    /// If there is not enough, or the file system cannot set room aside: then none is taken.
    pub(crate) fn take(&self) -> io::Result<()> {
        if self.held() >= self.bytes {
            return Ok(());
        }
        let file = File::options().create(true).truncate(false).write(true).open(&self.path)?;
        let taken = fallocate(&file, FallocateFlags::empty(), 0, self.bytes).map_err(io::Error::from);
        let taken = taken.and_then(|()| file.sync_all());
        if taken.is_err() {
            self.give_up()?;
        }
        taken
    }

    /// Leaves the room to others.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(crate) fn give_up(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 20);
        assert_eq!(ballast.held(), 0);
        ballast.take().unwrap();
        ballast.take().unwrap();
        assert!(ballast.held() >= 1 << 20);
        ballast.give_up().unwrap();
        ballast.give_up().unwrap();
        assert_eq!(ballast.held(), 0);
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 60);
        assert!(ballast.take().is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
