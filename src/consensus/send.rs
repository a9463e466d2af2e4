//! Sends a snapshot, file by file, and leaves out the files that the receiver has from an earlier attempt. What is read to
//! be sent is hashed: a file that has rotted since it was hashed does not get there whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_types::NodeId;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use parking_lot::Mutex;

use crate::Execution;
use crate::files;
use crate::record::{self, Manifest};
use crate::snapshot::SnapshotFiles;
use crate::tables;
use crate::transport::{
    Reply, SnapshotHeader, SnapshotPart, SnapshotRefusal, SnapshotReply, Transport, TransportError,
};
use crate::types::{self, Vote};

/// Bytes of a file in one part.
const SNAPSHOT_PIECE_BYTES: usize = 256 << 10;

/// So long a peer may take over one part, and over checking and installing it all. How long the whole of it takes is up to
/// the link.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How reading and sending go.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) execution: Execution,
    /// Bytes a second, at most.
    pub(crate) rate: u64,
}

impl Pace {
    /// How long a part takes at this rate.
    fn time_of(self, part: &SnapshotPart) -> Duration {
        let SnapshotPart::Data { bytes, .. } = part else { return Duration::ZERO };
        Duration::from_nanos((bytes.len() as u64).saturating_mul(1_000_000_000) / self.rate.max(1))
    }
}

/// Why a snapshot is not installed at a peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The peer will not have it.
    #[error("the peer refused the snapshot: {0:?}")]
    Refused(SnapshotRefusal),
    /// It cannot be read here; a [`clawhub_kv::KvError`] that says corrupt if a file has rotted.
    #[error("the snapshot cannot be read: {0}")]
    Unreadable(io::Error),
}

/// Asks what the peer has, sends the rest, and returns when it is installed or refused by a higher vote.
///
/// # Errors
/// [`SendError`].
pub(crate) async fn snapshot<R: AsyncRuntime>(
    transport: Arc<dyn Transport>,
    to: NodeId,
    vote: Vote,
    files: Arc<SnapshotFiles>,
    pace: Pace,
) -> Result<SnapshotReply, SendError> {
    let over = |reply: &SnapshotReply| reply.installed || types::vote(reply.vote) > vote;
    let ask = header(&vote, files.manifest(), false);
    let ask = stream::once(async { SnapshotPart::Header(ask) }).boxed();
    let reply = transport.snapshot(to, ask).await?;
    if over(&reply) {
        return Ok(reply);
    }
    if let Some(why) = reply.refused {
        return Err(SendError::Refused(why));
    }
    let first = SnapshotPart::Header(header(&vote, files.manifest(), true));
    let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let missing = missing(files.manifest(), &reply.held);
    let data = parts::<R>(files, missing, pace, Arc::clone(&failed));
    let taken = Arc::new(Mutex::new(R::Instant::now()));
    let note = Arc::clone(&taken);
    let parts = stream::once(async { first }).chain(data);
    let parts = parts.inspect(move |_| *note.lock() = R::Instant::now()).boxed();
    let reply = while_taken::<R, _>(transport.snapshot(to, parts), &taken).await;
    if let Some(e) = failed.lock().take() {
        return Err(SendError::Unreadable(e));
    }
    let reply = reply?;
    match reply.refused {
        _ if over(&reply) => Ok(reply),
        Some(why) => Err(SendError::Refused(why)),
        None => Err(TransportError::Unreachable("the peer did not install the snapshot".to_owned()).into()),
    }
}

/// Waits for an answer as long as the peer takes parts, the last of which it took when `taken` says.
async fn while_taken<R: AsyncRuntime, T: Send>(
    mut reply: Reply<T>,
    taken: &Mutex<R::Instant>,
) -> Result<T, TransportError> {
    loop {
        let since = *taken.lock();
        if let Ok(reply) = R::timeout_at(since + PATIENCE, &mut reply).await {
            return reply;
        }
        if *taken.lock() == since {
            return Err(TransportError::Unreachable("the peer takes no more of the snapshot".to_owned()));
        }
    }
}

