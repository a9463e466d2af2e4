//! Keys of the outbox.

use crate::key::Key;

pub(crate) fn rows() -> Key {
    Key::new(b"o")
}

/// The rows of one log entry.
pub(crate) fn rows_of(index: u64) -> Key {
    rows().number(index)
}

pub(crate) fn row(index: u64, n: u16) -> Key {
    rows_of(index).small(n)
}

pub(crate) fn cursors() -> Key {
    Key::new(b"q")
}

pub(crate) fn cursor(reader: &str) -> Key {
    cursors().bytes(reader.as_bytes())
}
