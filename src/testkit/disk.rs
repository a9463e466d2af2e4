//! Devices whose power can be cut: ext4 in a file, on a loop device.
//!
//! Killing a process tests no fsync, since what it wrote stays in the kernel's memory. [`Disk::cut`] has ext4
//! give up at once and without writing anything more, its journal included: what is on the device then is
//! what a machine would find after its power went, and mounting it again replays the journal as that
//! machine would. What was acknowledged and not fsynced is gone for good.
//!
//! The file below the device stays whole, so a drive's own volatile cache is not part of this: it answers
//! flushes truly here, which a drive that lies would not.
#![expect(unsafe_code, reason = "no safe call tells a file system to shut down")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::process::tool;

/// `EXT4_IOC_SHUTDOWN`, the same number as XFS's: `_IOR('X', 125, __u32)`. It is declared as a read and
/// takes a pointer to what it reads.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: at once; what the journal has not committed is lost.
const WITHOUT_LOG_FLUSH: u32 = 2;

/// ext4 writes a file back at once if it was truncated, or renamed over another: a kindness to programs that
/// forget to fsync, and unknown to other file systems. Without it, what is not fsynced is not there.
const NO_KINDNESS: &str = "noauto_da_alloc";

/// What making one takes. `mount` and `umount` are there wherever `losetup` is.
const TOOLS: [&str; 2] = ["losetup", "mkfs.ext4"];

/// A file system of its own on a device of its own, mounted. Everything goes when it is dropped, the image
/// too; who has files open there must have stopped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    device: PathBuf,
    at: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Why none can be made on this machine, if so: it takes root, loop devices and two tools.
    pub fn unavailable() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root can mount".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there is no /dev/loop-control".to_owned());
        }
        let missing = TOOLS.iter().find(|name| Command::new(name).arg("--version").output().is_err());
        missing.map(|name| format!("there is no {name}"))
    }

    /// Makes a disk of so many bytes, of which the file `image` takes only what is used, and mounts it at
    /// the folder `at`, which must exist.
    ///
    /// # Errors
    /// If a step fails; the steps before are undone.
    pub fn new(image: &Path, bytes: u64, at: &Path) -> Result<Disk> {
        File::create(image)?.set_len(bytes)?;
        let device = attach(image)?;
        let mut disk = Disk { image: image.to_owned(), device, at: at.to_owned(), mounted: false };
        // Everything about the journal as it is by default: that is what users have. Tables are written at
        // once, so that no thread of the kernel does it during the test.
        tool(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0"]).arg(&disk.device))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Cuts the power: nothing reaches the device any more, and whoever asks for it gets an error.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn cut(&self) -> Result<()> {
        let root = File::open(&self.at)?;
        // SAFETY: the kernel reads one `u32` behind the pointer that the setter makes, and writes nothing.
        let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH)) };
        cut.with_context(|| format!("shutting down {}", self.at.display()))
    }

    /// Fills the disk but for so many bytes that are `left` to everybody, with a file of that name in its root
    /// folder. Without `left` what is reserved for root goes too.
    ///
    /// # Errors
    /// If the room cannot be taken.
    pub fn fill(&self, name: &str, left: u64) -> Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(self.at.join(name))?;
        let room = statvfs(&self.at)?;
        let free = if left == 0 { room.f_bfree } else { room.f_bavail };
        let mut step = (free * room.f_frsize).saturating_sub(left);
        let mut end = file.metadata()?.len();
        while step >= room.f_frsize {
            match fallocate(&file, FallocateFlags::empty(), end, step) {
                Ok(()) => end += step,
                // Whatever the file itself takes: less of it, then.
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error.into()),
            }
            if left > 0 {
                break;
            }
        }
        Ok(file.sync_all()?)
    }

    /// Takes these files out of its root folder again.
    ///
    /// # Errors
    /// If one that is there cannot be removed.
    pub fn empty(&self, names: &[&str]) -> Result<()> {
        for name in names {
            match fs::remove_file(self.at.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => (),
            }
        }
        Ok(())
    }

    /// The power is back: forgets what was in memory, replays the journal. Nobody may have a file open.
    ///
    /// # Errors
    /// If somebody has, or the file system cannot be mounted.
    pub fn restore(&mut self) -> Result<()> {
        self.unmount()?;
        // A process in a mount namespace that was copied meanwhile keeps the file system alive that was shut down: mounted
        // from the same device it would be that one again.
        tool(Command::new("losetup").arg("--detach").arg(&self.device))?;
        self.device = attach(&self.image)?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        ensure!(!self.mounted, "{} is mounted already", self.at.display());
        tool(Command::new("mount").args(["-t", "ext4", "-o", NO_KINDNESS]).arg(&self.device).arg(&self.at))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        tool(Command::new("umount").arg(&self.at))?;
        self.mounted = false;
        Ok(())
    }
}

/// A device of its own that is this file.
fn attach(image: &Path) -> Result<PathBuf> {
    let attached = tool(Command::new("losetup").args(["--find", "--show"]).arg(image))?;
    Ok(PathBuf::from(attached.trim()))
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Each step is tried, whatever became of the one before: nothing may stay behind on the machine. A
        // lazy unmount is for files that a failed test still has open; their end is the end of it all.
        if self.mounted && self.unmount().is_err() {
            let _ = tool(Command::new("umount").arg("--lazy").arg(&self.at));
        }
        let _ = tool(Command::new("losetup").arg("--detach").arg(&self.device));
        let _ = fs::remove_file(&self.image);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What the proof with nodes rests on: a cut keeps what was fsynced, and takes what was not.
    #[test]
    fn a_cut_takes_what_was_not_fsynced_and_nothing_else() -> Result<()> {
        if let Some(why) = Disk::unavailable() {
            println!("skipped: no disks here: {why}");
            return Ok(());
        }
        let home = tempfile::tempdir()?;
        let at = home.path().join("at");
        fs::create_dir(&at)?;
        let mut disk = Disk::new(&home.path().join("image"), 64 << 20, &at)?;
        File::create(at.join("lazy"))?.write_all(b"written")?;
        let mut safe = File::create(at.join("safe"))?;
        safe.write_all(b"written")?;
        safe.sync_all()?;
        drop(safe);
        disk.cut()?;
        assert!(File::create(at.join("late")).is_err(), "the device still takes files");
        disk.restore()?;
        assert_eq!(fs::read(at.join("safe"))?, b"written");
        // Its name went to the journal with the other file's; its bytes had no blocks yet.
        assert_ne!(fs::read(at.join("lazy")).unwrap_or_default(), b"written");
        let device = disk.device.clone();
        drop(disk);
        assert_eq!(fs::read_dir(&at)?.count(), 0, "still mounted");
        let left = Command::new("losetup").arg(device).output()?;
        assert!(!left.status.success(), "the loop device is still there: {left:?}");
        Ok(())
    }
}
