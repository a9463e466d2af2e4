//! Manifests, tags and referrers.

mod apply;
mod cmd;
mod event;
mod history;
pub(crate) mod keys;
mod records;
mod reply;
mod view;

pub use cmd::{ArtifactCmd, Body, Condition, ManifestFacts, Ref, RefKind};
pub use event::ArtifactEvent;
pub use history::KEPT;
pub use records::{BodyRef, ManifestRecord, TagChange, TagRecord};
pub use reply::{ArtifactRejected, ArtifactReply};
pub use view::ArtifactView;
