//! Taking a chunk: from the client's body into the store and, beside it, to the partner.
//!
//! Owns the bytes between the two, half a MiB at a time. A crash loses what was not confirmed.

use bytes::BytesMut;
use futures::StreamExt;

use super::mirror::Step;
use super::places::PIECE;
use crate::{Chunk, Error, Invalid, Kind, UploadView};

/// Streams a chunk into the store and the mirror. What arrived before an error stays.
pub(super) async fn receive(step: &mut Step<'_>, chunk: Chunk) -> Result<(), Error> {
    let _active = step.places.active().await?;
    let id = step.id;
    let mut at = step.offset()?;
    let expected = expected_length(&chunk, UploadView { id, offset: at })?;
    // Without a partner the bytes are taken all the same: one may be found while they come.
    step.attach(at).await?;
    let mut body = chunk.body;
    let mut left = expected.unwrap_or(u64::MAX);
    let mut piece = BytesMut::new();
    loop {
        let next = body.next().await;
        let ended = next.is_none();
        match next {
            Some(Ok(bytes)) if bytes.len() as u64 > left => {
                return Err(Error::invalid(Invalid::Length, "the body is longer than its Content-Range"));
            }
            Some(Ok(bytes)) => {
                left -= bytes.len() as u64;
                piece.extend_from_slice(&bytes);
            }
            Some(Err(error)) => {
                // What arrived is kept: the client can go on from there.
                at = step.store(at, piece.split().freeze()).await?;
                tracing::info!(upload = %id, offset = at, %error, "the client left in the middle of an upload");
                let _ = step.flush().await;
                return Err(error.into());
            }
            None => {}
        }
        if piece.len() >= PIECE || (ended && !piece.is_empty()) {
            at = step.store(at, piece.split().freeze()).await?;
        }
        if ended {
            break;
        }
    }
    if expected.is_some() && left > 0 {
        return Err(Error::invalid(Invalid::Length, "the body is shorter than it says"));
    }
    Ok(())
}

/// How many bytes the chunk must have, once its place is right.
fn expected_length(chunk: &Chunk, view: UploadView) -> Result<Option<u64>, Error> {
    let Some((start, end)) = chunk.range else { return Ok(chunk.length) };
    if start != view.offset {
        let message = format!("the next byte is {}, not {start}", view.offset);
        return Err(Error::new(Kind::Range { upload: view }, message));
    }
    let span = end.checked_sub(start).and_then(|n| n.checked_add(1));
    let span = span.ok_or_else(|| Error::invalid(Invalid::Length, "Content-Range ends before it begins"))?;
    match chunk.length {
        Some(length) if length != span => {
            Err(Error::invalid(Invalid::Length, format!("{length} bytes for a Content-Range of {span}")))
        }
        _ => Ok(Some(span)),
    }
}
