//! Where a blob's bytes come from: the copy here, a fetch that is kept, or a peer whose copy is passed
//! through; and what becomes of a copy here that turns out bad.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::{Blob, BlobError};
use clawhub_peer::Class;
use clawhub_replicate::{Fetch, ReplicateError, Wanted};
use clawhub_state::Command;
use clawhub_state::blob::BlobCmd;
use clawhub_types::Root;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::errors::RETRY;
use crate::{Error, Registry};

/// A peer must show its first verified bytes within this, else the answer is 503.
const FIRST_BYTES: Duration = Duration::from_secs(20);

/// Where a blob's bytes are.
pub(crate) enum Source {
    Here(Blob),
    Coming(Fetch),
    /// On other nodes, and not to be kept here.
    Through(Box<Wanted>),
}

/// How far a copy has been read.
struct Reading {
    here: Option<BoxStream<'static, Result<Bytes, BlobError>>>,
    /// What goes on once the copy here turned out bad.
    there: Option<BoxStream<'static, Result<Bytes, Error>>>,
    at: u64,
}

impl Registry {
    /// Opens the local copy. One that is corrupt or cannot be read is given up in the log, so that it is
    /// made anew, and the caller goes to a peer.
    pub(crate) async fn open_local(&self, root: &Root) -> Result<Option<Blob>, Error> {
        match self.blobs().open_blob(root).await {
            Ok(blob) => Ok(blob),
            Err(error) if error.is_bad_copy() || error.is_failure() => {
                tracing::error!(%root, %error, "the copy here cannot be served");
                if error.is_bad_copy() {
                    self.report_lost(*root);
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says in the log that this node has no good copy, unless its whole store is in doubt: that is said of
    /// the node then, once.
    fn report_lost(&self, root: Root) {
        if self.blobs().is_held_back() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let cmd = BlobCmd::Lost { node: this.me(), roots: vec![root] };
            if let Err(error) = this.propose_system(Command::Blob(cmd)).await {
                tracing::warn!(%root, %error, "a lost copy could not be reported yet");
            }
        });
    }

    /// Where to get a blob that is not here. Waits for the first verified bytes, so that a blob nobody can
    /// supply is a 503 and not a broken body.
    pub(crate) async fn elsewhere(&self, root: &Root) -> Result<Source, Error> {
        let wanted = self.wanted(root)?.ok_or_else(|| Error::internal("a link names an unknown root"))?;
        let found = async {
            if self.blobs().accepts() { self.fetch(wanted).await } else { self.through(wanted).await }
        };
        let slow = |_| Error::unavailable(RETRY, "the content's holders are slow to answer");
        tokio::time::timeout(FIRST_BYTES, found).await.map_err(slow)?
    }

    /// Starts or joins a fetch.
    async fn fetch(&self, wanted: Wanted) -> Result<Source, Error> {
        let flowing = async {
            let fetch = self.inner.replicate.fetch(wanted.clone(), Class::Foreground).await?;
            fetch.flowing().await?;
            Ok(fetch)
        };
        match flowing.await {
            Ok(fetch) => Ok(Source::Coming(fetch)),
            // Another reader's fetch ended since this one looked.
            Err(ReplicateError::Local(BlobError::Held(root))) => {
                let blob = self.open_local(&root).await?;
                let lost = || Error::unavailable(RETRY, "the copy here was just lost");
                blob.map(Source::Here).ok_or_else(lost)
            }
            // There is no room to keep it, or none that can be written to, which may show only at a write.
            Err(ReplicateError::Local(error)) => {
                tracing::warn!(root = %wanted.root, %error, "the content is passed through and not kept");
                self.through(wanted).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for the first bytes of what is to be passed through.
    async fn through(&self, wanted: Wanted) -> Result<Source, Error> {
        let first = self.inner.replicate.relay(wanted.clone(), 0..wanted.size.min(1));
        if let Some(Err(error)) = std::pin::pin!(first).next().await {
            return Err(error.into());
        }
        Ok(Source::Through(Box::new(wanted)))
    }

    /// The bytes of `range`. Where the copy here turns out bad, or the fetch ends, another copy goes on.
    pub(crate) fn read(
        &self,
        source: &Source,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        match source {
            Source::Here(blob) => self.read_here(blob, range),
            Source::Coming(fetch) => {
                let partial = fetch.partial();
                self.go_on(partial.root(), partial.read(range.clone()).boxed(), range)
            }
            Source::Through(wanted) => self.pass_through((**wanted).clone(), range),
        }
    }

    fn pass_through(&self, wanted: Wanted, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        self.inner.replicate.relay(wanted, range).map(|piece| piece.map_err(Error::from)).boxed()
    }

    pub(crate) fn read_here(
        &self,
        blob: &Blob,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        self.go_on(blob.root(), blob.read(range.clone()).boxed(), range)
    }

    /// What is read here, and from a peer's copy from where that fails.
    fn go_on(
        &self,
        root: Root,
        here: BoxStream<'static, Result<Bytes, BlobError>>,
        Range { start, end }: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        let first = Reading { here: Some(here), there: None, at: start };
        let registry = self.clone();
        let next = move |mut reading: Reading| {
            let registry = registry.clone();
            async move {
                let piece = match reading.here.as_mut() {
                    Some(here) => match here.next().await? {
                        // A range outside of the blob is nobody's fault but the caller's.
                        Err(error) if !matches!(error, BlobError::Range { .. }) => {
                            tracing::error!(%root, %error, at = reading.at, "another copy goes on");
                            if error.is_bad_copy() {
                                registry.report_lost(root);
                            }
                            reading.here = None;
                            reading.there = Some(match registry.wanted(&root) {
                                Ok(Some(wanted)) => registry.pass_through(wanted, reading.at..end),
                                _ => stream::once(async { Err(error.into()) }).boxed(),
                            });
                            reading.there.as_mut()?.next().await?
                        }
                        piece => piece.map_err(Error::from),
                    },
                    None => reading.there.as_mut()?.next().await?,
                };
                reading.at += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                Some((piece, reading))
            }
        };
        stream::unfold(first, next).boxed()
    }
}
