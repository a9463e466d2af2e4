//! Bodies that go from the page cache to the socket without passing through this process.
//!
//! A body yields [`Bytes`] over a read-only mapping of the file, which nobody reads; below hyper, the
//! connection recognises such a slice by its address and calls `sendfile(2)` in its place. What is not worth
//! that is copied from the mapping by the system. So what is sent is the file's bytes either way.
//!
//! No code of this process may read the slice: where the device does not give a page back, that is a bus error
//! and the end of the process. Asked to send such a page, the system answers `EIO` or `EFAULT`; that is noted in
//! the file, so that the next reader of the blob does not meet it here. HTTP/1 in hyper does not look into what
//! it writes; HTTP/2 copies the beginning of every frame, and gets no such body.
//!
//! A client may take any time for a body, so each piece is vouched for right before it is sent: what was not compared
//! with its digest lately is compared once more, on another thread (`vouching`), and a piece that fails ends the
//! connection.
//!
//! Owns the table of live mappings, in memory only. An entry is removed before its mapping is.
#![expect(
    unsafe_code,
    reason = "a file mapping, sound because replica files are never written or cut; and a question to a socket"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::c_int;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use clawhub_registry::DataFile;
use futures::stream;
use http::Version;
use memmap2::{Mmap, MmapOptions};
use parking_lot::RwLock;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::vouching::Vouching;

/// One frame of a body; one `sendfile` takes at most that much.
const PIECE: usize = 1024 * 1024;

/// Shorter slices are written as they are: a copy is cheaper than a system call.
const WORTH_IT: usize = 16 * 1024;

/// Bytes in the send queue: asm-generic/ioctls.h, the same on every architecture that this builds for.
const TIOCOUTQ: Opcode = 0x5411;

static LIVE: RwLock<BTreeMap<usize, Source>> = RwLock::new(BTreeMap::new());

struct Source {
    length: usize,
    file: DataFile,
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

/// A body of `range` of `file`, which must not change while the body lives, for an answer in `version`. `None`
/// if the range is too short to be worth it or cannot be mapped, or the version's framing looks into bodies:
/// it is then to be read in the ordinary way. If the device fails a send, [`DataFile::distrust`] notes it.
pub fn file_body(file: &DataFile, range: Range<u64>, version: Version) -> Option<Body> {
    if version > Version::HTTP_11 {
        return None;
    }
    let bytes = file_bytes(file, range).ok()?;
    let pieces = stream::unfold(bytes, |mut rest| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), rest))
    });
    Some(Body::from_stream(pieces))
}

/// Bytes that stand for `range` of `file`.
fn file_bytes(file: &DataFile, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    if length < WORTH_IT {
        return Err(ErrorKind::InvalidInput.into());
    }
    // SAFETY: replica files are immutable: written once under another name, renamed, unlinked whole.
    let map = unsafe { MmapOptions::new().offset(range.start).len(length).map(&**file)? };
    let source = Source { length, file: file.clone(), offset: range.start };
    LIVE.write().insert(map.as_ptr() as usize, source);
    Ok(Bytes::from_owner(Mapped(map)))
}

/// Which part of which file a slice stands for.
fn source_of(slice: &[u8]) -> Option<(DataFile, u64)> {
    let at = slice.as_ptr() as usize;
    let live = LIVE.read();
    // Most answers are short and come from no file.
    if live.is_empty() {
        return None;
    }
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

    /// Bytes that were written and that the other side has not acknowledged.
    fn undelivered(&self) -> u64;

    /// Has what is undelivered thrown away when the socket is closed, with a reset.
    fn give_up(&self);

    /// Whether the other side is still there, after a send that failed.
    fn is_connected(&self) -> bool;
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
                0 => Err(ErrorKind::UnexpectedEof.into()),
                sent => Ok(sent),
            }
        })
    }

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_io(self, cx, |socket| {
            Ok(rustix::net::send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?)
        })
    }

    fn undelivered(&self) -> u64 {
        // SAFETY: TIOCOUTQ, which sockets know as SIOCOUTQ, writes one int (tcp(7)).
        let queued = unsafe { ioctl(self, Getter::<TIOCOUTQ, c_int>::new()) };
        queued.ok().and_then(|queued| u64::try_from(queued).ok()).unwrap_or(0)
    }

    fn give_up(&self) {
        if let Err(error) = set_socket_linger(self, Some(Duration::ZERO)) {
            tracing::debug!(%error, "SO_LINGER refused");
        }
    }

    fn is_connected(&self) -> bool {
        self.peer_addr().is_ok()
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
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            done => return Poll::Ready(done),
        }
    }
}

