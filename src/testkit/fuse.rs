//! Disks that fail: a view of a folder, in which operations fail below a chosen path.
//!
//! [`Faulty`] mounts a file system that this process serves through `/dev/fuse`. It hands everything on to
//! the folder below, until [`Faulty::fail`] says what to answer in its place; files that are open already
//! fail with the others. It owns the mount, the threads that serve it and the files that are open through
//! it, and keeps no data: what was written lies in the folder below, where it stays. If this process is
//! killed the mount stays behind, dead, until somebody unmounts it.
//!
//! What an operation that fails does to the data is nothing at all: a disk that fails does worse. What is
//! not fsynced is not lost either; a [`crate::disk::Disk`] below adds that.
//!
//! The kernel answers some requests by itself, and no fault meets them: reads of what it has in its page
//! cache ([`Faulty::uncache`] has it ask again), locks, closing, and writes to a shared mapping until they
//! are written back. Not there are attributes with names (`EOPNOTSUPP`), `O_TMPFILE`, ioctls, and what other
//! file systems are mounted in the folder below. Only the user who mounts can use it.

mod server;
mod tree;
mod work;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fuser::{BackgroundSession, Config, Session, SessionACL};
use parking_lot::RwLock;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{getegid, geteuid};

use tree::Tree;
use work::Work;

/// Where the kernel hands out its side of a mount.
const DEVICE: &str = "/dev/fuse";
/// So many requests may wait for the disk below at the same time.
const SERVERS: usize = 8;

/// What a disk does from some moment on. Unmentioned operations go on as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is gone: everything answers `EIO`, even the question whether a file exists.
    Io,
    /// Nothing can be written: writing, allocating and fsync answer `EIO`. Names can still be made, moved and
    /// removed, and files cut, since their journal is another part of the disk.
    WriteIo,
    /// What changes anything, and opening a file to write, answers `EROFS`. An fsync has nothing to do.
    ReadOnly,
    /// What needs space answers `ENOSPC`: new names, and every write, as where old data is not overwritten.
    /// `statfs` tells no free block. Removing, moving, cutting and fsync go on.
    Full,
    /// Writing and fsync take so much longer, each by itself, and work.
    Slow(Duration),
}

/// What an operation does, as far as faults tell operations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Asks only.
    Read,
    /// Puts bytes into a file, or allocates room for them.
    Write,
    Sync,
    /// Makes a name.
    Make,
    /// Changes anything else.
    Change,
}

impl Fault {
    fn answer(self, act: Act) -> Option<Errno> {
        match (self, act) {
            (Fault::Io, _) | (Fault::WriteIo, Act::Write | Act::Sync) => Some(Errno::IO),
            (Fault::ReadOnly, Act::Write | Act::Make | Act::Change) => Some(Errno::ROFS),
            (Fault::Full, Act::Write | Act::Make) => Some(Errno::NOSPC),
            (Fault::WriteIo | Fault::ReadOnly | Fault::Full | Fault::Slow(_), _) => None,
        }
    }

