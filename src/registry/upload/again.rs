//! Requests that are sent again: what a step may keep of what came before it, and what has to go.
//!
//! Owns nothing. How far the client knows, the blob store records with the session.

use clawhub_types::Digest;

use super::mirror::Step;
use crate::Error;

impl Step<'_> {
    /// Whether the session has bytes that no answer has told its client of.
    pub(super) fn has_unacknowledged(&self) -> bool {
        let status = self.core.blobs().uploads().status(self.id);
        status.is_some_and(|status| status.acknowledged < status.offset)
    }

    /// Gives up what no answer has told the client of, and says where the session ends then.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn cut_back(&mut self) -> Result<u64, Error> {
        let status = self.core.blobs().uploads().status(self.id);
        let to = status.map(|status| status.acknowledged).unwrap_or_default();
        tracing::info!(upload = %self.id, offset = to, "a request is sent again: what came of it before goes");
        self.cut_back_to(to).await
    }

    /// Gives up what came after that.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn cut_back_to(&mut self, to: u64) -> Result<u64, Error> {
        let cut = self.core.blobs().uploads().cut_back(self.id, to).await;
        self.stored(cut.map(|()| to))?;
        let to = self.offset()?;
        self.turn.state.cut_back(to);
        Ok(to)
    }

    /// Whether a chunk that says that it begins there is to replace the last one, which began there without saying so:
    /// its client does not know of that one, or it was part of a request that came late, since this client says where
    /// its chunks begin.
    pub(super) fn replaces_the_last(&self, start: u64) -> bool {
        let Some(status) = self.core.blobs().uploads().status(self.id) else { return false };
        let is_strange = status.acknowledged <= start || self.turn.state.places;
        is_strange && start < status.offset && self.turn.state.began == Some(start)
    }

    /// Where a client that names places is to go on, which is told so now. It is told of no bytes that a chunk
    /// brought which named none, unless it knows of them.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn tell_where_to_go_on(&mut self) -> Result<u64, Error> {
        let end = self.offset()?;
        let acknowledged = self.core.blobs().uploads().status(self.id).map_or(end, |it| it.acknowledged);
        if acknowledged < end && self.turn.state.began == Some(acknowledged) {
            return Ok(acknowledged);
        }
        self.acknowledge(end).await?;
        Ok(end)
    }

    /// Notes where a chunk begins, if it did not say so itself.
    pub(super) fn begins(&mut self, at: Option<u64>) {
        self.turn.state.places |= at.is_none();
        self.turn.state.began = at;
    }

    /// Cuts off the last chunk, if what the client names is all that came before it: it was one more copy of a body
    /// whose answer was lost, or what is left of an older request that came late. Looked into once for each chunk,
    /// since it costs a pass over the bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn cut_off_last(&mut self, digest: &Digest) -> Result<bool, Error> {
        let end = self.offset()?;
        let Some(before) = self.turn.state.began.take().filter(|began| (1..end).contains(began)) else {
            return Ok(false);
        };
        let uploads = self.core.blobs().uploads();
        if uploads.prefix_digest(self.id, before, digest.algorithm()).await? != *digest {
            return Ok(false);
        }
        tracing::info!(upload = %self.id, offset = before, "the last chunk is no part of the upload");
        self.cut_back_to(before).await.map(|_| true)
    }

    /// Notes that the client is told now where the session ends.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn acknowledge(&mut self, at: u64) -> Result<(), Error> {
        let uploads = self.core.blobs().uploads();
        if uploads.status(self.id).is_some_and(|status| (status.acknowledged, status.durable) == (at, at)) {
            return Ok(());
        }
        let noted = uploads.acknowledge(self.id, at).await;
        self.stored(noted.map(|()| at)).map(drop)
    }
}
