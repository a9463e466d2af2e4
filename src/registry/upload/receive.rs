//! Taking a chunk: from the client's body into the store and, beside it, to the partner.
//!
//! Owns the bytes between the two, half a MiB at a time. A crash loses what was not confirmed.
//!
//! # Where a chunk begins
//! One that names its place (`Content-Range`) begins there, which must be where the session ends, or where the last
//! chunk began, if that did not name its place and is not the client's: no answer told of it, or the chunks before it
//! named theirs. One that does not begins where the client was last told that the session ends. What has come beyond
//! that is of a request whose answer its client has not got, so it sends all of it again: the rest goes when the first
//! byte of the new one is here (`docs/protocols/oci.md`, "Requests that are sent again").

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::gather::Gather;
use super::mirror::Step;
use crate::{BodyError, BodyStream, Chunk, Error, Invalid, Kind, UploadView};

/// How the taking of a chunk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// All of it is here.
    Whole,
    /// The client was silent, and a newer step waits.
    Superseded,
}

/// What comes next of a body.
enum Next {
    Bytes(Bytes),
    End,
    Broken(BodyError),
    Superseded,
    /// It is slow, and has room that others could use.
    Late,
}

/// Streams a chunk into the store and the mirror. What arrived before an error, or before a newer step, stays. A
/// client that is slow takes a little memory meanwhile; the disk and the partner are waited for, and held, a piece at
/// a time.
pub(super) async fn receive(step: &mut Step<'_>, chunk: Chunk) -> Result<Received, Error> {
    let mut gather = Gather::begin(step.places).await?;
    let placed = chunk.range.map(|(start, _)| start);
    let (at, expected) = find_place(step, chunk.range, chunk.length).await?;
    let mut body = chunk.body;
    take(step, &mut gather, &mut body, Place { at, placed, expected }).await
}

/// Where a chunk is to go, and how long it must be.
struct Place {
    at: u64,
    /// Where it says that it begins.
    placed: Option<u64>,
    /// None if it does not say.
    expected: Option<u64>,
}

/// Finds out where a chunk goes and how long it must be, and has a partner wait for it there.
async fn find_place(
    step: &mut Step<'_>,
    range: Option<(u64, u64)>,
    length: Option<u64>,
) -> Result<(u64, Option<u64>), Error> {
    let placed = range.map(|(start, _)| start);
    let replaces = placed.filter(|start| step.replaces_the_last(*start));
    let mut at = match replaces {
        Some(start) => start,
        None => step.offset()?,
    };
    if placed.is_some_and(|start| start != at) {
        at = step.tell_where_to_go_on().await?;
    }
    let expected = expected_length(range, length, UploadView { id: step.id, offset: at })?;
    if replaces.is_none() && (placed.is_some() || !step.has_unacknowledged()) {
        // Without a partner the bytes are taken all the same: one may be found while they come.
        step.attach(at).await?;
    }
    Ok((at, expected))
}

/// Takes the bytes of a chunk until it ends, breaks off or is superseded.
async fn take(
    step: &mut Step<'_>,
    gather: &mut Gather<'_>,
    body: &mut BodyStream,
    place: Place,
) -> Result<Received, Error> {
    let Place { mut at, placed, expected } = place;
    let mut begun = false;
    let mut left = expected.unwrap_or(u64::MAX);
    loop {
        let next = next(step, gather, body).await;
        if matches!(&next, Next::Bytes(bytes) if !bytes.is_empty()) && !std::mem::replace(&mut begun, true) {
            at = begin(step, at, placed).await?;
        }
        match next {
            Next::Bytes(bytes) if bytes.len() as u64 > left => {
                return Err(Error::invalid(Invalid::Length, "the body is longer than its Content-Range"));
            }
            Next::Bytes(bytes) => {
                left -= bytes.len() as u64;
                let piece = gather.add(&bytes);
                at = store(step, at, gather, piece).await?;
            }
            Next::Late => {
                let piece = gather.shrink();
                at = store(step, at, gather, piece).await?;
            }
            Next::End => {
                let piece = gather.take();
                store(step, at, gather, piece).await?;
                break;
            }
            Next::Broken(error) => {
                keep(step, at, gather).await?;
                tracing::info!(upload = %step.id, %error, "the client left in the middle of an upload");
                return Err(error.into());
            }
            Next::Superseded => {
                keep(step, at, gather).await?;
                tracing::info!(upload = %step.id, "a newer request takes over from one whose client is silent");
                return Ok(Received::Superseded);
            }
        }
    }
    if expected.is_some() && left > 0 {
        return Err(Error::invalid(Invalid::Length, "the body is shorter than it says"));
    }
    Ok(Received::Whole)
}

/// Finds the place of a chunk whose first bytes are here: its own if it names it.
async fn begin(step: &mut Step<'_>, at: u64, placed: Option<u64>) -> Result<u64, Error> {
    if let Some(start) = placed {
        let at = if start < step.offset()? { step.cut_back_to(start).await? } else { at };
        step.begins(None);
        return Ok(at);
    }
    let at = if step.has_unacknowledged() { step.cut_back().await? } else { at };
    step.begins(Some(at));
    Ok(at)
}

/// Waits for the client, unless it is silent and somebody else waits.
async fn next(step: &Step<'_>, gather: &Gather<'_>, body: &mut BodyStream) -> Next {
    let late = gather.late();
    tokio::select! {
        biased;
        next = body.next() => match next {
            Some(Ok(bytes)) => Next::Bytes(bytes),
            Some(Err(error)) => Next::Broken(error),
            None => Next::End,
        },
        () = step.turn.give_way(Instant::now()) => Next::Superseded,
        () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => Next::Late,
    }
}

/// Stores a piece, if there is one, once it is its turn. Answers where the session ends then.
async fn store(
    step: &mut Step<'_>,
    at: u64,
    gather: &mut Gather<'_>,
    piece: Option<Bytes>,
) -> Result<u64, Error> {
    let Some(piece) = piece else { return Ok(at) };
    let _active = step.places.active().await?;
    let at = step.store(at, piece).await?;
    gather.goes_on();
    Ok(at)
}

/// What has come is kept: the client can go on from there once it has asked where that is.
async fn keep(step: &mut Step<'_>, at: u64, gather: &mut Gather<'_>) -> Result<(), Error> {
    let piece = gather.take();
    store(step, at, gather, piece).await?;
    // What is not durable now is received again.
    let _ = step.flush().await;
    Ok(())
}

/// How many bytes the chunk must have, once its place is right.
fn expected_length(
    range: Option<(u64, u64)>,
    length: Option<u64>,
    view: UploadView,
) -> Result<Option<u64>, Error> {
    let Some((start, end)) = range else { return Ok(length) };
    if start != view.offset {
        let message = format!("the next byte is {}, not {start}", view.offset);
        return Err(Error::new(Kind::Range { upload: view }, message));
    }
    let span = end.checked_sub(start).and_then(|n| n.checked_add(1));
    let span = span.ok_or_else(|| Error::invalid(Invalid::Length, "Content-Range ends before it begins"))?;
    match length {
        Some(length) if length != span => {
            Err(Error::invalid(Invalid::Length, format!("{length} bytes for a Content-Range of {span}")))
        }
        _ => Ok(Some(span)),
    }
}
