//! A snapshot on its way in.
//!
//! `<state>/incoming/` holds what has arrived of one snapshot: `MANIFEST`, `data/` with complete files
//! (hashed, fsynced, then named) and `part`, the file under way. A broken transfer goes on after the
//! last complete file; a transfer of another snapshot begins anew. Nothing begins that the device has no room for, and
//! what lies there goes when it does not fit, is damaged, is installed, or is not needed any more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable as durable;
use clawhub_mutant::Mutant;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::async_runtime::AsyncRuntime;

use crate::Execution;
use crate::announced::refused;
use crate::files;
use crate::record::{self, Manifest};
use crate::transport::SnapshotPart;

const DIRECTORY: &str = "incoming";
const MANIFEST: &str = "MANIFEST";
const DATA: &str = "data";
const PART: &str = "part";
/// A sender that is silent for this long is given up.
const IDLE: Duration = Duration::from_secs(20);

/// The place where a snapshot arrives.
pub(crate) struct Incoming {
    dir: PathBuf,
    manifest: Manifest,
    under_way: Option<UnderWay>,
}

/// The file that is being written.
struct UnderWay {
    index: usize,
    file: File,
    written: u64,
    hasher: blake3::Hasher,
}

/// Why a snapshot was not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// It does not fit the device.
    #[error("{needed} bytes are needed, and there are {room}")]
    NoRoom {
        /// What it would take, with what must stay free.
        needed: u64,
        /// What there is.
        room: u64,
    },
    /// A file is not what the sender's manifest says, or the state in them not what it says it is.
    #[error("{0}")]
    Damaged(String),
    /// The sender does not keep to the protocol, or the file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Removes what has arrived.
pub(crate) fn discard(state: &Path) -> io::Result<()> {
    durable::remove_dir(&state.join(DIRECTORY))
}

