//! Roots, their names and holders, and the links of repositories to them.

mod apply;
mod bind;
mod cmd;
pub(crate) mod keys;
mod link;
pub(crate) mod records;
mod view;

pub(crate) use apply::{apply, forget_holder, known};
pub(crate) use bind::bind;
pub use cmd::{BlobCmd, StoredBytes};
pub use link::LEASE;
pub(crate) use link::{hold, link, release};
pub use records::{LinkRecord, RootRecord};
pub use view::BlobView;
