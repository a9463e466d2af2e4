//! Membership, identity, join tokens, proposer sessions, the cluster clock.

mod apply;
mod cmd;
pub(crate) mod keys;
pub(crate) mod records;
pub(crate) mod session;
mod view;

pub(crate) use apply::{advance_tick, apply, check_phase, next_project, raise_epoch};
pub use cmd::{ClusterCmd, NodeSpec};
pub use records::{ClusterRecord, NodeRecord, SessionRecord};
pub use view::ClusterView;