fn header(vote: &Vote, manifest: &Manifest, transfer: bool) -> SnapshotHeader {
    let meta = record::encode_manifest(&Manifest { files: Vec::new(), ..manifest.clone() });
    SnapshotHeader { vote: types::ballot(vote), meta: meta.into(), files: manifest.files.clone(), transfer }
}

fn missing(manifest: &Manifest, held: &[u32]) -> Vec<u32> {
    (0u32..).take(manifest.files.len()).filter(|i| !held.contains(i)).collect()
}

struct Cursor {
    files: Arc<SnapshotFiles>,
    missing: std::vec::IntoIter<u32>,
    open: Option<Open>,
}

/// A file on its way.
struct Open {
    index: u32,
    file: File,
    offset: u64,
    hasher: blake3::Hasher,
}

impl Cursor {
    /// The next piece; a file without bytes is one empty piece.
    fn next(&mut self) -> io::Result<Option<SnapshotPart>> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let Some(index) = self.missing.next() else { return Ok(None) };
                let file = File::open(self.path(index))?;
                Open { index, file, offset: 0, hasher: blake3::Hasher::new() }
            }
        };
        let index = open.index;
        let offset = open.offset;
        let size = self.entry(open.index).size;
        let wanted = usize::try_from(size - offset).unwrap_or(SNAPSHOT_PIECE_BYTES).min(SNAPSHOT_PIECE_BYTES);
        let mut piece = vec![0; wanted];
        open.file.read_exact(&mut piece)?;
        open.hasher.update(&piece);
        open.offset += wanted as u64;
        if open.offset < size {
            self.open = Some(open);
        } else if *open.hasher.finalize().as_bytes() != self.entry(index).hash {
            return Err(tables::rotten(&self.path(index)).into());
        }
        Ok(Some(SnapshotPart::Data { file: index, offset, bytes: Bytes::from(piece) }))
    }

    fn path(&self, index: u32) -> PathBuf {
        self.files.data().join(&self.entry(index).name)
    }

    fn entry(&self, index: u32) -> &record::FileEntry {
        // The indices were counted from this list.
        &self.files.manifest().files[index as usize]
    }
}

/// The pieces of the missing files. A read error ends the stream early, which the peer refuses.
fn parts<R: AsyncRuntime>(
    files: Arc<SnapshotFiles>,
    missing: Vec<u32>,
    pace: Pace,
    failed: Arc<Mutex<Option<io::Error>>>,
) -> BoxStream<'static, SnapshotPart> {
    let cursor = Cursor { files, missing: missing.into_iter(), open: None };
    let due = R::Instant::now();
    let pieces = stream::unfold((cursor, due), move |(mut cursor, due)| {
        let failed = Arc::clone(&failed);
        async move {
            R::sleep_until(due).await;
            let read = files::blocking::<R, _>(pace.execution, move || {
                let part = cursor.next()?;
                Ok((part, cursor))
            });
            match read.await {
                Ok((part, cursor)) => {
                    let part = part?;
                    let due = R::Instant::now() + pace.time_of(&part);
                    Some((part, (cursor, due)))
                }
                Err(e) => {
                    *failed.lock() = Some(e);
                    None
                }
            }
        }
    });
    pieces.boxed()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future;
    use openraft_rt_sim::SimRuntime;

    use super::*;

    type SimInstant = <SimRuntime as AsyncRuntime>::Instant;

    #[test]
    fn a_slow_peer_has_the_time_that_it_takes_and_a_silent_one_has_not() {
        SimRuntime::with_seed(0).block_on(async {
            let taken = Arc::new(Mutex::new(SimInstant::now()));
            let note = Arc::clone(&taken);
            let slow = async move {
                for _ in 0..9 {
                    SimRuntime::sleep(PATIENCE / 2).await;
                    *note.lock() = SimInstant::now();
                }
                Ok(7)
            };
            assert_eq!(while_taken::<SimRuntime, _>(slow.boxed(), &taken).await, Ok(7));
            let begun = SimInstant::now();
            let silent = future::pending::<Result<u32, TransportError>>().boxed();
            while_taken::<SimRuntime, _>(silent, &taken).await.unwrap_err();
            assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
        });
    }
}