/// What is to be sent first of some slices, and how.
#[derive(Clone)]
pub(crate) enum First {
    /// Slices of this process's memory, and short ones of files, as they are.
    Slices,
    /// So many of them, and then part of a file.
    Before(usize),
    /// Part of a file.
    File(DataFile, u64),
}

/// Looks what is to be sent first. Ready once it is vouched for, which may take as long as the device does.
pub(crate) fn poll_first<S: Socket>(
    socket: &S,
    vouching: &mut Vouching,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<First>> {
    let mut parts = Vec::new();
    let mut first = First::Slices;
    for (place, slice) in slices.iter().enumerate() {
        let Some((file, offset)) = source_of(slice) else { continue };
        // Short ones, too, which the system copies.
        parts.push((file.clone(), offset..offset + slice.len() as u64));
        if slice.len() >= WORTH_IT {
            first = if place == 0 { First::File(file, offset) } else { First::Before(place) };
            break;
        }
    }
    ready!(vouching.poll(cx, parts)).inspect_err(|error| blame(socket, error, slices))?;
    Poll::Ready(Ok(first))
}

/// Writes slices, those of mapped files by `sendfile`.
pub(crate) fn poll_write_vectored<S: Socket>(
    socket: &mut S,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
    first: First,
) -> Poll<io::Result<usize>> {
    let written = match first {
        First::Slices => Pin::new(&mut *socket).poll_write_vectored(cx, slices),
        First::File(file, offset) => socket.poll_send_file(cx, &file, offset, slices[0].len()),
        // The header leaves in one packet with the beginning of the body.
        First::Before(1) => socket.poll_write_more(cx, &slices[0]),
        First::Before(n) => Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..n]),
    };
    if let Poll::Ready(Err(error)) = &written {
        blame(socket, error, slices);
    }
    written
}

