//! An open data file that hands out only bytes whose group was compared with the root since the file was opened,
//! and lately ([`crate::checks`], invariant 12). What is known of its groups lives as long as this value.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use clawhub_types::Root;
use rustix::io::{ReadWriteFlags, preadv2};

use crate::BlobError;
use crate::buffers::{Buffers, READ_BYTES};
use crate::checks::{Checks, Moment};
use crate::ingest::read_through;
use crate::tree::{GROUP, TreeHasher, group_count, group_matches};

/// An open data file, to be sent without passing through this process. That its bytes were checked does not
/// mean that the device gives them back once more; who sends them is the one to see, and says so. Clones share
/// the file and what was said of it.
#[derive(Clone)]
pub struct DataFile(Arc<CheckedFile>);

impl DataFile {
    /// Blocking. A file outside of any store, taken for right as it is now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(file: File, checks_good_for: Duration) -> io::Result<DataFile> {
        let size = file.metadata()?.len();
        let mut tree = TreeHasher::new();
        let mut list = Vec::new();
        read_through(&file, 0..size, |bytes| {
            tree.update(bytes, &mut list);
            Ok(())
        })?;
        let tree = tree.finish();
        list.extend(tree.last.into_iter().flatten());
        let checked = CheckedFile::new(tree.root, size, file, Arc::default(), checks_good_for);
        checked.set_list(list.into());
        let now = checked.now();
        (0..group_count(size)).for_each(|group| checked.mark(group, now));
        Ok(DataFile(Arc::new(checked)))
    }

    /// Blocking. To be called right before `range` is sent: checks anew what was not checked lately.
    /// Between two pieces of a body its client may let any time pass.
    ///
    /// # Errors
    /// `InvalidData` if a group is not what the root says; what reading the file says.
    pub fn vouch(&self, range: Range<u64>) -> io::Result<()> {
        self.0.bounds(&range).and_then(|()| self.0.check(&range)).map_err(|error| match error {
            BlobError::Io { source, .. } => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        })
    }

    /// Whether `range` was checked lately, so that vouching for it costs nothing.
    pub fn is_vouched(&self, range: &Range<u64>) -> bool {
        self.0.bounds(range).is_ok() && self.0.is_checked(range)
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

impl From<Arc<CheckedFile>> for DataFile {
    fn from(file: Arc<CheckedFile>) -> Self {
        DataFile(file)
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
    pub(crate) file: File,
    /// It has failed no send.
    sound: AtomicBool,
    /// The group list, checked against the root before it is set.
    list: OnceLock<Bytes>,
    checks: Checks,
    buffers: Arc<Buffers>,
}

impl CheckedFile {
    /// A file of which nothing bad is known, and no group is checked. A check is good for `checks_good_for`.
    pub(crate) fn new(
        root: Root,
        size: u64,
        file: File,
        buffers: Arc<Buffers>,
        checks_good_for: Duration,
    ) -> CheckedFile {
        let checks = Checks::new(group_count(size), checks_good_for);
        let sound = AtomicBool::new(true);
        CheckedFile { root, size, file, sound, list: OnceLock::new(), checks, buffers }
    }

    /// The caller has compared `list` with the root. A second list is the same one.
    pub(crate) fn set_list(&self, list: Bytes) {
        let _ = self.list.set(list);
    }

    pub(crate) fn list(&self) -> Option<&Bytes> {
        self.list.get()
    }

    /// Memory that it takes for its groups, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.list().map_or(0, Bytes::len).saturating_add(Checks::weight(group_count(self.size)))
    }

    /// Before a group is read, or written, that is then noted as right.
    pub(crate) fn now(&self) -> Moment {
        self.checks.now()
    }

    /// Notes that group `index` was hashed after `moment`.
    pub(crate) fn mark(&self, index: u64, moment: Moment) {
        self.checks.pass(index, moment);
    }

    /// Forgets what was checked.
    pub(crate) fn forget_checks(&self) {
        self.checks.forget();
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

    /// Whether every group that `range` touches was checked lately.
    pub(crate) fn is_checked(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.checks.first_stale(groups(range), self.now()).is_none()
    }

    /// The bytes, if their groups are checked and they are in memory: does not wait for the disk.
    pub(crate) fn read_now(&self, range: &Range<u64>) -> Option<Bytes> {
        if !self.is_checked(range) {
            return None;
        }
        let mut buffer = self.buffers.take((range.end - range.start) as usize);
        let mut target = [IoSliceMut::new(buffer.as_mut())];
        // Anything else than all of it (not cached, not supported here) is the blocking read's case.
        let read = preadv2(&self.file, &mut target, range.start, ReadWriteFlags::NOWAIT).ok()?;
        (read as u64 == range.end - range.start).then(|| buffer.freeze())
    }

    /// Blocking. At most [`READ_BYTES`] bytes, checking groups that were not checked lately.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] with the first bad group.
    pub(crate) fn read(&self, range: &Range<u64>) -> Result<Bytes, BlobError> {
        let trusted = self.is_checked(range);
        let whole = if trusted { range.clone() } else { self.align(range) };
        let mut buffer = self.buffers.take((whole.end - whole.start) as usize);
        let now = self.now();
        self.file
            .read_exact_at(buffer.as_mut(), whole.start)
            .map_err(|error| self.unreadable(error, &whole))?;
        if !trusted {
            self.verify(whole.start, buffer.as_ref(), now)?;
        }
        let from = range.start - whole.start;
        let to = range.end - whole.start;
        Ok(buffer.freeze().slice(from as usize..to as usize))
    }

    /// Blocking. Checks every group that `range` touches and was not checked lately.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] with the first bad group.
    pub(crate) fn check(&self, range: &Range<u64>) -> Result<(), BlobError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = self.align(range).end;
        let groups = groups(range);
        let mut at = groups.start;
        let now = self.now();
        while let Some(stale) = self.checks.first_stale(at..groups.end, now) {
            let good = self.checks.first_good(stale..groups.end, now);
            let from = stale * GROUP;
            let to = end.min(from + READ_BYTES as u64).min(good.map_or(end, |group| group * GROUP));
            self.read(&(from..to))?;
            at = to.div_ceil(GROUP);
        }
        Ok(())
    }

    /// `range` widened to whole groups.
    fn align(&self, range: &Range<u64>) -> Range<u64> {
        range.start / GROUP * GROUP..(range.end.div_ceil(GROUP) * GROUP).min(self.size)
    }

    /// `bytes` begin at `start`, which is aligned, are whole groups, and were read after `read_at`.
    fn verify(&self, start: u64, bytes: &[u8], read_at: Moment) -> Result<(), BlobError> {
        let list = self.list.get().ok_or(BlobError::Incomplete(self.root))?;
        for (index, group) in (start / GROUP..).zip(bytes.chunks(GROUP as usize)) {
            if self.checks.is_good(index, read_at) {
                continue;
            }
            if !group_matches(&self.root, list, index, group) {
                return Err(BlobError::Corrupt { root: self.root, at: index * GROUP });
            }
            self.checks.pass(index, read_at);
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

/// The groups that `range`, which is not empty, touches.
fn groups(range: &Range<u64>) -> Range<u64> {
    range.start / GROUP..range.end.div_ceil(GROUP)
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
