//! Events, written beside the data that caused them and read by jobs afterwards.
//!
//! Rows are keyed by log index. Each reader has a cursor in the log; rows that every reader has passed
//! go. While nobody reads, nothing is written.

mod apply;
mod cmd;
pub(crate) mod keys;
pub(crate) mod records;
mod view;

pub(crate) use apply::emit;
pub use cmd::OutboxCmd;
pub use records::{Event, OutboxRow};
pub use view::OutboxView;