/// Notes in the file whose bytes were to be sent first that it failed a send, unless the socket did.
fn blame<S: Socket>(socket: &S, error: &io::Error, slices: &[IoSlice<'_>]) {
    if error.kind() == ErrorKind::BrokenPipe || !socket.is_connected() {
        return;
    }
    if let Some((file, offset)) = slices.iter().find_map(|slice| source_of(slice)) {
        tracing::error!(%error, offset, "a stored copy could not be sent and is read with checks from now on");
        file.distrust();
    }
}

/// Pipes know no shorter way; the slice is read.
#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn poll_send_file(&mut self, _: &mut Context<'_>, _: &File, _: u64, _: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(ErrorKind::Unsupported.into()))
    }

    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    fn undelivered(&self) -> u64 {
        0
    }

    fn give_up(&self) {}

    fn is_connected(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawhub_testkit::fuse::{Fault, Faulty};
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(600);

    fn content(length: usize) -> (DataFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (DataFile::of(file, LONG).unwrap(), bytes)
    }

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    async fn write(socket: &mut TcpStream, slices: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut vouching = Vouching::default();
        let first = std::future::poll_fn(|cx| poll_first(socket, &mut vouching, cx, &slices)).await?;
        std::future::poll_fn(|cx| poll_write_vectored(socket, cx, &slices, first.clone())).await
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
        let listed = |source: &Source| source.file.as_raw_fd() == file.as_raw_fd();
        assert!(!LIVE.read().values().any(listed), "dropped bytes leave the table");
        assert!(source_of(&bytes).is_none());
        assert!(file_bytes(&file, 0..10).is_err());
    }

    #[test]
    fn only_framing_that_looks_into_no_body_gets_one() {
        let (file, _) = content(200_000);
        for (version, yes) in [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
            assert_eq!(file_body(&file, 0..200_000, version).is_some(), yes, "{version:?}");
        }
    }

    #[tokio::test]
    async fn header_and_file_arrive_in_order() {
        let (file, bytes) = content(3_000_000);
        let (mut server, mut client) = connection().await;
        let sending = file.clone();
        let sending = tokio::spawn(async move {
            let body = file_bytes(&sending, 10..2_999_990).unwrap();
            let header = b"header".as_slice();
            let (mut sent, total) = (0, header.len() + body.len());
            while sent < total {
                let rest_of_header = &header[sent.min(header.len())..];
                let rest_of_body = &body[sent.saturating_sub(header.len())..];
                let slices = [rest_of_header, rest_of_body];
                let from = usize::from(rest_of_header.is_empty());
                sent += write(&mut server, &slices[from..]).await.unwrap();
            }
            server.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        sending.await.unwrap();
        assert!(received.starts_with(b"header"));
        assert!(received[6..] == bytes[10..2_999_990]);
        assert!(file.is_sound());
    }

    #[tokio::test]
    async fn what_the_device_does_not_give_back_is_noted_in_the_file() {
        if let Some(why) = Faulty::unavailable() {
            println!("skipped: no FUSE here: {why}");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("data"), content(1_000_000).1).unwrap();
        let faulty = Faulty::mount(home.path(), home.path()).unwrap();
        let opened = || DataFile::of(File::open(home.path().join("data")).unwrap(), LONG).unwrap();
        let header = b"header".as_slice();
        for (how, range, headed) in [
            ("sendfile", 0..1_000_000, false),
            ("a tail, copied by the system", 0..WORTH_IT - 1, false),
            ("a tail, ahead of what is sent", 0..WORTH_IT - 1, true),
        ] {
            let (mut server, _client) = connection().await;
            let file = opened();
            let body = file_bytes(&file, 0..1_000_000).unwrap();
            faulty.fail("", Fault::Io);
            faulty.uncache("").unwrap();
            let (first, rest) = (&body[range.clone()], &body[range.end..]);
            let outcome = match headed {
                true => write(&mut server, &[first, rest]).await,
                false => write(&mut server, &[first]).await,
            };
            assert!(outcome.is_err() && !file.is_sound(), "{how}: {outcome:?}");
            faulty.heal();
            assert!(write(&mut server, &[header, first]).await.is_ok() && !file.is_sound(), "{how}");
            assert!(opened().is_sound());
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_noted_too() {
        let (file, _) = content(100_000);
        let body = file_bytes(&file, 0..100_000).unwrap();
        file.set_len(0).unwrap();
        let (mut server, _client) = connection().await;
        assert_eq!(write(&mut server, &[&body]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(!file.is_sound());
    }

    #[tokio::test]
    async fn what_rotted_while_its_client_was_slow_is_not_sent() {
        const FLIPPED: u64 = 300_000;
        let (file, bytes) = content(1_000_000);
        let (mut server, _client) = connection().await;
        let body = file_bytes(&file, 0..1_000_000).unwrap();
        let tail = FLIPPED as usize - 10..FLIPPED as usize + 10;
        assert!(write(&mut server, &[&body[..WORTH_IT]]).await.is_ok());
        file.write_all_at(&[bytes[FLIPPED as usize] ^ 1], FLIPPED).unwrap();
        tokio::time::pause();
        tokio::time::advance(LONG).await;
        tokio::time::resume();
        assert!(write(&mut server, &[&body[WORTH_IT..2 * WORTH_IT]]).await.is_ok(), "checked anew");
        for slices in [&[&body[WORTH_IT..]][..], &[b"header", &body[tail.clone()]], &[&body[tail.clone()]]] {
            let refused = write(&mut server, slices).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidData);
        }
        assert!(!file.is_sound(), "the next reader looks");
    }

    #[tokio::test]
    async fn what_was_not_checked_lately_is_checked_on_another_thread() {
        let (file, _) = content(1_000_000);
        let (server, _client) = connection().await;
        let body = file_bytes(&file, 0..1_000_000).unwrap();
        let slices = [IoSlice::new(b"header"), IoSlice::new(&body)];
        let mut vouching = Vouching::default();
        let mut waited = 0;
        tokio::time::pause();
        tokio::time::advance(LONG).await;
        tokio::time::resume();
        assert!(!file.is_vouched(&(0..1_000_000)));
        let first = std::future::poll_fn(|cx| {
            let first = poll_first(&server, &mut vouching, cx, &slices);
            waited += usize::from(first.is_pending());
            first
        });
        assert!(matches!(first.await, Ok(First::Before(1))));
        assert!(waited > 0 && file.is_vouched(&(0..1_000_000)));
    }

    #[tokio::test]
    async fn a_client_that_leaves_says_nothing_about_the_file() {
        let (file, _) = content(3_000_000);
        let body = file_bytes(&file, 0..3_000_000).unwrap();
        let (mut server, client) = connection().await;
        assert!(write(&mut server, &[&body]).await.unwrap() > 0);
        drop(client);
        // First the reset, then the broken pipe.
        while write(&mut server, &[&body]).await.is_ok() {}
        assert!(write(&mut server, &[&body]).await.is_err() && file.is_sound());
    }
}
