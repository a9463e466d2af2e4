//! Writes an upload's data file and makes it durable.
//!
//! The first [`CACHED`] bytes go through the page cache: most blobs are smaller, and are read soon after
//! they were pushed. The rest of a larger one goes straight to the device, a [`BLOCK`] at a time: in the
//! cache it would take the place of what clients do read, and a copy into fresh pages costs more than the
//! hashes do. Where a file system refuses, or too many files are
//! written so at once, everything goes through the cache; write-back then starts early:
//! after every [`STEP`] bytes an fdatasync runs beside the writer, so that the last one finds little left.
//!
//! All fdatasyncs of a file go through one lock: a failed one is reported once per open file, and nobody
//! may take the next one's success for his own. A crash loses what was not synced; at most one block of it
//! is in memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawhub_durable::promised::sync_blob;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use tokio::sync::OwnedSemaphorePermit;

use crate::BlobError;
use crate::room::Room;
use crate::serial::Worker;

/// Bytes of every file that go through the page cache.
const CACHED: u64 = 8 << 20;
/// What is written to the device at once.
const BLOCK: usize = 1 << 20;
/// Where direct writes begin and end, in files and in memory: enough for every device with sectors of up
/// to 4 KiB.
const ALIGN: usize = 4096;
/// Bytes written through the cache between two early fdatasyncs.
const STEP: u64 = 32 << 20;

/// The fsync state of one data file.
pub(crate) struct Disk {
    pub(crate) file: File,
    /// How much is durable; locked while an fdatasync runs.
    durable: Mutex<u64>,
    /// An early fdatasync is queued or runs.
    early: AtomicBool,
    /// The first failure of a write or an fdatasync.
    fault: Mutex<Option<io::Error>>,
}

impl Disk {
    /// The state of a file whose first `durable` bytes are.
    pub(crate) fn new(file: File, durable: u64) -> Disk {
        let early = AtomicBool::new(false);
        let fault = Mutex::new(None);
        Disk { file, durable: Mutex::new(durable), early, fault }
    }

    pub(crate) fn fail(&self, error: io::Error) {
        self.fault.lock().get_or_insert(error);
    }

    /// # Errors
    /// The first failure of a write or an fdatasync.
    pub(crate) fn check(&self) -> Result<(), BlobError> {
        match &*self.fault.lock() {
            None => Ok(()),
            Some(error) => Err(BlobError::io("writing an upload")(copy_of(error))),
        }
    }

    /// Blocking. Makes the first `end` bytes durable, unless they are.
    pub(crate) fn sync(&self, end: u64) -> Result<(), BlobError> {
        let mut durable = self.durable.lock();
        self.check()?;
        if *durable < end {
            if let Err(error) = sync_blob(&self.file) {
                self.fail(error);
                return self.check();
            }
            *durable = end;
        }
        Ok(())
    }
}

/// `io::Error` has no `Clone`; kind and text survive.
fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// How bytes get to the file.
enum WriteMode {
    /// Through the page cache, until the file is large.
    Cache,
    /// Straight to the device.
    Direct(Box<Block>),
    /// Through the page cache for good.
    CacheOnly,
}

pub(crate) struct Writer {
    disk: Arc<Disk>,
    path: PathBuf,
    /// Where the next byte goes.
    end: u64,
    early_at: u64,
    mode: WriteMode,
    room: Room,
}

impl Writer {
    /// Goes on writing the file at `path`, which `disk` has open, at `end`.
    pub(crate) fn new(disk: Arc<Disk>, path: &Path, end: u64, room: Room) -> Writer {
        Writer { disk, path: path.to_owned(), end, early_at: end, mode: WriteMode::Cache, room }
    }

    /// Puts into the file what still waits for a full block, and answers where it ends then. Blocking.
    pub(crate) fn settle(&mut self) -> u64 {
        if let WriteMode::Direct(block) = &mut self.mode
            && let Err(error) = block.write_rest(&self.disk.file)
        {
            self.disk.fail(error);
        }
        self.end
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.choose_mode();
            let taken = match &mut self.mode {
                WriteMode::Direct(block) => block.take(bytes),
                WriteMode::Cache => self.write_cached(&bytes[..bytes.len().min(self.until_direct())])?,
                WriteMode::CacheOnly => self.write_cached(bytes)?,
            };
            self.end += taken as u64;
            bytes = &bytes[taken..];
            self.write_block()?;
        }
        Ok(())
    }

    /// Changes over once the file is large, at a place where a direct write may begin.
    fn choose_mode(&mut self) {
        if matches!(self.mode, WriteMode::Cache) && self.until_direct() == 0 {
            let block = self.room.block().and_then(|room| Block::open(&self.path, self.end, room).ok());
            self.mode = block.map_or(WriteMode::CacheOnly, |block| WriteMode::Direct(Box::new(block)));
        }
    }

    /// Bytes until the first that may go straight to the device.
    fn until_direct(&self) -> usize {
        (CACHED.max(self.end.next_multiple_of(ALIGN as u64)) - self.end) as usize
    }

    fn write_cached(&self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.file.write_all_at(bytes, self.end)?;
        Ok(bytes.len())
    }

    /// Sends the block to the device if it is full; a device that refuses gets it through the cache, like
    /// everything after it.
    fn write_block(&mut self) -> io::Result<()> {
        let WriteMode::Direct(block) = &mut self.mode else { return Ok(()) };
        match block.write_full() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                block.write_rest(&self.disk.file)?;
                self.mode = WriteMode::CacheOnly;
                Ok(())
            }
            done => done,
        }
    }

    /// Starts an fdatasync beside the writer, unless one runs.
    fn sync_early(&mut self) {
        self.early_at = self.end;
        if self.disk.early.swap(true, Ordering::AcqRel) {
            return;
        }
        let disk = self.disk.clone();
        let end = self.end;
        tokio::task::spawn_blocking(move || {
            // A failure stays in the fault and meets the next caller.
            let _ = disk.sync(end);
            disk.early.store(false, Ordering::Release);
        });
    }
}

