//! Where everything lies under the data directory, and the moves that must be durable.
//!
//! ```text
//! blobs/ab/cd/<root>.data   a replica; never changes
//! blobs/ab/cd/<root>.ob     its group list, if it has more than one group
//! uploads/<id>/{data,ob}    a session's bytes
//! partial/<root>.{data,ob}  a fetch in progress
//! quarantine/<root>.<n>.*   copies that failed a check; never served again
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clawhub_durable::promised::{sync_blob, sync_blob_dir};
use clawhub_types::{Root, UploadId};
use parking_lot::Mutex;

/// Directories `blobs/ab/cd`.
const SHARDS: usize = 1 << 16;

pub(crate) struct Paths {
    base: PathBuf,
    /// One bit per shard whose directory is known to be durable.
    shards: Mutex<Vec<u64>>,
}

impl Paths {
    /// Creates the top directories. What exists becomes durable here, once, so that later only new
    /// directories need an fsync of their parents.
    pub(crate) fn open(base: PathBuf) -> io::Result<Paths> {
        let paths = Paths { base, shards: Mutex::new(vec![0; SHARDS / 64]) };
        for dir in [paths.blobs(), paths.uploads(), paths.partials(), paths.quarantine()] {
            fs::create_dir_all(dir)?;
        }
        rustix::fs::syncfs(File::open(&paths.base)?)?;
        Ok(paths)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.base.join("blobs")
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.base.join("uploads")
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.base.join("partial")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.base.join("quarantine")
    }

    pub(crate) fn upload(&self, id: &UploadId) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    pub(crate) fn partial(&self, root: &Root) -> Files {
        Files::at(&self.partials(), &root.hex())
    }

    pub(crate) fn blob(&self, root: &Root) -> Files {
        Files::at(&self.shard(root), &root.hex())
    }

    fn shard(&self, root: &Root) -> PathBuf {
        let hex = root.hex();
        self.blobs().join(&hex[..2]).join(&hex[2..4])
    }

    /// Marks an existing shard directory as durable; only during open, after the sync.
    pub(crate) fn known_shard(&self, shard: u16) {
        let shard = usize::from(shard);
        self.shards.lock()[shard / 64] |= 1 << (shard % 64);
    }

    /// Moves fsynced files to their place as a replica, durably. The list goes first: a `.data` file
    /// in `blobs/` is complete.
    pub(crate) fn install(&self, root: &Root, from: &Files, with_list: bool) -> io::Result<()> {
        self.ensure_shard(root)?;
        let to = self.blob(root);
        if with_list {
            fs::rename(&from.ob, &to.ob)?;
        }
        fs::rename(&from.data, &to.data)?;
        sync_blob_dir(&self.shard(root))
    }

    fn ensure_shard(&self, root: &Root) -> io::Result<()> {
        let number = u16::from_be_bytes([root.0[0], root.0[1]]);
        if self.shards.lock()[usize::from(number) / 64] >> (number % 64) & 1 == 1 {
            return Ok(());
        }
        let shard = self.shard(root);
        fs::create_dir_all(&shard)?;
        if let Some(parent) = shard.parent() {
            sync_blob_dir(parent)?;
        }
        sync_blob_dir(&self.blobs())?;
        self.known_shard(number);
        Ok(())
    }

    /// Makes the entries of a replica's directory durable.
    pub(crate) fn fsync_shard(&self, root: &Root) -> io::Result<()> {
        sync_blob_dir(&self.shard(root))
    }

    /// Deletes a replica's files, durably. Absent ones are fine.
    pub(crate) fn unlink(&self, root: &Root) -> io::Result<()> {
        self.blob(root).remove()?;
        match sync_blob_dir(&self.shard(root)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Moves a replica's files out of service, durably.
    pub(crate) fn condemn(&self, root: &Root) -> io::Result<()> {
        let from = self.blob(root);
        let mut number = 0u32;
        let to = loop {
            let to = Files::at(&self.quarantine(), &format!("{}.{number}", root.hex()));
            if !to.data.try_exists()? && !to.ob.try_exists()? {
                break to;
            }
            number += 1;
        };
        for (from, to) in [(&from.data, &to.data), (&from.ob, &to.ob)] {
            match fs::rename(from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_blob_dir(&self.quarantine())?;
        sync_blob_dir(&self.shard(root))
    }

    /// Bytes that the device has in all.
    pub(crate) fn capacity(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.base)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Bytes that an unprivileged writer may still use.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.base)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A data file and its group list.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) data: PathBuf,
    pub(crate) ob: PathBuf,
}

impl Files {
    fn at(dir: &Path, stem: &str) -> Files {
        Files { data: dir.join(format!("{stem}.data")), ob: dir.join(format!("{stem}.ob")) }
    }

    /// The files of an upload in its own directory.
    pub(crate) fn in_dir(dir: &Path) -> Files {
        Files { data: dir.join("data"), ob: dir.join("ob") }
    }

    /// Deletes both, present or not.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for path in [&self.data, &self.ob] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Deletes a directory and what is in it, present or not.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Blocking. Creates a file with this content and fsyncs it.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    sync_blob(&file)
}
