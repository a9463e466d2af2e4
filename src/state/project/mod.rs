//! Projects with their policies and counters, and the repositories in them.
//!
//! Both come to be by their first use. A project's id begins the key of everything in it, and is never used again.

mod apply;
mod cmd;
mod event;
pub(crate) mod keys;
pub(crate) mod records;
mod reply;
mod view;

pub(crate) use apply::{Delta, count, ensure_repo};
pub use cmd::{ProjectCmd, ProjectPolicy};
pub use event::ProjectEvent;
pub use records::{ProjectRecord, RepoRecord, RepoRef};
pub use reply::{ProjectRejected, ProjectReply};
pub use view::ProjectView;
