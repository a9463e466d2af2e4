//! Where a blob's bytes come from: the copy here, a fetch that is kept, or a peer whose copy is passed
//! through; and what becomes of a copy here that turns out bad.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clawhub_blobs::{Blob, BlobError};
use clawhub_peer::Class;
use clawhub_policy::needs_copy_here;
use clawhub_replicate::{Fetch, Relay, ReplicaSpec, ReplicateError};
use clawhub_state::View;
use clawhub_state::blob::LinkRecord;
use clawhub_types::{Digest, Root};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::core::Core;
use crate::error::RETRY;
use crate::lost::{LostCopies, is_lost};
use crate::{BlobView, Error, Freshness, MAX_MANIFEST};

/// A peer must show its first verified bytes within this, else the answer is 503.
const FIRST_BYTES: Duration = Duration::from_secs(20);

/// Where a blob's bytes are.
pub(crate) enum Source {
    Here(Blob),
    Coming(Fetch),
    /// On other nodes, and not to be kept here.
    Through(Relay),
}

/// What a copy that a reader has brought here would be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It may not stay here.
    None,
    /// One that the policies ask for.
    Copy,
    /// One that goes again.
    Cache,
}

/// How far a copy has been read.
struct Reading {
    here: Option<BoxStream<'static, Result<Bytes, BlobError>>>,
    /// What goes on once the copy here turned out bad.
    there: Option<BoxStream<'static, Result<Bytes, Error>>>,
    at: u64,
}

/// Opens blobs, from wherever their bytes are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sources {
    core: Arc<Core>,
    lost: Arc<LostCopies>,
}

impl Sources {
    /// Copies that turn out bad go to `lost`.
    pub(crate) fn new(core: Arc<Core>, lost: Arc<LostCopies>) -> Sources {
        Sources { core, lost }
    }

