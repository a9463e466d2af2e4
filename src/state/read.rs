//! Reading records and tables by their keys: what every domain's view is made of.

use clawhub_kv::KvRead;

use crate::fault::Fault;
use crate::key::{Key, Parts};
use crate::record::Record;

/// Reads whatever it is given: the live store, a snapshot of it, or the changes of a batch that is being
/// applied.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    kv: &'a dyn KvRead,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(kv: &'a dyn KvRead) -> Self {
        Reader { kv }
    }

    pub(crate) fn kv(self) -> &'a dyn KvRead {
        self.kv
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

    /// The last row of a table.
    pub(crate) fn last(&self, table: &Key) -> Result<Option<Row>, Fault> {
        let pair = self.kv.last(table.as_bytes(), &table.end())?;
        Ok(pair.map(|(key, value)| Row { key, value, prefix: table.len() }))
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
    pub(crate) fn parts(&self) -> Result<Parts<'_>, Fault> {
        Parts::after(&self.key, self.prefix)
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
