//! Manifests, the tags that name them, and who refers to whom.
//!
//! A manifest is stored only if everything it references is linked in its repository, and it holds those links until
//! it goes. Its bytes are a row of the state up to 64 KiB, and a blob beyond that. What follows from a manifest (its
//! tags with their history, the referrers of its subject) is moved by the same entry.

mod apply;
mod cmd;
mod event;
mod history;
pub(crate) mod keys;
pub(crate) mod records;
mod reply;
mod stage;
mod view;

pub use cmd::{ArtifactCmd, Body, Condition, ManifestFacts, Ref, RefKind};
pub use event::ArtifactEvent;
pub use history::KEPT;
pub use records::{BodyRef, ManifestRecord, TagChange, TagRecord};
pub use reply::{ArtifactRejected, ArtifactReply};
pub use stage::PART;
pub use view::ArtifactView;