    /// All bytes of a small blob: a manifest too large for the log.
    pub(crate) async fn small_blob(&self, root: &Root, size: u64) -> Result<Bytes, Error> {
        if size > MAX_MANIFEST as u64 {
            return Err(Error::internal("a manifest record names a blob over the limit"));
        }
        let source = match self.open_local(root).await? {
            Some(blob) => Source::Here(blob),
            None => self.elsewhere(root).await?,
        };
        let mut pieces = self.read(&source, 0..size);
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of a manifest too large for the log, from wherever they are.
    pub(crate) async fn view(
        &self,
        digest: &Digest,
        root: &Root,
        size: u64,
        fresh: Freshness,
    ) -> Result<BlobView, Error> {
        let source = match self.open_local(root).await? {
            Some(blob) => Source::Here(blob),
            None => self.elsewhere(root).await?,
        };
        Ok(self.read_view(digest, size, source, fresh))
    }

    /// What a source has, read through this process.
    pub(crate) fn read_view(&self, digest: &Digest, size: u64, source: Source, fresh: Freshness) -> BlobView {
        let sources = self.clone();
        BlobView::readable(digest.clone(), size, fresh, move |range| sources.read(&source, range))
    }

    /// A copy here, with its file if the whole of it may be sent straight from there.
    pub(crate) fn local_view(
        &self,
        digest: &Digest,
        link: &LinkRecord,
        blob: Blob,
        fresh: Freshness,
    ) -> BlobView {
        let file = blob.straight(0..link.size);
        let sources = self.clone();
        let read = move |range: Range<u64>| sources.read_here(&blob, range);
        let view = BlobView::readable(digest.clone(), link.size, fresh, read);
        match file {
            Some(file) => view.with_local_file(file),
            None => view,
        }
    }

    /// Opens the local copy. One that is corrupt or cannot be read is given up in the log, so that it is
    /// made anew, and the caller goes to a peer.
    pub(crate) async fn open_local(&self, root: &Root) -> Result<Option<Blob>, Error> {
        match self.core.blobs().open_blob(root).await {
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

    /// Notes that this node has no good copy, unless its whole store is in doubt: that is said of the node
    /// then, once. A bad copy is out of service by now: what is here is another one.
    pub(crate) fn report_lost(&self, root: Root) {
        if is_lost(&self.core, &root) {
            self.lost.note(root);
        }
    }

    /// Where to get a blob that is not here. Waits for the first verified bytes, so that a blob nobody can
    /// supply is a 503 and not a broken body.
    pub(crate) async fn elsewhere(&self, root: &Root) -> Result<Source, Error> {
        let spec = self.core.spec(root)?.ok_or_else(|| Error::internal("a link names an unknown root"))?;
        match self.place_here(&spec).await? {
            Place::None => self.through(spec).await.map(Source::Through),
            place => tokio::time::timeout(FIRST_BYTES, self.fetch(spec, place)).await.map_err(slow)?,
        }
    }

    /// What a copy that a reader brings here would be: nothing if none of its projects admits it or there is no room.
    async fn place_here(&self, spec: &ReplicaSpec) -> Result<Place, Error> {
        let blobs = self.core.blobs();
        if !blobs.accepts() {
            return Ok(Place::None);
        }
        let place = self.place_by_policy(spec)?;
        if place != Place::Cache {
            return Ok(place);
        }
        let room = blobs.cache().make_room(&spec.root, spec.size).await.unwrap_or_else(|error| {
            tracing::warn!(root = %spec.root, %error, "no room can be made in the cache");
            false
        });
        Ok(if room { Place::Cache } else { Place::None })
    }

    /// The same whatever room there is.
    fn place_by_policy(&self, spec: &ReplicaSpec) -> Result<Place, Error> {
        let state = self.core.snapshot();
        let view = View::new(&*state);
        let layout = view.cluster().layout()?;
        let me = self.core.me();
        let policies = view.blob().policies(&spec.root)?;
        let admitted = |node| policies.iter().any(|policy| policy.admits(node));
        if !layout.node(me).is_some_and(admitted) {
            return Ok(Place::None);
        }
        let wanted =
            spec.holders.contains(&me) || needs_copy_here(&policies, &layout, &spec.root, &spec.holders, me);
        Ok(if wanted { Place::Copy } else { Place::Cache })
    }

    /// Starts or joins a fetch.
    async fn fetch(&self, spec: ReplicaSpec, place: Place) -> Result<Source, Error> {
        let flowing = async {
            let fetch = self.core.replicate.fetch(spec.clone(), Class::Foreground).await?;
            if place == Place::Copy {
                fetch.partial().promise();
            }
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
                tracing::warn!(root = %spec.root, %error, "the content is passed through and not kept");
                self.through(spec).await.map(Source::Through)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what is to be passed through.
    async fn through(&self, spec: ReplicaSpec) -> Result<Relay, Error> {
        let relay = self.core.replicate.relay(spec);
        Ok(tokio::time::timeout(FIRST_BYTES, relay).await.map_err(slow)??)
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
                if fetch.failed() {
                    // Nothing comes any more.
                    return self.pass_through(partial.root(), range);
                }
                self.go_on(partial.root(), partial.read(range.clone()).boxed(), range)
            }
            Source::Through(relay) => passed(relay, range),
        }
    }

    /// The bytes of `range` from peers, where nothing here has them any more.
    fn pass_through(&self, root: Root, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        let sources = self.clone();
        let opened = async move {
            let spec = sources.core.spec(&root)?;
            let gone = || Error::unavailable(RETRY, "the content was deleted meanwhile");
            let relay = sources.through(spec.ok_or_else(gone)?).await?;
            Ok::<_, Error>(passed(&relay, range))
        };
        stream::once(opened).try_flatten().boxed()
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
        let sources = self.clone();
        let next = move |mut reading: Reading| {
            let sources = sources.clone();
            async move {
                let piece = match reading.here.as_mut() {
                    Some(here) => match here.next().await? {
                        // A range outside of the blob is nobody's fault but the caller's.
                        Err(error) if !matches!(error, BlobError::Range { .. }) => {
                            tracing::error!(%root, %error, at = reading.at, "another copy goes on");
                            if error.is_bad_copy() {
                                sources.report_lost(root);
                            }
                            reading.here = None;
                            reading.there = Some(sources.pass_through(root, reading.at..end));
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

fn passed(relay: &Relay, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
    relay.read(range).map_err(Error::from).boxed()
}

fn slow(_: tokio::time::error::Elapsed) -> Error {
    Error::unavailable(RETRY, "the content's holders are slow to answer, or too much is passed through")
}
