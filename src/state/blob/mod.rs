//! Roots, the digests that name them, the members that hold them, and the links of repositories to them.
//!
//! A root comes to be by receipts (`bind`), is linked by repositories under a lease (`link`), and wins and loses
//! holders (`apply`). `roots` writes its record, and with it the rows that say which roots lack copies and which
//! nobody links.

mod apply;
mod bind;
mod cmd;
mod event;
pub(crate) mod keys;
mod link;
pub(crate) mod records;
mod reply;
mod roots;
mod view;

pub(crate) use apply::forget_holder;
pub(crate) use bind::bind;
pub use cmd::{BlobCmd, REVIEW, StoredBytes};
pub use event::BlobEvent;
pub use link::LEASE;
pub(crate) use link::{hold, link, release};
pub use records::{LinkRecord, RootRecord};
pub use reply::{BlobRejected, BlobReply};
pub(crate) use roots::known;
pub use view::{BlobView, UnderTarget};
