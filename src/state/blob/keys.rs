//! Keys of the blob domain.

use clawhub_types::{Digest, NodeId, ProjectId, Root};

use crate::key::Key;
use crate::project::{RepoRef, keys::table};

pub(crate) fn roots() -> Key {
    Key::new(b"r")
}

pub(crate) fn root(root: &Root) -> Key {
    roots().root(root)
}

pub(crate) fn digest(digest: &Digest) -> Key {
    Key::new(b"g").digest(digest)
}

pub(crate) fn link_counts(root: &Root) -> Key {
    Key::new(b"k").root(root)
}

pub(crate) fn link_count(root: &Root, project: ProjectId) -> Key {
    link_counts(root).number(project.0)
}

pub(crate) fn held_by(node: NodeId) -> Key {
    Key::new(b"h").number(node.0)
}

pub(crate) fn holder(node: NodeId, root: &Root) -> Key {
    held_by(node).root(root)
}

/// Linked roots that lack copies, fewest copies first, then the oldest.
pub(crate) fn all_under_target() -> Key {
    Key::new(b"w")
}

pub(crate) fn under_target(copies: u8, since: u64, root: &Root) -> Key {
    all_under_target().byte(copies).number(since).root(root)
}

/// Roots that nobody links, oldest first.
pub(crate) fn all_unlinked() -> Key {
    Key::new(b"x")
}

pub(crate) fn unlinked(since: u64, root: &Root) -> Key {
    all_unlinked().number(since).root(root)
}

pub(crate) fn link(repo: RepoRef, root: &Root) -> Key {
    table(repo, b'l').root(root)
}

/// The manifests that hold a link.
pub(crate) fn uses(repo: RepoRef, root: &Root) -> Key {
    table(repo, b'u').root(root)
}

pub(crate) fn use_by(repo: RepoRef, root: &Root, manifest: &Digest) -> Key {
    uses(repo, root).digest(manifest)
}
