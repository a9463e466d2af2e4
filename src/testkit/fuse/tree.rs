//! The files that the kernel knows, each under the number that it has in the folder below.
//!
//! A [`Node`] holds its file by a descriptor and not by a path: one that was renamed or unlinked is still
//! the same. While it is held, nobody else gets its number. The names are only for telling what a fault
//! concerns.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;

/// Only for naming and asking: it needs no permission, and works for sockets and links too.
const HELD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file of any kind. Its descriptor is good for asking, and for opening it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) file: File,
    number: INodeNo,
    /// Those that it was reached by and has not lost; the last is kept, for who still has the file open.
    /// None for the top.
    names: Mutex<Vec<Name>>,
}

#[derive(Debug)]
struct Name {
    folder: Arc<Node>,
    name: OsString,
}

impl Node {
    /// A path that leads to this very file, whatever its name is by now.
    pub(super) fn open_path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// Where it lies, below the top; in several places if it has several names.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let names = self.names.lock();
        if names.is_empty() {
            return vec![PathBuf::new()];
        }
        names.iter().map(|name| name.folder.path_of(&name.name)).collect()
    }

    /// Where this name lies in this folder. A folder has one name itself.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.paths().swap_remove(0).join(name)
    }

    /// It is called so from now on, too.
    pub(super) fn gain(&self, folder: &Arc<Node>, name: &OsStr) {
        let mut names = self.names.lock();
        if !names.iter().any(|known| known.is(folder, name)) {
            names.push(Name { folder: Arc::clone(folder), name: name.to_owned() });
        }
    }

    /// It is not called so any more.
    pub(super) fn lose(&self, folder: &Node, name: &OsStr) {
        let mut names = self.names.lock();
        if names.len() > 1 {
            names.retain(|known| !known.is(folder, name));
        }
    }

    /// What `stat` tells.
    pub(super) fn attributes(&self) -> io::Result<FileAttr> {
        attributes(self.number, &self.file.metadata()?)
    }
}

impl Name {
    fn is(&self, folder: &Node, name: &OsStr) -> bool {
        self.folder.number == folder.number && self.name == name
    }
}

fn attributes(number: INodeNo, found: &Metadata) -> io::Result<FileAttr> {
    let seconds = Duration::from_secs(u64::try_from(found.ctime()).unwrap_or(0));
    let nanoseconds = Duration::from_nanos(u64::try_from(found.ctime_nsec()).unwrap_or(0));
    Ok(FileAttr {
        ino: number,
        size: found.size(),
        blocks: found.blocks(),
        atime: found.accessed()?,
        mtime: found.modified()?,
        ctime: UNIX_EPOCH + seconds + nanoseconds,
        crtime: UNIX_EPOCH,
        kind: FileType::from_std(found.file_type()).ok_or(Errno::INVAL)?,
        perm: (found.permissions().mode() & 0o7777) as u16,
        nlink: u32::try_from(found.nlink()).unwrap_or(u32::MAX),
        uid: found.uid(),
        gid: found.gid(),
        rdev: u32::try_from(found.rdev()).unwrap_or(0),
        blksize: u32::try_from(found.blksize()).unwrap_or(4096),
        flags: 0,
    })
}

/// Every node that the kernel may ask for.
#[derive(Debug)]
pub(super) struct Tree {
    /// The device of the folder below: numbers of other devices would collide with its own.
    device: u64,
    nodes: Mutex<HashMap<INodeNo, Known>>,
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    /// How often the kernel was told of it, which it says when it forgets it.
    told: u64,
}

impl Tree {
    /// The tree of what lies in the folder `below`.
    pub(super) fn new(below: &Path) -> io::Result<Tree> {
        let flags = HELD.difference(OFlags::NOFOLLOW).union(OFlags::DIRECTORY);
        let file = File::from(openat(CWD, below, flags, Mode::empty())?);
        let device = file.metadata()?.dev();
        let top = Arc::new(Node { file, number: INodeNo::ROOT, names: Mutex::default() });
        // The kernel knows the top without being told, and never forgets it.
        let nodes = HashMap::from([(INodeNo::ROOT, Known { node: top, told: 1 })]);
        Ok(Tree { device, nodes: Mutex::new(nodes) })
    }

    /// The node of this number.
    pub(super) fn get(&self, number: INodeNo) -> io::Result<Arc<Node>> {
        let nodes = self.nodes.lock();
        Ok(Arc::clone(&nodes.get(&number).ok_or(Errno::STALE)?.node))
    }

    /// The node of what has this name in the folder, of which the kernel is told now.
    pub(super) fn enter(&self, folder: &Arc<Node>, name: &OsStr) -> io::Result<(Arc<Node>, FileAttr)> {
        let file = File::from(openat(&folder.file, name, HELD, Mode::empty())?);
        let found = file.metadata()?;
        if found.dev() != self.device {
            return Err(Errno::XDEV.into());
        }
        let number = INodeNo(found.ino());
        let shown = attributes(number, &found)?;
        let mut nodes = self.nodes.lock();
        let known = nodes.entry(number).or_insert_with(|| {
            let node = Arc::new(Node { file, number, names: Mutex::default() });
            Known { node, told: 0 }
        });
        known.told += 1;
        known.node.gain(folder, name);
        Ok((Arc::clone(&known.node), shown))
    }

    /// The node of what has this name in the folder, if the kernel knows it.
    pub(super) fn known(&self, folder: &Node, name: &OsStr) -> Option<Arc<Node>> {
        let found = statat(&folder.file, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        self.get(INodeNo(found.st_ino)).ok()
    }

    /// The kernel takes back so many tellings. A node that others lie in keeps its place until they go.
    pub(super) fn forget(&self, number: INodeNo, times: u64) {
        let mut nodes = self.nodes.lock();
        let Some(known) = nodes.get_mut(&number) else { return };
        known.told = known.told.saturating_sub(times);
        if known.told == 0 && Arc::strong_count(&known.node) == 1 {
            let gone = nodes.remove(&number);
            drop(nodes);
            // Without the lock: the last hold on a removed file frees its blocks.
            drop(gone);
        }
    }

    /// The numbers of what lies at or below this path.
    pub(super) fn below(&self, under: &Path) -> Vec<INodeNo> {
        let nodes: Vec<_> = self.nodes.lock().values().map(|known| Arc::clone(&known.node)).collect();
        let lies = |node: &Arc<Node>| node.paths().iter().any(|path| path.starts_with(under));
        nodes.into_iter().filter(lies).map(|node| node.number).collect()
    }
}
