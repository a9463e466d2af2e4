//! Projects, their policies and counters, and the names of repositories.

mod apply;
mod cmd;
pub(crate) mod keys;
pub(crate) mod records;
mod view;

pub(crate) use apply::{Delta, apply, check_access, count, ensure_repo};
pub use cmd::{ProjectCmd, ProjectPolicy};
pub use records::{ProjectRecord, RepoRecord, RepoRef};
pub use view::ProjectView;
