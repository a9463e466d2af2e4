//! The cluster itself: who is a member, under which certificate authority and how that is replaced, which join tokens are good, and the
//! sessions by which a request is applied once.

mod apply;
mod cmd;
mod event;
pub(crate) mod keys;
mod members;
pub(crate) mod records;
mod reply;
mod rotation;
pub(crate) mod session;
mod view;

pub(crate) use apply::{check_phase, check_votes, next_project, raise_epoch, remove};
pub use cmd::{Acknowledgement, ClusterCmd, Envelope, NodeSpec, RotationCmd};
pub use event::ClusterEvent;
pub use records::{ClusterRecord, KeysRecord, NodeRecord, Rotation, SessionRecord};
pub use reply::{ClusterRejected, ClusterReply};
pub use rotation::{GRACE, WAIT};
pub use view::{ClusterView, TokenStanding};
