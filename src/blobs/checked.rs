//! An open data file that hands out only bytes whose group was hashed since the file was opened
//! (invariant 12). One bit per group remembers that; it lives as long as this value.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use clawhub_types::Root;
use rustix::io::{ReadWriteFlags, preadv2};

use crate::BlobError;
use crate::bits::Bits;
use crate::buffers::{Buffers, READ_BYTES};
use crate::tree::{GROUP, group_count, group_matches};

/// An open data file, to be sent without passing through this process. That its bytes were checked does not
/// mean that the device gives them back once more; who sends them is the one to see, and says so. Clones share
/// the file and what was said of it.
#[derive(Clone, Debug)]
pub struct DataFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    sound: AtomicBool,
}

impl DataFile {
    /// A file of which nothing bad is known.
    pub fn new(file: File) -> DataFile {
        DataFile(Arc::new(Opened { file, sound: AtomicBool::new(true) }))
    }

    /// Notes that the file failed a send. It is not handed out for sends again: the next reader reads it,
    /// where a bad copy is given up and another one goes on.
    pub fn distrust(&self) {
        self.0.sound.store(false, Ordering::Release);
    }

    /// Whether it has failed no send.
    pub fn is_sound(&self) -> bool {
        self.0.sound.load(Ordering::Acquire)
    }
}

impl Deref for DataFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0.file
    }
}

pub(crate) struct CheckedFile {
    pub(crate) root: Root,
    pub(crate) size: u64,
    pub(crate) file: DataFile,
    /// The group list, checked against the root before it is set.
    list: OnceLock<Bytes>,
    checked: Bits,
    buffers: Arc<Buffers>,
}

impl CheckedFile {
    pub(crate) fn new(root: Root, size: u64, file: File, buffers: Arc<Buffers>) -> CheckedFile {
        let checked = Bits::new(group_count(size));
        CheckedFile { root, size, file: DataFile::new(file), list: OnceLock::new(), checked, buffers }
    }

    /// The caller has compared `list` with the root. A second list is the same one.
    pub(crate) fn set_list(&self, list: Bytes) {
        let _ = self.list.set(list);
    }

    pub(crate) fn list(&self) -> Option<&Bytes> {
        self.list.get()
    }

    /// Notes that group `index` was hashed just now.
    pub(crate) fn mark(&self, index: u64) {
        self.checked.set(index);
    }

    pub(crate) fn distrust(&self) {
        self.checked.copy_from(&Bits::new(group_count(self.size)));
    }

    /// # Errors
    /// [`BlobError::Range`] unless `start <= end <= size`.
    pub(crate) fn bounds(&self, range: &Range<u64>) -> Result<(), BlobError> {
        let Range { start, end } = *range;
        if start <= end && end <= self.size {
            Ok(())
        } else {
            Err(BlobError::Range { start, end, size: self.size })
        }
    }

    /// Whether every group that `range` touches was checked.
    pub(crate) fn is_checked(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self.checked.next(range.start / GROUP, false).is_none_or(|bad| bad * GROUP >= range.end)
    }

    /// The bytes, if their groups are checked and they are in memory: does not wait for the disk.
    pub(crate) fn read_now(&self, range: &Range<u64>) -> Option<Bytes> {
        if !self.is_checked(range) {
            return None;
        }
        let mut buffer = self.buffers.take((range.end - range.start) as usize);
        let mut target = [IoSliceMut::new(buffer.as_mut())];
        // Anything else than all of it (not cached, not supported here) is the blocking read's case.
        let read = preadv2(&*self.file, &mut target, range.start, ReadWriteFlags::NOWAIT).ok()?;
        (read as u64 == range.end - range.start).then(|| buffer.freeze())
    }

    /// Blocking. At most [`READ_BYTES`] bytes, checking groups that were not checked before.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] with the first bad group.
    pub(crate) fn read(&self, range: &Range<u64>) -> Result<Bytes, BlobError> {
        let trusted = self.is_checked(range);
        let whole = if trusted { range.clone() } else { self.align(range) };
        let mut buffer = self.buffers.take((whole.end - whole.start) as usize);
        self.file
            .read_exact_at(buffer.as_mut(), whole.start)
            .map_err(|error| self.unreadable(error, &whole))?;
        if !trusted {
            self.verify(whole.start, buffer.as_ref())?;
        }
        let from = range.start - whole.start;
        let to = range.end - whole.start;
        Ok(buffer.freeze().slice(from as usize..to as usize))
    }

    /// Blocking. Checks every group that `range` touches and was not checked before.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] with the first bad group.
    pub(crate) fn check(&self, range: &Range<u64>) -> Result<(), BlobError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = self.align(range).end;
        let mut at = range.start / GROUP;
        while let Some(bad) = self.checked.next(at, false).filter(|bad| bad * GROUP < end) {
            let from = bad * GROUP;
            let to = end
                .min(from + READ_BYTES as u64)
                .min(self.checked.next(bad, true).map_or(end, |g| g * GROUP));
            self.read(&(from..to))?;
            at = to.div_ceil(GROUP);
        }
        Ok(())
    }

    /// `range` widened to whole groups.
    fn align(&self, range: &Range<u64>) -> Range<u64> {
        range.start / GROUP * GROUP..(range.end.div_ceil(GROUP) * GROUP).min(self.size)
    }

    /// `bytes` begin at `start`, which is aligned, and are whole groups.
    fn verify(&self, start: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let list = self.list.get().ok_or(BlobError::Incomplete(self.root))?;
        for (index, group) in (start / GROUP..).zip(bytes.chunks(GROUP as usize)) {
            if self.checked.get(index) {
                continue;
            }
            if !group_matches(&self.root, list, index, group) {
                return Err(BlobError::Corrupt { root: self.root, at: index * GROUP });
            }
            self.checked.set(index);
        }
        Ok(())
    }

    /// A file that ends early lost bytes: that is corruption, not a failing disk.
    fn unreadable(&self, error: std::io::Error, range: &Range<u64>) -> BlobError {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                BlobError::Corrupt { root: self.root, at: range.start / GROUP * GROUP }
            }
            _ => BlobError::io("reading a blob")(error),
        }
    }
}

/// Cuts a range into pieces that end where [`READ_BYTES`]s of the file do, so that no group is read twice.
pub(crate) fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> + Send + 'static {
    const STEP: u64 = READ_BYTES as u64;
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = range.end.min((at / STEP + 1) * STEP);
        let piece = at..end;
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_once_and_stay_within_groups() {
        const P: u64 = READ_BYTES as u64;
        for range in [0..0, 5..5, 0..1, 0..P, 0..P + 1, P - 1..P + 1, 7..3 * P + 9, 1 << 40..(1 << 40) + P] {
            let all: Vec<_> = pieces(range.clone()).collect();
            assert_eq!(all.iter().map(|r| r.end - r.start).sum::<u64>(), range.end - range.start);
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].end % P == 0));
            assert!(all.iter().all(|r| r.end - r.start <= P));
        }
    }
}
