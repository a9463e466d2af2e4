//! Speaks with the kernel: takes each request apart, has it done, and answers.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::AtFlags;

use super::work::Work;

/// The kernel keeps no answer about names and attributes: it asks again, and so meets each fault at once.
const FORGET_AT_ONCE: Duration = Duration::ZERO;
/// The kernel keeps a file's content until the next open. Closing has nothing to tell.
const OPENED: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

fn done(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e.into()),
    }
}

fn entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
    match result {
        Ok(shown) => reply.entry(&FORGET_AT_ONCE, &shown, Generation(0)),
        Err(e) => reply.error(e.into()),
    }
}

fn attr(reply: ReplyAttr, result: io::Result<FileAttr>) {
    match result {
        Ok(shown) => reply.attr(&FORGET_AT_ONCE, &shown),
        Err(e) => reply.error(e.into()),
    }
}

fn handle(reply: ReplyOpen, result: io::Result<FileHandle>) {
    match result {
        Ok(handle) => reply.opened(handle, OPENED),
        Err(e) => reply.error(e.into()),
    }
}

fn data(reply: ReplyData, result: io::Result<Vec<u8>>) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(e.into()),
    }
}

/// What is not here is answered with `ENOSYS`, whereupon the kernel does without (locks are its own business,
/// copying becomes reading and writing) or says that there is no such thing (attributes with names).
impl Filesystem for Work {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.look_up(parent, name));
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.forgotten(number, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attr(reply, self.attributes(number));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        owner: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attr(reply, self.change(number, mode, (owner, group), size, [accessed, modified]));
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        data(reply, self.target(number));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make_node(parent, name, mode, device));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        entry(reply, self.make_folder(parent, name, mode));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name, AtFlags::empty()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name, AtFlags::REMOVEDIR));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        entry(reply, self.make_symlink(parent, name, target));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(reply, self.move_name((parent, name), (to, new), flags));
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.make_link(number, parent, name));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make_file(parent, name, mode, flags) {
            Ok((shown, handle)) => reply.created(&FORGET_AT_ONCE, &shown, Generation(0), handle, OPENED),
            Err(e) => reply.error(e.into()),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        handle(reply, self.open_file(number, flags));
    }

    fn opendir(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        handle(reply, self.open_file(number, flags));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        data(reply, self.fetch(handle, offset, size));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.store(handle, offset, bytes) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(e) => reply.error(e.into()),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        done(reply, self.reserve(handle, offset, length, mode));
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, only_data: bool, reply: ReplyEmpty) {
        done(reply, self.sync(handle, only_data));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, only_data: bool, reply: ReplyEmpty) {
        done(reply, self.sync(handle, only_data));
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, position: u64, mut reply: ReplyDirectory) {
        match self.list(handle, position, &mut reply) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e.into()),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.close(handle);
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.close(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        match self.free_space(number) {
            Ok(space) => reply.statfs(
                space.f_blocks,
                space.f_bfree,
                space.f_bavail,
                space.f_files,
                space.f_ffree,
                u32::try_from(space.f_bsize).unwrap_or(u32::MAX),
                u32::try_from(space.f_namemax).unwrap_or(u32::MAX),
                u32::try_from(space.f_frsize).unwrap_or(u32::MAX),
            ),
            Err(e) => reply.error(e.into()),
        }
    }
}
