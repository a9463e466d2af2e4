//! A snapshot on its way in.
//!
//! `<state>/incoming/` holds what has arrived of one snapshot: `MANIFEST`, `data/` with complete files
//! (hashed, fsynced, then named) and `part`, the file under way. A broken transfer goes on after the
//! last complete file; a transfer of another snapshot begins anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable as durable;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::async_runtime::AsyncRuntime;

use crate::Execution;
use crate::files;
use crate::record::{self, FileEntry, Manifest};
use crate::snapshot::SnapshotFiles;
use crate::transport::{SnapshotHeader, SnapshotPart};

const DIRECTORY: &str = "incoming";
const MANIFEST: &str = "MANIFEST";
const DATA: &str = "data";
const PART: &str = "part";
/// A sender that is silent for this long is given up.
const IDLE: Duration = Duration::from_secs(20);
const MAX_FILES: usize = 100_000;

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

fn refused(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Incoming {
    /// Gets ready for the snapshot of a header, keeping what arrived of the same one before.
    pub(crate) fn open(state: &Path, header: &SnapshotHeader) -> io::Result<Incoming> {
        let mut manifest = record::decode_manifest(&header.meta)?;
        manifest.files = checked(&header.files)?;
        let dir = state.join(DIRECTORY);
        let encoded = record::encode_manifest(&manifest);
        if fs::read(dir.join(MANIFEST)).ok().as_deref() != Some(&encoded) {
            durable::remove_dir(&dir)?;
            durable::create_dir(&dir)?;
            durable::create_dir(&dir.join(DATA))?;
            durable::replace(&dir.join(MANIFEST), &encoded)?;
        }
        Ok(Incoming { dir, manifest, under_way: None })
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

    fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let entry = self.manifest.files.get(index).ok_or_else(|| refused("no such file in the snapshot"))?;
        let under_way = match &mut self.under_way {
            Some(u) if u.index == index => u,
            Some(_) => return Err(refused("the file before is not complete")),
            none => none.insert(UnderWay {
                index,
                file: File::create(self.dir.join(PART))?,
                written: 0,
                hasher: blake3::Hasher::new(),
            }),
        };
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != under_way.written || end > entry.size {
            return Err(refused(format!("bytes {offset}..{end} of {} are out of place", entry.name)));
        }
        under_way.file.write_all(bytes)?;
        under_way.hasher.update(bytes);
        under_way.written = end;
        if end < entry.size { Ok(()) } else { self.complete() }
    }

    /// Checks the file under way and gives it its name.
    fn complete(&mut self) -> io::Result<()> {
        let Some(UnderWay { index, file, hasher, .. }) = self.under_way.take() else { return Ok(()) };
        let entry = &self.manifest.files[index];
        if *hasher.finalize().as_bytes() != entry.hash {
            return Err(refused(format!("{} arrived damaged", entry.name)));
        }
        file.sync_all()?;
        fs::rename(self.dir.join(PART), self.place(index))
    }

    /// All files are here: they are durable when this returns.
    fn finish(self) -> io::Result<SnapshotFiles> {
        if let Some(missing) = (0..self.manifest.files.len()).find(|i| !self.holds(*i)) {
            return Err(refused(format!("{} did not arrive", self.manifest.files[missing].name)));
        }
        durable::sync_dir(&self.dir.join(DATA))?;
        Ok(SnapshotFiles::received(self.dir, self.manifest))
    }

    /// Takes in the parts after the header.
    pub(crate) async fn receive<R: AsyncRuntime>(
        mut self,
        execution: Execution,
        mut parts: BoxStream<'static, SnapshotPart>,
    ) -> io::Result<SnapshotFiles> {
        loop {
            let part = R::timeout(IDLE, parts.next()).await;
            let part = part.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent"))?;
            match part {
                None => return files::blocking::<R, _>(execution, move || self.finish()).await,
                Some(SnapshotPart::Header(_)) => return Err(refused("a second header")),
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
    ) -> io::Result<Incoming> {
        files::blocking::<R, _>(execution, move || {
            let index = usize::try_from(file).map_err(|_| refused("no such file in the snapshot"))?;
            self.write(index, offset, &bytes)?;
            Ok(self)
        })
        .await
    }
}

/// Names come from the network and become paths: plain ones only, and each once.
fn checked(files: &[FileEntry]) -> io::Result<Vec<FileEntry>> {
    let plain = |name: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(known)
    };
    let in_order = files.windows(2).all(|pair| pair[0].name < pair[1].name);
    if files.len() > MAX_FILES || !in_order || !files.iter().all(|f| plain(&f.name)) {
        return Err(refused("the snapshot's list of files is not acceptable"));
    }
    Ok(files.to_vec())
}

#[cfg(test)]
mod tests {
    use clawhub_state::LogPos;
    use futures::stream;
    use openraft_rt_tokio::TokioRuntime;

    use super::*;
    use crate::transport::Ballot;

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

    fn data(file: u32, offset: u64, bytes: &'static [u8]) -> SnapshotPart {
        SnapshotPart::Data { file, offset, bytes: Bytes::from_static(bytes) }
    }

    async fn send(dir: &Path, index: u64, parts: Vec<SnapshotPart>) -> io::Result<SnapshotFiles> {
        let incoming = Incoming::open(dir, &header(index)).unwrap();
        incoming.receive::<TokioRuntime>(Execution::Threads, stream::iter(parts).boxed()).await
    }

    #[tokio::test]
    async fn a_broken_transfer_goes_on_after_the_last_complete_file() {
        let dir = tempfile::tempdir().unwrap();
        let cut = vec![data(0, 0, b"fi"), data(0, 2, b"rst"), data(2, 0, b"th")];
        assert!(send(dir.path(), 9, cut).await.is_err());
        assert_eq!(Incoming::open(dir.path(), &header(9)).unwrap().held(), [0]);
        let rest = vec![data(1, 0, b""), data(2, 0, b"third")];
        let files = send(dir.path(), 9, rest).await.unwrap();
        assert_eq!(fs::read(files.data().join("c")).unwrap(), b"third");
        files.verify().unwrap();
        assert!(Incoming::open(dir.path(), &header(10)).unwrap().held().is_empty(), "another snapshot");
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
        assert!(Incoming::open(dir.path(), &header(9)).unwrap().held().is_empty());
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "..", "../x", "a/b", "/x", ".hidden", "a\0b", "ä"] {
            let header = SnapshotHeader { files: vec![file(name, b"")], ..header(1) };
            assert!(Incoming::open(dir.path(), &header).is_err(), "{name:?}");
        }
        let twice = SnapshotHeader { files: vec![file("a", b""), file("a", b"")], ..header(1) };
        assert!(Incoming::open(dir.path(), &twice).is_err());
    }
}