impl Worker for Writer {
    fn chunk(&mut self, bytes: &[u8]) {
        if self.disk.fault.lock().is_some() {
            return;
        }
        if let Err(error) = self.write(bytes) {
            return self.disk.fail(error);
        }
        // What went to the device needs no write-back.
        if !matches!(self.mode, WriteMode::Direct(_)) && self.end - self.early_at >= STEP {
            self.sync_early();
        }
    }
}

/// Bytes on their way to the device.
struct Block {
    file: File,
    /// Holds an aligned block somewhere.
    memory: Box<[u8]>,
    /// Where in `memory` the block begins.
    start: usize,
    /// Where in the file the block goes.
    at: u64,
    /// How much of the block is there.
    filled: usize,
    /// How much of it is in the file already, through the cache.
    written: usize,
    _room: OwnedSemaphorePermit,
}

impl Block {
    fn open(path: &Path, at: u64, room: OwnedSemaphorePermit) -> io::Result<Block> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        let memory = vec![0; BLOCK + ALIGN].into_boxed_slice();
        let start = memory.as_ptr().align_offset(ALIGN);
        if start > ALIGN {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Block { file, memory, start, at, filled: 0, written: 0, _room: room })
    }

    /// Copies as much as fits, and answers how much that was.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK - self.filled);
        let from = self.start + self.filled;
        self.memory[from..from + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    /// Writes the block and begins the next one, if it is full.
    fn write_full(&mut self) -> io::Result<()> {
        if self.filled < BLOCK {
            return Ok(());
        }
        // What is in the file already is overwritten with itself.
        self.file.write_all_at(&self.memory[self.start..self.start + BLOCK], self.at)?;
        self.at += BLOCK as u64;
        self.filled = 0;
        self.written = 0;
        Ok(())
    }

    /// Writes what there is through the cache, and keeps it for the full block.
    fn write_rest(&mut self, cached: &File) -> io::Result<()> {
        let rest = &self.memory[self.start + self.written..self.start + self.filled];
        cached.write_all_at(rest, self.at + self.written as u64)?;
        self.written = self.filled;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn writer(dir: &Path, end: u64) -> Writer {
        let path = dir.join("data");
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        Writer::new(Arc::new(Disk::new(open.unwrap(), end)), &path, end, Room::default())
    }

    fn read(dir: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        File::open(dir.join("data")).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Every way of cutting a large file into chunks, settling in between and resuming gives that file.
    #[test]
    fn what_is_written_is_what_was_given() {
        let bytes = content((CACHED as usize) + 3 * BLOCK + 12_345);
        for (step, settle_every, resume_at) in [
            (1 << 20, usize::MAX, None),
            (BLOCK + 1, 3, None),
            (333_333, 1, None),
            (BLOCK, usize::MAX, Some(CACHED as usize)),
            (700_001, 2, Some(CACHED as usize + BLOCK + 777)),
            (700_001, 4, Some(5)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = writer(dir.path(), 0);
            let mut resumed = resume_at;
            let mut at = 0;
            for number in 1.. {
                let end = (at + step).min(resumed.unwrap_or(bytes.len()));
                writer.write(&bytes[at..end]).unwrap();
                at = end;
                if number % settle_every == 0 || at == bytes.len() {
                    assert_eq!(writer.settle(), at as u64);
                    assert_eq!(read(dir.path()).len(), at, "a settled file has everything");
                }
                if resumed == Some(at) {
                    writer.settle();
                    writer = self::writer(dir.path(), at as u64);
                    resumed = None;
                }
                if at == bytes.len() {
                    break;
                }
            }
            writer.disk.check().unwrap();
            assert!(read(dir.path()) == bytes, "step {step}, settled every {settle_every}, {resume_at:?}");
        }
    }

    #[test]
    fn a_device_that_refuses_gets_the_block_through_the_cache() {
        let bytes = content(CACHED as usize + 2 * BLOCK + 99);
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 0);
        let (first, rest) = bytes.split_at(CACHED as usize + 10);
        writer.write(first).unwrap();
        let WriteMode::Direct(block) = &mut writer.mode else {
            panic!("the file system here takes direct writes")
        };
        // As a device with larger sectors would: nothing starts where it should.
        block.start += 1;
        block.memory.copy_within(block.start - 1..block.start + 9, block.start);
        writer.write(rest).unwrap();
        assert!(matches!(writer.mode, WriteMode::CacheOnly));
        assert_eq!(writer.settle(), bytes.len() as u64);
        assert!(read(dir.path()) == bytes);
    }
}
