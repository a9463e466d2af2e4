//! Framing of messages and bodies on a QUIC stream, as `proto/clawhub/blob/v1/blob.proto` says.
//!
//! Every read and write has a limit in bytes, and but for those of bodies in time. Nothing here outlives the stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

pub use prost::Message;

/// Longest framed message in bytes. Bodies and group lists are not messages.
const MAX_MESSAGE: usize = 64 * 1024;
/// Longest body frame in bytes.
const MAX_BODY_FRAME: usize = 4 * 1024 * 1024;
/// How long a peer may take to send the next bytes.
pub const STALL: Duration = Duration::from_secs(10);
/// How long it may take to accept more. QUIC tells a sender of room by eighths of a window: over a slow link that many
/// streams share, it takes a while until one is free.
const FULL: Duration = Duration::from_secs(60);

const BODY_END: u32 = 0;
const BODY_ABORTED: u32 = u32::MAX;

/// A stream ended, stalled or carried nonsense.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended early.
    #[error("stream: {0}")]
    Stream(String),
    /// No bytes moved for too long.
    #[error("the peer stalled")]
    Stalled,
    /// Longer than the protocol allows, or not a message.
    #[error("malformed frame: {0}")]
    Malformed(String),
}

/// Writes one framed message.
///
/// # Errors
/// [`FrameError`] if the stream fails or the peer does not accept it in time.
pub async fn write_message<M: Message>(send: &mut SendStream, message: &M) -> Result<(), FrameError> {
    write_chunk(send, frame(message)?).await
}

/// A message with its frame, for whoever has a limit of its own on how long writing may take.
///
/// # Errors
/// [`FrameError::Malformed`] if it is longer than any message may be.
pub fn frame<M: Message>(message: &M) -> Result<Bytes, FrameError> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(4 + length);
    let header = u32::try_from(length).map_err(|_| FrameError::Malformed("message too long".into()))?;
    frame.extend_from_slice(&header.to_be_bytes());
    message.encode(&mut frame).map_err(|error| FrameError::Malformed(error.to_string()))?;
    Ok(frame.freeze())
}

/// Reads one framed message, waiting at most `patience` for it to begin.
///
/// # Errors
/// [`FrameError`] if the stream fails, stalls, or carries something else.
pub async fn read_message<M: Message + Default>(
    recv: &mut RecvStream,
    patience: Duration,
) -> Result<M, FrameError> {
    let mut header = [0; 4];
    within(patience, recv.read_exact(&mut header)).await?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_MESSAGE {
        return Err(FrameError::Malformed(format!("message of {length} bytes")));
    }
    let mut body = vec![0; length];
    within(STALL, recv.read_exact(&mut body)).await?;
    M::decode(body.as_slice()).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Writes raw bytes.
///
/// # Errors
/// [`FrameError`] if the stream fails or stalls.
pub async fn write_chunk(send: &mut SendStream, bytes: Bytes) -> Result<(), FrameError> {
    let mut rest = [bytes];
    while !rest[0].is_empty() {
        within(FULL, send.write_chunks(&mut rest)).await?;
    }
    Ok(())
}

/// Reads exactly `length` raw bytes.
///
/// # Errors
/// [`FrameError`] if the stream fails, stalls, or ends early.
pub async fn read_exact(recv: &mut RecvStream, length: usize) -> Result<Bytes, FrameError> {
    read_noted(recv, length, |_| ()).await
}

/// Reads exactly `length` raw bytes, and says of each part that comes how long it is.
///
/// # Errors
/// [`FrameError`] if the stream fails, stalls, or ends early.
pub async fn read_noted(
    recv: &mut RecvStream,
    length: usize,
    note: impl Fn(usize),
) -> Result<Bytes, FrameError> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match within(STALL, recv.read(&mut bytes[filled..])).await? {
            Some(n) => {
                filled += n;
                note(n);
            }
            None => return Err(FrameError::Stream("ended early".into())),
        }
    }
    Ok(bytes.into())
}

/// One piece of a client's body on its way to the node that owns the upload.
#[derive(Debug)]
pub enum BodyFrame {
    /// The next bytes.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The client left before the end.
    Aborted,
}

/// Writes a piece of a body. Empty pieces are skipped: a length of zero ends the body. How long that may take is for the
/// caller to say.
///
/// # Errors
/// [`FrameError`] if the stream fails.
pub async fn write_body(send: &mut SendStream, bytes: Bytes) -> Result<(), FrameError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(MAX_BODY_FRAME));
        let header = Bytes::copy_from_slice(&(piece.len() as u32).to_be_bytes());
        let written = send.write_all_chunks(&mut [header, piece]).await;
        written.map_err(|error| FrameError::Stream(error.to_string()))?;
    }
    Ok(())
}

/// Ends a body: complete, or cut short by the client. How long that may take is for the caller to say.
///
/// # Errors
/// [`FrameError`] if the stream fails.
pub async fn write_body_end(send: &mut SendStream, complete: bool) -> Result<(), FrameError> {
    let mark = if complete { BODY_END } else { BODY_ABORTED };
    let written = send.write_chunk(Bytes::copy_from_slice(&mark.to_be_bytes())).await;
    written.map_err(|error| FrameError::Stream(error.to_string()))
}

/// Reads the next piece of a body, waiting at most `patience` for it to begin: the client behind the
/// peer may be slow.
///
/// # Errors
/// [`FrameError`] if the stream fails or carries nonsense.
pub async fn read_body(recv: &mut RecvStream, patience: Duration) -> Result<BodyFrame, FrameError> {
    let mut header = [0; 4];
    within(patience, recv.read_exact(&mut header)).await?;
    match u32::from_be_bytes(header) {
        BODY_END => Ok(BodyFrame::End),
        BODY_ABORTED => Ok(BodyFrame::Aborted),
        length if length as usize <= MAX_BODY_FRAME => {
            Ok(BodyFrame::Data(read_exact(recv, length as usize).await?))
        }
        length => Err(FrameError::Malformed(format!("body frame of {length} bytes"))),
    }
}

async fn within<T, E: ToString>(
    limit: Duration,
    io: impl Future<Output = Result<T, E>>,
) -> Result<T, FrameError> {
    match tokio::time::timeout(limit, io).await {
        Ok(done) => done.map_err(|error| FrameError::Stream(error.to_string())),
        Err(_) => Err(FrameError::Stalled),
    }
}
