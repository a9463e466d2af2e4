//! What a device says of itself: how much room it has, and whether it still takes what it is given.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// Written over again at every look: a file that was never anybody's.
const NAME: &str = "PROBE";
/// One block: less would be read first and then written.
const BLOCK: [u8; 4096] = [0; 4096];

/// A folder, and the device it lies on.
pub(crate) struct Volume {
    dir: PathBuf,
}

impl Volume {
    pub(crate) fn new(dir: PathBuf) -> Volume {
        Volume { dir }
    }

    /// The folders that lie on different devices, one of each.
    pub(crate) fn distinct(dirs: impl IntoIterator<Item = PathBuf>) -> Vec<Volume> {
        let mut devices = Vec::new();
        let mut volumes = Vec::new();
        for dir in dirs {
            // One that cannot be looked at is a volume of its own, so that it is looked at again.
            let device = std::fs::metadata(&dir).ok().map(|folder| folder.dev());
            if device.is_none() || !devices.contains(&device) {
                devices.push(device);
                volumes.push(Volume::new(dir));
            }
        }
        volumes
    }

    /// Blocking. Has the device keep a block, and answers how many bytes it offers. A full one is no
    /// failure.
    ///
    /// # Errors
    /// What the device says: it fails, or became read-only.
    pub(crate) fn look(&self) -> io::Result<u64> {
        match write(&self.dir.join(NAME)) {
            Err(error) if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                return Err(error);
            }
            _ => (),
        }
        let room = statvfs(&self.dir)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// In place, so that a journal has nothing to note but the time.
fn write(path: &Path) -> io::Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.write_all_at(&BLOCK, 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_device_are_one_volume() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| dir.path().join(name));
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let volumes = Volume::distinct(dirs.clone());
        assert_eq!(volumes.len(), 1);
        assert!(volumes[0].look().unwrap() > 0);
        assert!(Volume::new(dir.path().join("gone")).look().is_err());
        assert_eq!(Volume::distinct(dirs.into_iter().chain([dir.path().join("gone")])).len(), 2);
    }
}
