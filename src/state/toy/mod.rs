//! A domain that only the tests have: bells that may be rung three times.
//!
//! It proves what a new domain costs: this folder, and one line each in `Command`, `Reply`, `Rejected` and
//! `Event`. Nothing else of the crate knows it.

mod apply;
mod cmd;
mod event;
mod keys;
mod records;
mod reply;
mod view;

pub use cmd::ToyCmd;
pub use event::ToyEvent;
pub use records::BellRecord;
pub use reply::{ToyRejected, ToyReply};
pub use view::ToyView;
