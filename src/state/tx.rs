//! The changes of a batch while it is being applied. Reads see them over the store; a command that is refused takes
//! its own back; the store sees all of them at once, or, after a crash, none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use clawhub_kv::{Batch, KvError, KvRead, Pair};
use clawhub_types::Actor;

use crate::fault::Fault;
use crate::key::Key;
use crate::record::Record;
use crate::state_hash::StateHash;
use crate::view::View;

/// Pairs read from the store at a time while a scan merges them with the changes.
const CHUNK: usize = 128;

/// What an entry brings with it, besides its command.
#[derive(Clone, Debug)]
pub(crate) struct ApplyContext {
    /// Of the leader that appended it.
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// The cluster clock after it.
    pub(crate) tick: u64,
    /// The leader's wall time.
    pub(crate) at: u64,
    pub(crate) actor: Actor,
    /// Events it emitted so far.
    pub(crate) events: u16,
}

/// A staged value; `None` is a deletion.
type Staged = Option<Vec<u8>>;

/// Changes over a store. Reads see them; the store does not until [`Tx::finish`]ed changes are written.
pub(crate) struct Tx<'a> {
    base: &'a dyn KvRead,
    staged: BTreeMap<Vec<u8>, Staged>,
    /// What each change since the savepoint replaced; the outer `None` is: nothing was staged.
    undo: Vec<(Vec<u8>, Option<Staged>)>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(base: &'a dyn KvRead) -> Self {
        Tx { base, staged: BTreeMap::new(), undo: Vec::new() }
    }

    /// Queries over the store with the changes.
    pub(crate) fn view(&self) -> View<'_> {
        View::new(self)
    }

    pub(crate) fn record<R: Record>(&self, key: &Key) -> Result<Option<R>, Fault> {
        self.view().read().get(key)
    }

    pub(crate) fn put<R: Record>(&mut self, key: Key, record: &R) {
        self.stage(key.into_bytes(), Some(record.encode()));
    }

    /// Sets a key to bytes that are no record.
    pub(crate) fn put_raw(&mut self, key: Key, bytes: Vec<u8>) {
        self.stage(key.into_bytes(), Some(bytes));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.stage(key.into_bytes(), None);
    }

    fn stage(&mut self, key: Vec<u8>, value: Staged) {
        let before = self.staged.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// Keeps every change so far, whatever is rolled back later.
    pub(crate) fn savepoint(&mut self) {
        self.undo.clear();
    }

    /// Forgets every change since the savepoint.
    pub(crate) fn rollback(&mut self) {
        for (key, before) in self.undo.drain(..).rev() {
            match (self.staged.entry(key), before) {
                (Slot::Occupied(slot), None) => drop(slot.remove()),
                (Slot::Occupied(mut slot), Some(before)) => drop(slot.insert(before)),
                (Slot::Vacant(_), _) => unreachable!("what was staged stays staged"),
            }
        }
    }

    /// The changes as a batch, with the state hash brought along at `hash`. Changes that change nothing
    /// are left out.
    pub(crate) fn finish(self, hash: Key) -> Result<Batch, Fault> {
        let stored = self.base.get(hash.as_bytes())?;
        let mut sum = stored.map(|bytes| StateHash::decode(&bytes)).transpose()?.unwrap_or_default();
        let mut batch = Batch::default();
        for (key, value) in self.staged {
            let before = self.base.get(&key)?;
            if before == value {
                continue;
            }
            if let Some(before) = before {
                sum.remove(&key, &before);
            }
            match value {
                Some(value) => {
                    sum.add(&key, &value);
                    batch.put(key, value);
                }
                None => batch.delete(key),
            }
        }
        batch.put(hash.into_bytes(), sum.encode());
        Ok(batch)
    }
}

impl KvRead for Tx<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.staged.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let mut out = Vec::new();
        if start >= end {
            return Ok(out);
        }
        let mut from = start.to_vec();
        while out.len() < limit {
            // One chunk of the store, and the changes that fall between its beginning and its end.
            let want = CHUNK.min(limit - out.len()).max(1);
            let chunk = self.base.scan(&from, end, want)?;
            let next = match chunk.last() {
                Some((key, _)) if chunk.len() == want => Some([key, &[0][..]].concat()),
                _ => None,
            };
            let until = next.as_deref().unwrap_or(end);
            self.merge(chunk, &from, until, &mut out);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        let mut end = end.to_vec();
        while start < end.as_slice() {
            let stored = self.base.last(start, &end)?;
            let staged = self.staged.range(start.to_vec()..end.clone()).next_back();
            match (stored, staged) {
                (stored, None) => return Ok(stored),
                (Some(stored), Some((key, _))) if stored.0 > *key => return Ok(Some(stored)),
                (_, Some((key, Some(value)))) => return Ok(Some((key.clone(), value.clone()))),
                (_, Some((key, None))) => end.clone_from(key),
            }
        }
        Ok(None)
    }
}

impl Tx<'_> {
    /// Appends to `out`, in order, the stored pairs of `from..until` as the changes leave them.
    fn merge(&self, stored: Vec<Pair>, from: &[u8], until: &[u8], out: &mut Vec<Pair>) {
        let mut staged = self.staged.range(from.to_vec()..until.to_vec()).peekable();
        for (key, value) in stored {
            while let Some((changed, to)) = staged.next_if(|(changed, _)| **changed < key) {
                out.extend(to.clone().map(|to| (changed.clone(), to)));
            }
            match staged.next_if(|(changed, _)| **changed == key) {
                Some((_, to)) => out.extend(to.clone().map(|to| (key, to))),
                None => out.push((key, value)),
            }
        }
        out.extend(staged.filter_map(|(key, to)| Some((key.clone(), to.clone()?))));
    }
}

#[cfg(test)]
#[path = "tx_test.rs"]
mod tests;
