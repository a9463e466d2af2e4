//! Queries about events.

use super::keys;
use super::records::{CursorRecord, OutboxRow};
use crate::fault::Fault;
use crate::read::Reader;

/// What the state says of events.
#[derive(Clone, Copy)]
pub struct OutboxView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for OutboxView<'a> {
    fn from(read: Reader<'a>) -> Self {
        OutboxView(read)
    }
}

impl OutboxView<'_> {
    /// The oldest `limit` or so events after the log index `after`, each with its entry's index. The
    /// events of one entry always come together, so that the last index can be the next `after`.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, OutboxRow)>, Fault> {
        let table = keys::rows();
        let mut start = keys::rows_of(after.saturating_add(1));
        let mut found: Vec<(u64, OutboxRow)> = Vec::new();
        while let Some(row) = self.0.rows(&table, &start, 1)?.first() {
            let index = row.parts()?.number()?;
            if found.len() >= limit.max(1) && found.last().is_some_and(|last| last.0 != index) {
                break;
            }
            found.push((index, row.record()?));
            start = row.key().after();
        }
        Ok(found)
    }

    /// The log index up to which a reader is done; `None` if it is not registered.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn cursor(&self, reader: &str) -> Result<Option<u64>, Fault> {
        Ok(self.0.get::<CursorRecord>(&keys::cursor(reader))?.map(|cursor| cursor.0))
    }
}
