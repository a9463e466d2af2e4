//! Does what the kernel asks in the folder below, unless a fault is in the way.
//!
//! Owns the files that are open through the mount. Requests come on several threads; none holds a lock while
//! it waits for the disk.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileHandle, INodeNo, OpenFlags, RenameFlags, ReplyDirectory, TimeOrNow};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, StatVfs, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::fs::{chmodat, chownat, fallocate, fstatvfs, linkat, mkdirat, mknodat, openat, readlinkat};
use rustix::fs::{renameat_with, symlinkat, unlinkat, utimensat};

use super::tree::{Node, Tree};
use super::{Act, Faults};

/// What the kernel has done already when it asks to open: a position for each write, the name resolved, the
/// file created or cut. Reads and writes of any size must do, so none is direct.
const DONE_ABOVE: OFlags = OFlags::APPEND
    .union(OFlags::DIRECT)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NOFOLLOW);

/// All that can be asked of the folder below.
#[derive(Debug)]
pub(super) struct Work {
    tree: Arc<Tree>,
    faults: Arc<Faults>,
    open: Mutex<HashMap<FileHandle, Arc<Open>>>,
    opened: AtomicU64,
}

/// An open file or folder.
#[derive(Debug)]
struct Open {
    node: Arc<Node>,
    file: File,
    /// What lay in the folder when it was read from its beginning.
    listing: Mutex<Vec<Entry>>,
}

/// An entry of a folder: its number, kind and name.
type Entry = (u64, fuser::FileType, OsString);

/// The owner and the group, if they change.
type Owners = (Option<u32>, Option<u32>);

impl Work {
    pub(super) fn new(tree: Arc<Tree>, faults: Arc<Faults>) -> Work {
        Work { tree, faults, open: Mutex::default(), opened: AtomicU64::new(0) }
    }

    /// The node of this number, if `act` does not fail at it.
    fn at(&self, act: Act, number: INodeNo) -> io::Result<Arc<Node>> {
        let node = self.tree.get(number)?;
        self.faults.check(act, || node.paths())?;
        Ok(node)
    }

    /// The folder of this number, if `act` does not fail at this name in it.
    fn within(&self, act: Act, folder: INodeNo, name: &OsStr) -> io::Result<Arc<Node>> {
        let folder = self.tree.get(folder)?;
        self.faults.check(act, || vec![folder.path_of(name)])?;
        Ok(folder)
    }

    /// The open file of this handle, if `act` does not fail at it.
    fn using(&self, act: Act, handle: FileHandle) -> io::Result<Arc<Open>> {
        let open = self.open.lock().get(&handle).map(Arc::clone).ok_or(rustix::io::Errno::BADF)?;
        self.faults.check(act, || open.node.paths())?;
        Ok(open)
    }

    pub(super) fn look_up(&self, folder: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let folder = self.within(Act::Read, folder, name)?;
        Ok(self.tree.enter(&folder, name)?.1)
    }

    /// Tells the kernel of a name that was just made, as which the file has exactly this mode: the kernel
    /// took its client's umask off, and this process's has no say.
    fn made(&self, folder: &Arc<Node>, name: &OsStr, mode: Option<u32>) -> io::Result<(Arc<Node>, FileAttr)> {
        let (node, shown) = self.tree.enter(folder, name)?;
        let Some(mode) = mode else { return Ok((node, shown)) };
        chmodat(CWD, node.open_path(), Mode::from_raw_mode(mode), AtFlags::empty())?;
        let shown = node.attributes()?;
        Ok((node, shown))
    }

