//! Read queries.
//!
//! A [`View`] reads whatever it is given: the live store, a snapshot of it, or the changes of a batch
//! that is being applied. A query that reads more than one record is consistent only over a snapshot.

use clawhub_kv::KvRead;

use crate::artifact::ArtifactView;
use crate::blob::BlobView;
use crate::cluster::ClusterView;
use crate::fault::Fault;
use crate::meta;
use crate::outbox::OutboxView;
use crate::project::ProjectView;
use crate::read::Reader;
use crate::state_hash::StateHash;

/// Pairs read from the store at a time while the hash is computed anew.
const PAGE: usize = 256;

/// The state, to be asked. Each domain answers through a view of its own.
#[derive(Clone, Copy)]
pub struct View<'a> {
    read: Reader<'a>,
}

impl<'a> View<'a> {
    /// A view of a store or snapshot.
    pub fn new(kv: &'a dyn KvRead) -> Self {
        View { read: Reader::new(kv) }
    }

    /// What it says of the cluster, its nodes, tokens and sessions.
    pub fn cluster(self) -> ClusterView<'a> {
        ClusterView::from(self.read)
    }

    /// What it says of projects, repositories and their policies.
    pub fn project(self) -> ProjectView<'a> {
        ProjectView::from(self.read)
    }

    /// What it says of roots, holders and links.
    pub fn blob(self) -> BlobView<'a> {
        BlobView::from(self.read)
    }

    /// What it says of manifests, tags and referrers.
    pub fn artifact(self) -> ArtifactView<'a> {
        ArtifactView::from(self.read)
    }

    /// What it says of events.
    pub fn outbox(self) -> OutboxView<'a> {
        OutboxView::from(self.read)
    }

    /// The rows themselves, by key.
    pub(crate) fn read(self) -> Reader<'a> {
        self.read
    }

    /// The index applied last (0 before the first) and the hash of the whole state after it. Equal
    /// on every node at equal index, however the entries were batched.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn state_hash(&self) -> Result<(u64, [u8; 32]), Fault> {
        let kv = self.read.kv();
        let index = meta::applied(kv)?.map_or(0, |pos| pos.index);
        Ok((index, meta::hash(kv)?.bytes()))
    }

    /// The hash computed anew from every pair of the state. Slow; it proves a copied state or the
    /// incremental hash.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn compute_state_hash(&self) -> Result<[u8; 32], Fault> {
        let skip = meta::hash_key();
        let mut hash = StateHash::default();
        let mut start = Vec::new();
        loop {
            let page = self.read.kv().scan(&start, &[0xff], PAGE)?;
            for (key, value) in page.iter().filter(|(key, _)| key != skip.as_bytes()) {
                hash.add(key, value);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => start = [key, &[0][..]].concat(),
                _ => return Ok(hash.bytes()),
            }
        }
    }
}
