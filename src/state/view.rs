//! Read queries.
//!
//! A [`View`] reads whatever it is given: the live store, a snapshot of it, or the changes of a batch
//! that is being applied. A query that reads more than one record is consistent only over a snapshot.

use clawhub_kv::KvRead;

use crate::artifact::ArtifactView;
use crate::blob::BlobView;
use crate::cluster::ClusterView;
use crate::fault::Fault;
use crate::key::Key;
use crate::machine::{hash_key, read_applied};
use crate::outbox::OutboxView;
use crate::project::ProjectView;
use crate::record::Record;
use crate::state_hash::StateHash;

/// Rows read from the store at a time by queries that filter.
const PAGE: usize = 256;

/// The state, to be asked. Each domain answers through a view of its own.
#[derive(Clone, Copy)]
pub struct View<'a> {
    kv: &'a dyn KvRead,
}

impl<'a> View<'a> {
    /// A view of a store or snapshot.
    pub fn new(kv: &'a dyn KvRead) -> Self {
        View { kv }
    }

    /// What it says of the cluster, its nodes, tokens and sessions.
    pub fn cluster(self) -> ClusterView<'a> {
        ClusterView::from(self)
    }

    /// What it says of projects, repositories and their policies.
    pub fn project(self) -> ProjectView<'a> {
        ProjectView::from(self)
    }

    /// What it says of roots, holders and links.
    pub fn blob(self) -> BlobView<'a> {
        BlobView::from(self)
    }

    /// What it says of manifests, tags and referrers.
    pub fn artifact(self) -> ArtifactView<'a> {
        ArtifactView::from(self)
    }

    /// What it says of events.
    pub fn outbox(self) -> OutboxView<'a> {
        OutboxView::from(self)
    }

    /// The index applied last (0 before the first) and the hash of the whole state after it. Equal
    /// on every node at equal index, however the entries were batched.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn state_hash(&self) -> Result<(u64, [u8; 32]), Fault> {
        let index = read_applied(self.kv)?.map_or(0, |pos| pos.index);
        Ok((index, self.get::<StateHash>(&hash_key())?.unwrap_or_default().bytes()))
    }

    /// The hash computed anew from every pair of the state. Slow; it proves a copied state or the
    /// incremental hash.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn compute_state_hash(&self) -> Result<[u8; 32], Fault> {
        let skip = hash_key();
        let mut hash = StateHash::default();
        let mut start = Vec::new();
        loop {
            let page = self.kv.scan(&start, &[0xff], PAGE)?;
            for (key, value) in page.iter().filter(|(key, _)| key != skip.as_bytes()) {
                hash.add(key, value);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => start = [key, &[0][..]].concat(),
                _ => return Ok(hash.bytes()),
            }
        }
    }

    pub(crate) fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, Fault> {
        self.raw(key)?.map(|bytes| R::decode(&bytes)).transpose()
    }

    pub(crate) fn raw(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.kv.get(key.as_bytes())?)
    }

    pub(crate) fn has(&self, key: &Key) -> Result<bool, Fault> {
        Ok(self.raw(key)?.is_some())
    }

    /// At most `limit` rows of a table, from `start` on. Pass the table itself to begin at its
    /// beginning.
    pub(crate) fn rows(&self, table: &Key, start: &Key, limit: usize) -> Result<Vec<Row>, Fault> {
        debug_assert!(start.as_bytes().starts_with(table.as_bytes()));
        let pairs = self.kv.scan(start.as_bytes(), &table.end(), limit)?;
        Ok(pairs.into_iter().map(|(key, value)| Row { key, value, prefix: table.len() }).collect())
    }

    /// Every row of a table known to be small.
    pub(crate) fn all(&self, table: &Key) -> Result<Vec<Row>, Fault> {
        self.rows(table, table, usize::MAX)
    }
}

/// A row of a table.
pub(crate) struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
    prefix: usize,
}

impl Row {
    /// The key, to delete the row by.
    pub(crate) fn key(&self) -> Key {
        Key::new(&self.key)
    }

    /// The parts of the key after the table's own.
    pub(crate) fn parts(&self) -> Result<crate::key::Parts<'_>, Fault> {
        crate::key::Parts::after(&self.key, self.prefix)
    }

    pub(crate) fn record<R: Record>(&self) -> Result<R, Fault> {
        R::decode(&self.value)
    }
}

/// Cuts what was read with a limit one too high, and says whether there was more.
pub(crate) fn page<T>(mut items: Vec<T>, limit: usize) -> (Vec<T>, bool) {
    let more = items.len() > limit;
    items.truncate(limit);
    (items, more)
}