    pub(super) fn make_node(
        &self,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        device: u32,
    ) -> io::Result<FileAttr> {
        let folder = self.within(Act::Make, folder, name)?;
        let (kind, permissions) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode));
        mknodat(&folder.file, name, kind, permissions, u64::from(device))?;
        Ok(self.made(&folder, name, Some(mode))?.1)
    }

    pub(super) fn make_folder(&self, folder: INodeNo, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        let folder = self.within(Act::Make, folder, name)?;
        mkdirat(&folder.file, name, Mode::from_raw_mode(mode))?;
        Ok(self.made(&folder, name, Some(mode))?.1)
    }

    pub(super) fn make_symlink(&self, folder: INodeNo, name: &OsStr, target: &Path) -> io::Result<FileAttr> {
        let folder = self.within(Act::Make, folder, name)?;
        symlinkat(target, &folder.file, name)?;
        Ok(self.made(&folder, name, None)?.1)
    }

    pub(super) fn make_link(&self, number: INodeNo, folder: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (node, folder) = (self.at(Act::Make, number)?, self.within(Act::Make, folder, name)?);
        linkat(CWD, node.open_path(), &folder.file, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(self.made(&folder, name, None)?.1)
    }

    pub(super) fn make_file(
        &self,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> io::Result<(FileAttr, FileHandle)> {
        let folder = self.within(Act::Make, folder, name)?;
        let how = below(flags) | OFlags::CREATE | OFlags::NOFOLLOW;
        let file = File::from(openat(&folder.file, name, how, Mode::from_raw_mode(mode))?);
        let (node, shown) = self.made(&folder, name, Some(mode))?;
        Ok((shown, self.keep(node, file)))
    }

    pub(super) fn remove(&self, folder: INodeNo, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        let folder = self.within(Act::Change, folder, name)?;
        let node = self.tree.known(&folder, name);
        unlinkat(&folder.file, name, flags)?;
        if let Some(node) = node {
            node.lose(&folder, name);
        }
        Ok(())
    }

    pub(super) fn move_name(
        &self,
        (from, name): (INodeNo, &OsStr),
        (to, new): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (from, to) = (self.within(Act::Change, from, name)?, self.within(Act::Change, to, new)?);
        let (moved, met) = (self.tree.known(&from, name), self.tree.known(&to, new));
        let how = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        renameat_with(&from.file, name, &to.file, new, how)?;
        if let Some(met) = met {
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                met.gain(&from, name);
            }
            met.lose(&to, new);
        }
        if let Some(moved) = moved {
            moved.gain(&to, new);
            moved.lose(&from, name);
        }
        Ok(())
    }

    pub(super) fn change(
        &self,
        number: INodeNo,
        mode: Option<u32>,
        (owner, group): Owners,
        size: Option<u64>,
        times: [Option<TimeOrNow>; 2],
    ) -> io::Result<FileAttr> {
        let node = self.at(Act::Change, number)?;
        let path = node.open_path();
        if let Some(mode) = mode {
            chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if owner.is_some() || group.is_some() {
            let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
            chownat(&node.file, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = size {
            File::options().write(true).open(&path)?.set_len(size)?;
        }
        if times.iter().any(Option::is_some) {
            let [last_access, last_modification] = times.map(time);
            let times = Timestamps { last_access, last_modification };
            utimensat(CWD, &path, &times, AtFlags::empty())?;
        }
        node.attributes()
    }

    pub(super) fn open_file(&self, number: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let how = below(flags.0);
        let writes = how.intersects(OFlags::WRONLY | OFlags::RDWR);
        let node = self.at(if writes { Act::Change } else { Act::Read }, number)?;
        let file = File::from(openat(CWD, node.open_path(), how, Mode::empty())?);
        Ok(self.keep(node, file))
    }

    fn keep(&self, node: Arc<Node>, file: File) -> FileHandle {
        let handle = FileHandle(self.opened.fetch_add(1, Ordering::Relaxed));
        let open = Open { node, file, listing: Mutex::default() };
        self.open.lock().insert(handle, Arc::new(open));
        handle
    }

    /// The handle is used no more.
    pub(super) fn close(&self, handle: FileHandle) {
        let gone = self.open.lock().remove(&handle);
        // Without the lock: the last close of a removed file frees its blocks.
        drop(gone);
    }

    /// So many bytes from this offset on, fewer only at the end of the file.
    pub(super) fn fetch(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let open = self.using(Act::Read, handle)?;
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match open.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Writes all of it; if that fails, as much of it as the device took may be there.
    pub(super) fn store(&self, handle: FileHandle, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.using(Act::Write, handle)?.file.write_all_at(bytes, offset)
    }

    pub(super) fn reserve(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        let open = self.using(Act::Write, handle)?;
        Ok(fallocate(&open.file, FallocateFlags::from_bits_retain(mode.cast_unsigned()), offset, length)?)
    }

    pub(super) fn sync(&self, handle: FileHandle, only_data: bool) -> io::Result<()> {
        let open = self.using(Act::Sync, handle)?;
        if only_data { open.file.sync_data() } else { open.file.sync_all() }
    }

    /// Adds the entries from this position on, until the answer is full.
    pub(super) fn list(
        &self,
        handle: FileHandle,
        position: u64,
        reply: &mut ReplyDirectory,
    ) -> io::Result<()> {
        let open = self.using(Act::Read, handle)?;
        let mut listing = open.listing.lock();
        if position == 0 {
            listing.clear();
            for entry in Dir::read_from(&open.file)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                listing.push((entry.ino(), kind(entry.file_type()), name));
            }
        }
        for (next, (number, kind, name)) in (1..).zip(listing.iter()) {
            if next > position && reply.add(INodeNo(*number), next, *kind, name) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn attributes(&self, number: INodeNo) -> io::Result<FileAttr> {
        self.at(Act::Read, number)?.attributes()
    }

    pub(super) fn forgotten(&self, number: INodeNo, times: u64) {
        self.tree.forget(number, times);
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self, number: INodeNo) -> io::Result<Vec<u8>> {
        let node = self.at(Act::Read, number)?;
        Ok(readlinkat(&node.file, "", Vec::new())?.into_bytes())
    }

    pub(super) fn free_space(&self, number: INodeNo) -> io::Result<StatVfs> {
        let node = self.at(Act::Read, number)?;
        let mut space = fstatvfs(&node.file)?;
        if self.faults.full(&node.paths()) {
            (space.f_bfree, space.f_bavail) = (0, 0);
        }
        Ok(space)
    }
}

/// How the file below is opened for who opens with these flags.
fn below(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned()).difference(DONE_ABOVE).union(OFlags::CLOEXEC)
}

fn kind(below: FileType) -> fuser::FileType {
    match below {
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharacterDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::RegularFile | FileType::Unknown => fuser::FileType::RegularFile,
    }
}

/// A time to set. Those before 1970 become 1970.
fn time(wanted: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match wanted {
        None => special(UTIME_OMIT),
        Some(TimeOrNow::Now) => special(UTIME_NOW),
        Some(TimeOrNow::SpecificTime(at)) => {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let tv_sec = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            Timespec { tv_sec, tv_nsec: since.subsec_nanos().into() }
        }
    }
}