    fn delay(self, act: Act) -> Duration {
        match (self, act) {
            (Fault::Slow(delay), Act::Write | Act::Sync) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// The faults there are now, each with the path at and below which it holds.
#[derive(Debug, Default)]
struct Faults {
    now: RwLock<Vec<(PathBuf, Fault)>>,
    failures: AtomicU64,
}

impl Faults {
    /// Fails, and counts it, if a fault stops `act` at one of these paths.
    fn check(&self, act: Act, paths: impl FnOnce() -> Vec<PathBuf>) -> io::Result<()> {
        let now = self.now.read();
        if now.is_empty() {
            return Ok(());
        }
        let paths = paths();
        let met = || now.iter().filter(|(under, _)| lies(&paths, under)).map(|(_, fault)| fault);
        let delay: Duration = met().map(|fault| fault.delay(act)).sum();
        let answer = met().find_map(|fault| fault.answer(act));
        drop(now);
        std::thread::sleep(delay);
        let Some(errno) = answer else { return Ok(()) };
        self.failures.fetch_add(1, Ordering::Relaxed);
        Err(errno.into())
    }

    /// Whether the disk has no space left at one of these paths.
    fn full(&self, paths: &[PathBuf]) -> bool {
        let now = self.now.read();
        now.iter().any(|(under, fault)| *fault == Fault::Full && lies(paths, under))
    }
}

/// Whether one of these paths is `under` or lies below it.
fn lies(paths: &[PathBuf], under: &Path) -> bool {
    paths.iter().any(|path| path.starts_with(under))
}

/// A mounted view of a folder. Dropping it unmounts: who still has a file open there gets `ENOTCONN`, and a
/// mapping that was not synced loses what was written to it.
#[derive(Debug)]
pub struct Faulty {
    at: PathBuf,
    tree: Arc<Tree>,
    faults: Arc<Faults>,
    /// The threads that serve; none only while mounting.
    session: Option<BackgroundSession>,
}

impl Faulty {
    /// Why none can be made on this machine, if so: it takes root and the kernel's FUSE, and no package.
    pub fn unavailable() -> Option<String> {
        if !geteuid().is_root() {
            return Some("only root can mount".to_owned());
        }
        device().err().map(|e| format!("{DEVICE}: {e}"))
    }

    /// Mounts a view of the folder `below` at the folder `at`, which may be the same one and is hidden then.
    ///
    /// # Errors
    /// If a folder is not there, or the kernel refuses.
    pub fn mount(below: &Path, at: &Path) -> Result<Faulty> {
        let tree = Arc::new(Tree::new(below).with_context(|| below.display().to_string())?);
        let at = at.canonicalize().with_context(|| at.display().to_string())?;
        let device = device().context(DEVICE)?;
        let (user, group) = (geteuid(), getegid());
        let folder = rustix::fs::FileType::Directory.as_raw_mode();
        let channel = device.as_raw_fd();
        let options = format!("fd={channel},rootmode={folder:o},user_id={user},group_id={group}");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("clawhub-testkit", &at, "fuse", flags, CString::new(options)?.as_c_str())
            .with_context(|| format!("mounting at {}", at.display()))?;
        // From here on, dropping it unmounts.
        let mut faulty = Faulty { at, tree, faults: Arc::default(), session: None };
        let mut config = Config::default();
        config.n_threads = Some(SERVERS);
        let work = Work::new(Arc::clone(&faulty.tree), Arc::clone(&faulty.faults));
        let session = Session::from_fd(work, device.into(), SessionACL::Owner, config)?;
        faulty.session = Some(session.spawn()?);
        Ok(faulty)
    }

    /// From now on what is asked of `under` and of names below it fails that way; "" is everything. What has
    /// begun goes on. `under` is relative, and need not exist. A file that has several names fails if one of
    /// them lies there. Faults add up, and of two that stop the same operation the older one answers.
    pub fn fail(&self, under: &str, fault: Fault) {
        self.faults.now.write().push((PathBuf::from(under), fault));
    }

    /// Has the kernel drop the content that it keeps of the files at and below `under`, so that the next read
    /// of each comes here: after [`Faulty::fail`], to fail. What was written to a mapping is written back, or
    /// fails.
    ///
    /// # Errors
    /// If the kernel does not take the notice.
    pub fn uncache(&self, under: &str) -> Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let notifier = session.notifier();
        for number in self.tree.below(Path::new(under)) {
            notifier.inval_inode(number, 0, 0)?;
        }
        Ok(())
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.faults.now.write().clear();
    }

    /// How many operations have failed for a fault so far.
    pub fn failures(&self) -> u64 {
        self.faults.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // By force, so that the threads end although somebody has a file open; lazily, so that the mount goes
        // from the folder at once all the same.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        let unmounted = unmount(&self.at, flags);
        // Were it still mounted, they would not end.
        if let (Ok(()), Some(session)) = (unmounted, self.session.take()) {
            let _ = session.join();
        }
    }
}

fn device() -> io::Result<File> {
    File::options().read(true).write(true).open(DEVICE)
}

#[cfg(test)]
#[path = "fuse/fuse_test.rs"]
mod tests;
