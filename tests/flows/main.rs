//! What clients and operators do with nodes that are real processes, one file for each flow.
//!
//! One executable: its tests wait most of the time, and so they run beside each other. What measures times is an
//! executable of its own, since cargo runs one after the other.
#![expect(clippy::print_stdout, reason = "what a test measured belongs in its output")]

mod config;
mod cut_off;
mod drain;
mod hostile;
mod join;
mod layouts;
mod memory;
mod protocol;
mod stale;
mod strangers;
mod torn;
mod votes;
