//! Manifests, tags and referrers.

mod apply;
mod cmd;
pub(crate) mod keys;
mod records;
mod view;

pub(crate) use apply::apply;
pub use cmd::{ArtifactCmd, Body, Condition, ManifestFacts, Ref, RefKind};
pub use records::{BodyRef, ManifestRecord, TagRecord};
pub use view::ArtifactView;
