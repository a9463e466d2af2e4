//! The first bytes of every connection between members.
//!
//! A frame is `version u8, kind u8, length u16, payload`, integers big-endian. The caller sends a Hello;
//! the called side answers with its own, which means that it admits the caller, or with a refusal: one
//! byte of [`RefusalCode`], then a sentence in UTF-8. On TCP the frames come right after TLS, on QUIC they are the
//! first stream of a connection.

use std::io;

use clawhub_types::{ClusterId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{PeerError, Refusal, RefusalCode};

const VERSION: u8 = 1;
const KIND_HELLO: u8 = 1;
const KIND_REFUSAL: u8 = 2;
const HEADER: usize = 4;
const HELLO: usize = 16 + 8 + 8 + 8 + 8;
/// The longest refusal that is sent or read, bytes: its code and its sentence.
const REFUSAL: usize = 256;

/// What a node says of itself at the beginning of every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The cluster's epoch: nodes left behind by a forced recovery are of an older one.
    pub epoch: u64,
    /// Its id.
    pub node: NodeId,
    /// Counts its starts, fsynced: of two nodes with one identity, or of one disk and its older copy, the
    /// higher one is right.
    pub boot: u64,
    /// Drawn at random when the process started: tells it from another one with the same `boot`.
    pub nonce: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    /// The peer's reason not to admit this node.
    Refusal(Refusal),
}

impl Hello {
    fn payload(&self) -> [u8; HELLO] {
        let mut out = [0; HELLO];
        out[..16].copy_from_slice(&self.cluster.0);
        for (at, number) in [self.epoch, self.node.0, self.boot, self.nonce].into_iter().enumerate() {
            out[16 + 8 * at..][..8].copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn parse(payload: &[u8]) -> Option<Hello> {
        let (cluster, rest) = payload.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk::<8>()?;
        let (boot, rest) = rest.split_first_chunk::<8>()?;
        let nonce: &[u8; 8] = rest.try_into().ok()?;
        Some(Hello {
            cluster: ClusterId(*cluster),
            epoch: u64::from_be_bytes(*epoch),
            node: NodeId(u64::from_be_bytes(*node)),
            boot: u64::from_be_bytes(*boot),
            nonce: u64::from_be_bytes(*nonce),
        })
    }
}

/// Reads one frame and not a byte more. The caller limits the time.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Frame, PeerError> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await.map_err(PeerError::io("reading the handshake"))?;
    let [version, kind, high, low] = header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (version, kind) {
        (VERSION, KIND_HELLO) if length == HELLO => {}
        (VERSION, KIND_REFUSAL) if (1..=REFUSAL).contains(&length) => {}
        (VERSION, _) => return Err(PeerError::Protocol("malformed handshake")),
        _ => return Err(PeerError::Protocol("unknown version of the handshake")),
    }
    let mut payload = [0; REFUSAL];
    let payload = &mut payload[..length];
    from.read_exact(payload).await.map_err(PeerError::io("reading the handshake"))?;
    if kind == KIND_REFUSAL
        && let [code, text @ ..] = &*payload
    {
        let text = printable(&String::from_utf8_lossy(text));
        return Ok(Frame::Refusal(Refusal::new(RefusalCode::from_wire(*code), text)));
    }
    Hello::parse(payload).map(Frame::Hello).ok_or(PeerError::Protocol("malformed handshake"))
}

pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), hello: &Hello) -> Result<(), PeerError> {
    send(to, KIND_HELLO, &hello.payload()).await.map_err(PeerError::io("sending the handshake"))
}

/// Tells the peer why it is not admitted. It may be gone already, and then it does not matter.
pub(crate) async fn refuse(to: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) {
    let end = (0..REFUSAL).rev().find(|at| refusal.text.is_char_boundary(*at)).unwrap_or(0);
    let payload = [&[refusal.code as u8], &refusal.text.as_bytes()[..end]].concat();
    if let Err(e) = send(to, KIND_REFUSAL, &payload).await {
        tracing::debug!("refusal not delivered: {e}");
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u16::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&[VERSION, kind]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame).await?;
    to.flush().await
}

/// A reason ends up in logs: no line breaks, no escape sequences.
fn printable(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Hello = Hello {
        cluster: ClusterId([9; 16]),
        epoch: 1,
        node: NodeId(u64::MAX),
        boot: 0x0102_0304_0506,
        nonce: 0x0708_090a_0b0c_0d0e,
    };

    async fn sent(hello: &Hello) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, hello).await.unwrap();
        out
    }

    #[tokio::test]
    async fn a_hello_round_trips_and_nothing_after_it_is_read() {
        let mut bytes = sent(&HERE).await;
        assert_eq!(bytes.len(), HEADER + HELLO);
        bytes.extend_from_slice(b"next");
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).await.unwrap(), Frame::Hello(HERE));
        assert_eq!(from, b"next");
    }

    #[tokio::test]
    async fn frames_of_any_other_shape_are_errors() {
        let good = sent(&HERE).await;
        for (at, value) in [(0, 0), (0, 2), (1, 0), (1, 3), (2, 255), (3, 47), (3, 49)] {
            let mut bad = good.clone();
            bad[at] = value;
            bad.resize(70_000, 0);
            assert!(read(&mut bad.as_slice()).await.is_err(), "byte {at} = {value}");
        }
        for end in 0..good.len() {
            assert!(read(&mut &good[..end]).await.is_err(), "cut at {end}");
        }
    }

    #[tokio::test]
    async fn reasons_are_bounded_and_safe_to_print() {
        let mut bytes = Vec::new();
        let refusal = Refusal::new(RefusalCode::Removed, format!("no\n\u{1b}[31m{}", "é".repeat(500)));
        refuse(&mut bytes, &refusal).await;
        assert!(bytes.len() <= HEADER + REFUSAL);
        let Frame::Refusal(read) = read(&mut bytes.as_slice()).await.unwrap() else { panic!() };
        assert_eq!(read.code, RefusalCode::Removed);
        let reason = read.text;
        assert!(reason.starts_with("no??[31mé") && !reason.contains('\u{fffd}'), "{reason}");
    }

    #[tokio::test]
    async fn the_frame_of_a_refusal_is_frozen() {
        let mut bytes = Vec::new();
        refuse(&mut bytes, &Refusal::new(RefusalCode::StaleBoot, "no")).await;
        assert_eq!(bytes, [VERSION, KIND_REFUSAL, 0, 3, 6, b'n', b'o']);
        // A code of a later version is a refusal all the same; none at all is no refusal.
        bytes[4] = 200;
        let later = read(&mut bytes.as_slice()).await.unwrap();
        assert_eq!(later, Frame::Refusal(Refusal::new(RefusalCode::Other, "no")));
        assert!(read(&mut &[VERSION, KIND_REFUSAL, 0, 0][..]).await.is_err());
    }
}
