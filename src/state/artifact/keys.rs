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

/// The references of a manifest beyond those in its record.
pub(crate) fn parts(repo: RepoRef, digest: &Digest) -> Key {
    table(repo, b'p').digest(digest)
}

pub(crate) fn part(repo: RepoRef, digest: &Digest, part: u32) -> Key {
    parts(repo, digest).number(part.into())
}

/// Manifests with parts that are not stored yet, oldest first.
pub(crate) fn all_staged() -> Key {
    Key::new(b"e")
}

pub(crate) fn staged_since(tick: u64, repo: RepoRef, digest: &Digest) -> Key {
    all_staged().number(tick).number(repo.project.0).number(repo.repo.0).digest(digest)
}

pub(crate) fn staged(repo: RepoRef, digest: &Digest) -> Key {
    table(repo, b'e').digest(digest)
}
