//! Projects, their policies and counters, and the names of repositories.

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
