//! The replicated state machine: what every node knows alike.
//!
//! Synchronous and pure. [`Machine::apply`] is a function of the state and the log entry, and consults
//! nothing else: no clock, randomness, float, hash-map order, configuration or IO but its own store.
//! It parses no user input either; the proposer extracts what it needs and the entry carries it.
//!
//! Each domain is a folder `cmd, apply, reply, event, records, keys, view` and writes its own keys, laid out in
//! `key.rs`; a later one may call an earlier one: outbox, cluster, project, blob, artifact. What crosses them is
//! `lifecycle.rs`, what belongs to none `meta.rs`. [`View`] reads. A crash loses what was not synced of the store;
//! the log replays it.

#![deny(clippy::float_arithmetic)]

mod access;
pub mod artifact;
pub mod blob;
pub mod cluster;
mod domain;
mod entry;
mod fault;
mod forward;
#[cfg(test)]
mod golden_test;
mod key;
mod lifecycle;
mod log;
mod machine;
mod meta;
pub mod outbox;
mod position;
pub mod project;
mod proposers;
mod read;
mod record;
mod reply;
mod state_hash;
mod stop;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub mod toy;
mod tx;
mod view;

pub use entry::{Command, Entry, decode_entry, decode_outcome, encode_entry, encode_outcome};
pub use fault::Fault;
pub use forward::{Forbidden, may_forward};
pub use lifecycle::LifecycleCmd;
pub use log::{LogItem, Payload};
pub use machine::{Applied, Machine};
pub use position::{LogMark, LogPos, Membership};
pub use reply::{Outcome, Rejected, Reply, RequestRejected};
pub use view::View;