/// Removes what has arrived of a snapshot that a node with this much applied does not need. Nothing may be arriving.
pub(crate) fn sweep(state: &Path, applied: u64) -> io::Result<()> {
    let manifest = match fs::read(state.join(DIRECTORY).join(MANIFEST)) {
        Ok(bytes) => record::decode_manifest(&bytes).ok(),
        // Nothing at all, or the beginning of something.
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let needed = manifest.and_then(|m| m.last).is_some_and(|last| last.index > applied);
    if needed { Ok(()) } else { discard(state) }
}

impl Incoming {
    /// Gets ready for a snapshot, keeping what arrived of the same one before. What is missing must leave `reserve`
    /// bytes of the device free.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) fn open(state: &Path, manifest: Manifest, reserve: u64) -> Result<Incoming, NotTaken> {
        let dir = state.join(DIRECTORY);
        let encoded = record::encode_manifest(&manifest);
        let known = fs::read(dir.join(MANIFEST)).ok().as_deref() == Some(&encoded);
        if !known {
            durable::remove_dir(&dir)?;
        }
        let incoming = Incoming { dir, manifest, under_way: None };
        let missing = incoming.manifest.files.iter().enumerate().filter(|(i, _)| !incoming.holds(*i));
        let missing = missing.fold(0_u64, |sum, (_, file)| sum.saturating_add(file.size));
        let needed = missing.saturating_add(reserve);
        let room = files::room(state)?;
        if missing > 0 && needed > room {
            return Err(NotTaken::NoRoom { needed, room });
        }
        // Whatever an earlier attempt left of it.
        durable::create_dir(&incoming.dir.join(DATA))?;
        if !known {
            durable::sync_dir(&incoming.dir)?;
            durable::replace(&incoming.dir.join(MANIFEST), &encoded)?;
        }
        Ok(incoming)
    }

    fn place(&self, index: usize) -> PathBuf {
        self.dir.join(DATA).join(&self.manifest.files[index].name)
    }

    fn holds(&self, index: usize) -> bool {
        fs::metadata(self.place(index)).is_ok_and(|m| m.len() == self.manifest.files[index].size)
    }

    /// Positions of the files that are complete.
    pub(crate) fn held(&self) -> Vec<u32> {
        (0u32..).zip(0..self.manifest.files.len()).filter(|(_, i)| self.holds(*i)).map(|(n, _)| n).collect()
    }

    fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), NotTaken> {
        let entry = self.manifest.files.get(index).ok_or_else(|| refused("no such file in the snapshot"))?;
        let under_way = match &mut self.under_way {
            Some(u) if u.index == index => u,
            Some(_) => return Err(refused("the file before is not complete").into()),
            none => none.insert(UnderWay {
                index,
                file: File::create(self.dir.join(PART))?,
                written: 0,
                hasher: blake3::Hasher::new(),
            }),
        };
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != under_way.written || end > entry.size {
            return Err(refused(format!("bytes {offset}..{end} of {} are out of place", entry.name)).into());
        }
        under_way.file.write_all(bytes)?;
        under_way.hasher.update(bytes);
        under_way.written = end;
        if end < entry.size { Ok(()) } else { self.complete() }
    }

    /// Checks the file under way and gives it its name.
    fn complete(&mut self) -> Result<(), NotTaken> {
        let Some(UnderWay { index, file, hasher, .. }) = self.under_way.take() else { return Ok(()) };
        let entry = &self.manifest.files[index];
        if *hasher.finalize().as_bytes() != entry.hash && !Mutant::UncheckedFiles.breaks() {
            return Err(NotTaken::Damaged(format!("{} arrived damaged", entry.name)));
        }
        file.sync_all()?;
        Ok(fs::rename(self.dir.join(PART), self.place(index))?)
    }

    /// All files are here: they are durable when this returns.
    fn finish(self) -> io::Result<Received> {
        if let Some(missing) = (0..self.manifest.files.len()).find(|i| !self.holds(*i)) {
            return Err(refused(format!("{} did not arrive", self.manifest.files[missing].name)));
        }
        durable::sync_dir(&self.dir.join(DATA))?;
        Ok(Received { dir: self.dir, manifest: self.manifest })
    }

    /// Takes in the parts after the header.
    ///
    /// # Errors
    /// [`NotTaken`]; what has arrived is kept.
    pub(crate) async fn receive<R: AsyncRuntime>(
        mut self,
        execution: Execution,
        mut parts: BoxStream<'static, SnapshotPart>,
    ) -> Result<Received, NotTaken> {
        loop {
            let part = R::timeout(IDLE, parts.next()).await;
            let part = part.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent"))?;
            match part {
                None => return Ok(files::blocking::<R, _>(execution, move || self.finish()).await?),
                Some(SnapshotPart::Header(_)) => return Err(refused("a second header").into()),
                Some(SnapshotPart::Data { file, offset, bytes }) => {
                    self = self.take_in::<R>(execution, file, offset, bytes).await?;
                }
            }
        }
    }

    async fn take_in<R: AsyncRuntime>(
        mut self,
        execution: Execution,
        file: u32,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Incoming, NotTaken> {
        let written = files::blocking::<R, _>(execution, move || {
            let index = usize::try_from(file).map_err(|_| refused("no such file in the snapshot"))?;
            let written = self.write(index, offset, &bytes);
            Ok(written.map(|()| self))
        });
        written.await?
    }
}

/// All files of a snapshot, durable where they arrived.
pub(crate) struct Received {
    dir: PathBuf,
    pub(crate) manifest: Manifest,
}

impl Received {
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }
}

#[cfg(test)]
mod tests {
    use clawhub_state::LogPos;
    use futures::stream;
    use openraft_rt_tokio::TokioRuntime;

    use super::*;
    use crate::announced::announced;
    use crate::record::FileEntry;
    use crate::transport::{Ballot, SnapshotHeader};

    fn file(name: &str, content: &[u8]) -> FileEntry {
        let hash = *blake3::hash(content).as_bytes();
        FileEntry { name: name.into(), size: content.len() as u64, hash }
    }

    fn header(index: u64) -> SnapshotHeader {
        let last = Some(LogPos { term: 1, node: 1, index });
        let manifest = Manifest { last, membership: None, files: vec![] };
        SnapshotHeader {
            vote: Ballot { term: 1, node: 1, committed: true },
            meta: record::encode_manifest(&manifest).into(),
            files: vec![file("a", b"first"), file("b", b""), file("c", b"third")],
            transfer: true,
        }
    }

    const NONE: u64 = 0;

    fn open(dir: &Path, header: &SnapshotHeader) -> Result<Incoming, NotTaken> {
        Incoming::open(dir, announced(header)?, NONE)
    }

