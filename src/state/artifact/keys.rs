//! Keys of the artifact domain.

use clawhub_types::Digest;

use crate::key::Key;
use crate::project::{RepoRef, keys::table};

pub(crate) fn manifest(repo: RepoRef, digest: &Digest) -> Key {
    table(repo, b'm').digest(digest)
}

pub(crate) fn inline(repo: RepoRef, digest: &Digest) -> Key {
    table(repo, b'i').digest(digest)
}

pub(crate) fn tags(repo: RepoRef) -> Key {
    table(repo, b't')
}

pub(crate) fn tag(repo: RepoRef, tag: &str) -> Key {
    tags(repo).bytes(tag.as_bytes())
}

/// The tags that name a manifest.
pub(crate) fn tags_on(repo: RepoRef, digest: &Digest) -> Key {
    table(repo, b'v').digest(digest)
}

pub(crate) fn tag_on(repo: RepoRef, digest: &Digest, tag: &str) -> Key {
    tags_on(repo, digest).bytes(tag.as_bytes())
}

/// The manifests that name a subject.
pub(crate) fn referrers(repo: RepoRef, subject: &Digest) -> Key {
    table(repo, b's').digest(subject)
}

pub(crate) fn referrer(repo: RepoRef, subject: &Digest, digest: &Digest) -> Key {
    referrers(repo, subject).digest(digest)
}

/// The changes of a tag. No tag contains the zero byte, so that none is the beginning of another's rows.
pub(crate) fn changes(repo: RepoRef, tag: &str) -> Key {
    table(repo, b'y').bytes(tag.as_bytes()).byte(0)
}

pub(crate) fn change(repo: RepoRef, tag: &str, n: u64) -> Key {
    changes(repo, tag).number(n)
}
