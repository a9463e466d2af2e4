//! What a device says of itself: how much room it has, and whether it still takes what it is given.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::look::Look;

/// Written over again at every look: a file that was never anybody's.
const NAME: &str = "PROBE";
/// One block: less would be read first and then written.
const BLOCK: [u8; 4096] = [0; 4096];

/// What tells of a device, and not of what this process runs out of.
const OF_A_DEVICE: [Errno; 10] = [
    Errno::IO,
    Errno::ROFS,
    Errno::NODEV,
    Errno::NXIO,
    Errno::STALE,
    Errno::UCLEAN,
    Errno::BADMSG,
    Errno::NOTCONN,
    Errno::TIMEDOUT,
    Errno::REMOTEIO,
];

/// A folder, and the device it lies on.
pub(crate) struct Volume {
    dir: PathBuf,
    device: u64,
    /// Open from the start: whoever runs out of descriptors does not take his device for broken.
    probe: File,
}

impl Volume {
    /// Notes which device the folder lies on, and makes the file that is written at each look.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Volume> {
        let device = std::fs::metadata(&dir)?.dev();
        let probe = File::options().create(true).truncate(false).write(true).open(dir.join(NAME))?;
        Ok(Volume { dir, device, probe })
    }

    /// One for each device that the folders lie on.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub(crate) fn distinct(dirs: impl IntoIterator<Item = PathBuf>) -> io::Result<Vec<Volume>> {
        let mut volumes: Vec<Volume> = Vec::new();
        for dir in dirs {
            let device = std::fs::metadata(&dir)?.dev();
            if volumes.iter().all(|volume| volume.device != device) {
                volumes.push(Volume::open(dir)?);
            }
        }
        Ok(volumes)
    }

    /// Blocking. Has the device keep a block, and asks how many bytes it offers. A full one is no failure.
    pub(crate) fn look(&self) -> Look {
        match self.try_look() {
            Ok(look) => look,
            Err(error)
                if OF_A_DEVICE.map(Errno::raw_os_error).contains(&error.raw_os_error().unwrap_or(0)) =>
            {
                Look::Failing(error.to_string())
            }
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "a device could not be looked at");
                Look::Unknown
            }
        }
    }

    fn try_look(&self) -> io::Result<Look> {
        if std::fs::metadata(&self.dir)?.dev() != self.device {
            return Ok(Look::Failing("another device lies there than at the start".to_owned()));
        }
        // In place, so that a journal has nothing to note but the time.
        let kept = self.probe.write_all_at(&BLOCK, 0).and_then(|()| self.probe.sync_data());
        match kept {
            // Whatever it offers: a quota, say, is not in what it says.
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                return Ok(Look::Room(0));
            }
            other => other?,
        }
        let room = statvfs(&self.dir)?;
        Ok(Look::Room(room.f_bavail.saturating_mul(room.f_frsize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_device_are_one_volume() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| dir.path().join(name));
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let volumes = Volume::distinct(dirs).unwrap();
        assert_eq!(volumes.len(), 1);
        assert!(matches!(volumes[0].look(), Look::Room(room) if room > 0));
        assert!(Volume::open(dir.path().join("gone")).is_err());
    }

    #[test]
    fn another_device_in_its_place_is_a_failure_and_a_missing_folder_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(dir.path().to_owned()).unwrap();
        let other = Volume { device: volume.device + 1, ..volume };
        assert!(matches!(other.look(), Look::Failing(_)));
        let volume = Volume { device: other.device - 1, dir: dir.path().join("gone"), probe: other.probe };
        assert_eq!(volume.look(), Look::Unknown);
    }
}