    fn data(file: u32, offset: u64, bytes: &'static [u8]) -> SnapshotPart {
        SnapshotPart::Data { file, offset, bytes: Bytes::from_static(bytes) }
    }

    async fn send(dir: &Path, index: u64, parts: Vec<SnapshotPart>) -> Result<Received, NotTaken> {
        let incoming = open(dir, &header(index)).unwrap();
        incoming.receive::<TokioRuntime>(Execution::Threads, stream::iter(parts).boxed()).await
    }

    #[tokio::test]
    async fn a_broken_transfer_goes_on_after_the_last_complete_file() {
        let dir = tempfile::tempdir().unwrap();
        let cut = vec![data(0, 0, b"fi"), data(0, 2, b"rst"), data(2, 0, b"th")];
        assert!(send(dir.path(), 9, cut).await.is_err());
        assert_eq!(open(dir.path(), &header(9)).unwrap().held(), [0]);
        let rest = vec![data(1, 0, b""), data(2, 0, b"third")];
        let files = send(dir.path(), 9, rest).await.unwrap();
        assert_eq!(fs::read(files.data().join("c")).unwrap(), b"third");
        assert!(open(dir.path(), &header(10)).unwrap().held().is_empty(), "another snapshot");
    }

    #[tokio::test]
    async fn what_is_damaged_or_out_of_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for parts in [
            vec![data(0, 0, b"wrong")],
            vec![data(0, 0, b"first and more")],
            vec![data(0, 3, b"st")],
            vec![data(0, 0, b"fi"), data(2, 0, b"third")],
            vec![data(9, 0, b"x")],
            vec![SnapshotPart::Header(header(9))],
        ] {
            assert!(send(dir.path(), 9, parts.clone()).await.is_err(), "{parts:?}");
        }
        assert!(open(dir.path(), &header(9)).unwrap().held().is_empty());
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "..", "../x", "a/b", "/x", ".hidden", "a\0b", "ä"] {
            let header = SnapshotHeader { files: vec![file(name, b"")], ..header(1) };
            assert!(open(dir.path(), &header).is_err(), "{name:?}");
        }
        let twice = SnapshotHeader { files: vec![file("a", b""), file("a", b"")], ..header(1) };
        assert!(open(dir.path(), &twice).is_err());
    }

    #[tokio::test]
    async fn what_an_interrupted_attempt_left_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let whole = vec![data(0, 0, b"first"), data(1, 0, b""), data(2, 0, b"third")];
        send(dir.path(), 9, whole.clone()).await.unwrap();
        let incoming = dir.path().join(DIRECTORY);
        let removed: [(&str, &[u32]); 4] = [("data", &[]), ("MANIFEST", &[]), ("data/a", &[1, 2]), ("", &[])];
        for (gone, held) in removed {
            let path = incoming.join(gone);
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
            fs::create_dir_all(&incoming).unwrap();
            fs::write(incoming.join(PART), "of something else").unwrap();
            assert_eq!(open(dir.path(), &header(9)).unwrap().held(), held, "without {gone:?}");
            let again = whole
                .iter()
                .filter(|part| matches!(part, SnapshotPart::Data { file, .. } if !held.contains(file)));
            send(dir.path(), 9, again.cloned().collect()).await.unwrap();
        }
    }

    #[test]
    fn nothing_begins_that_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let mut large = header(9);
        large.files[0].size = files::room(dir.path()).unwrap() + (1 << 40);
        assert!(matches!(open(dir.path(), &large), Err(NotTaken::NoRoom { .. })));
        assert!(!dir.path().join(DIRECTORY).exists());
        let reserve = Incoming::open(dir.path(), announced(&header(9)).unwrap(), u64::MAX);
        assert!(matches!(reserve, Err(NotTaken::NoRoom { needed: u64::MAX, .. })));
    }

    #[test]
    fn what_is_not_needed_any_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        let there = || dir.path().join(DIRECTORY).exists();
        sweep(dir.path(), 0).unwrap();
        open(dir.path(), &header(9)).unwrap();
        sweep(dir.path(), 8).unwrap();
        assert!(there());
        sweep(dir.path(), 9).unwrap();
        assert!(!there());
        fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
        sweep(dir.path(), 0).unwrap();
        assert!(!there(), "the beginning of something");
    }
}
