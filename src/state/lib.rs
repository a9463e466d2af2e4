//! The replicated state machine: what every node knows alike.
//!
//! Synchronous and pure. [`Machine::apply`] is a function of the state and the log entry, and consults
//! nothing else: no clock, randomness, float, hash-map order, configuration or IO but its own store.
//! It parses no user input either; the proposer extracts what it needs and the entry carries it.
//!
//! Each domain is a folder `cmd, apply, records, keys, view` and writes its own keys, laid out in
//! `key.rs`; a later one may call an earlier one: cluster, project, blob, artifact. [`View`] reads.

#![deny(clippy::float_arithmetic)]

pub mod artifact;
pub mod blob;
pub mod cluster;
mod entry;
mod fault;
#[cfg(test)]
mod golden_test;
mod key;
mod log;
mod machine;
pub mod outbox;
pub mod project;
mod record;
mod reply;
mod state_hash;
#[cfg(test)]
mod testing;
mod tx;
mod view;

pub use entry::{Command, Entry, Outcome};
pub use fault::Fault;
pub use log::{LogItem, LogPos, Payload};
pub use machine::{Applied, Machine};
pub use record::{decode_entry, decode_outcome, encode_entry, encode_outcome};
pub use reply::{Rejected, Reply};
pub use view::View;
