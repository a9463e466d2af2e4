//! Bodies that go from the page cache to the socket without passing through this process.
//!
//! A body yields [`Bytes`] over a read-only mapping of the file, which nobody reads; below hyper, the
//! connection recognises such a slice by its address and calls `sendfile(2)` in its place. A path that
//! does read the slice (HTTP/2 framing, a test) gets the file's bytes: the mapping is real, so this is
//! an optimisation that cannot change what is sent.
//!
//! Owns the table of live mappings, in memory only. An entry is removed before its mapping is.
#![expect(unsafe_code, reason = "a file mapping; sound because replica files are never written or cut")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use memmap2::{Mmap, MmapOptions};
use parking_lot::RwLock;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

/// One frame of a body; one `sendfile` takes at most that much.
const PIECE: usize = 1024 * 1024;

/// Shorter slices are written as they are, unlooked-up: a copy is cheaper than a system call.
const WORTH_IT: usize = 16 * 1024;

static LIVE: RwLock<BTreeMap<usize, Source>> = RwLock::new(BTreeMap::new());

struct Source {
    length: usize,
    file: Arc<File>,
    offset: u64,
}

struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        LIVE.write().remove(&(self.0.as_ptr() as usize));
    }
}

/// A body of `range` of `file`, which must not change while the body lives. `None` if the range is too
/// short to be worth it or cannot be mapped: it is then to be read in the ordinary way.
pub fn file_body(file: &Arc<File>, range: Range<u64>) -> Option<Body> {
    let bytes = file_bytes(file, range).ok()?;
    let pieces = stream::unfold(bytes, |mut rest| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), rest))
    });
    Some(Body::from_stream(pieces))
}

/// Bytes that stand for `range` of `file`.
fn file_bytes(file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    if length < WORTH_IT {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: replica files are immutable: written once under another name, renamed, unlinked whole.
    let map = unsafe { MmapOptions::new().offset(range.start).len(length).map(&**file)? };
    let source = Source { length, file: file.clone(), offset: range.start };
    LIVE.write().insert(map.as_ptr() as usize, source);
    Ok(Bytes::from_owner(Mapped(map)))
}

/// Which part of which file a slice stands for.
fn source_of(slice: &[u8]) -> Option<(Arc<File>, u64)> {
    if slice.len() < WORTH_IT {
        return None;
    }
    let at = slice.as_ptr() as usize;
    let live = LIVE.read();
    let (start, source) = live.range(..=at).next_back()?;
    let skipped = at - start;
    let inside = skipped.checked_add(slice.len())? <= source.length;
    inside.then(|| (source.file.clone(), source.offset + skipped as u64))
}

/// A socket that may know a shorter way for the bytes of a file.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Sends up to `length` bytes of `file` from `offset`.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: usize,
    ) -> Poll<io::Result<usize>>;

    /// Writes bytes that more will follow at once.
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

impl Socket for TcpStream {
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        poll_io(self, cx, |socket| {
            let mut from = offset;
            match rustix::fs::sendfile(socket, file, Some(&mut from), length)? {
                // The file ends before the body does: the client must not wait for the rest.
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                sent => Ok(sent),
            }
        })
    }

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_io(self, cx, |socket| {
            Ok(rustix::net::send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?)
        })
    }
}

fn poll_io(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    mut io: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || io(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// `poll_write_vectored` that sends slices of mapped files by `sendfile`.
pub(crate) fn poll_write_vectored<S: Socket>(
    socket: &mut S,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mapped = slices.iter().enumerate().find_map(|(i, slice)| source_of(slice).map(|source| (i, source)));
    match mapped {
        None => Pin::new(socket).poll_write_vectored(cx, slices),
        Some((0, (file, offset))) => socket.poll_send_file(cx, &file, offset, slices[0].len()),
        // The header leaves in one packet with the beginning of the body.
        Some((1, _)) => socket.poll_write_more(cx, &slices[0]),
        Some((n, _)) => Pin::new(socket).poll_write_vectored(cx, &slices[..n]),
    }
}

/// Pipes know no shorter way; the slice is read.
#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn poll_send_file(&mut self, _: &mut Context<'_>, _: &File, _: u64, _: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn content(length: usize) -> (Arc<File>, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (Arc::new(file), bytes)
    }

    #[test]
    fn mapped_bytes_read_like_the_file_and_leave_no_trace() {
        let (file, bytes) = content(200_000);
        for range in [0..200_000_u64, 1..199_999, 4095..120_000, 65_536..131_072] {
            let mapped = file_bytes(&file, range.clone()).unwrap();
            assert_eq!(mapped, &bytes[range.start as usize..range.end as usize]);
            let (_, offset) = source_of(&mapped.slice(100..)).unwrap();
            assert_eq!(offset, range.start + 100);
        }
        assert_eq!(Arc::strong_count(&file), 1, "dropped bytes leave the table");
        assert!(source_of(&bytes).is_none());
        assert!(file_bytes(&file, 0..10).is_err());
    }

    #[tokio::test]
    async fn header_and_file_arrive_in_order() {
        let (file, bytes) = content(3_000_000);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let body = file_bytes(&file, 10..2_999_990).unwrap();
            let header = b"header".as_slice();
            let (mut sent, total) = (0, header.len() + body.len());
            while sent < total {
                let rest_of_header = &header[sent.min(header.len())..];
                let rest_of_body = &body[sent.saturating_sub(header.len())..];
                let slices = [IoSlice::new(rest_of_header), IoSlice::new(rest_of_body)];
                let from = usize::from(rest_of_header.is_empty());
                sent += std::future::poll_fn(|cx| poll_write_vectored(&mut socket, cx, &slices[from..]))
                    .await
                    .unwrap();
            }
            socket.shutdown().await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        server.await.unwrap();
        assert!(received.starts_with(b"header"));
        assert!(received[6..] == bytes[10..2_999_990]);
    }
}
