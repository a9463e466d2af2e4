//! Keys of the project domain, and the prefix of everything in a repository.

use clawhub_types::ProjectId;

use super::RepoRef;
use crate::key::Key;

pub(crate) fn project(id: ProjectId) -> Key {
    Key::new(b"pi").number(id.0)
}

pub(crate) fn project_id(name: &str) -> Key {
    Key::new(b"pn").bytes(name.as_bytes())
}

pub(crate) fn names() -> Key {
    Key::new(b"n")
}

pub(crate) fn name(name: &str) -> Key {
    names().bytes(name.as_bytes())
}

/// The repository names of a project.
pub(crate) fn names_in(project: ProjectId) -> Key {
    Key::new(b"pr").number(project.0)
}

pub(crate) fn name_in(project: ProjectId, name: &str) -> Key {
    names_in(project).bytes(name.as_bytes())
}

/// A table of a repository.
pub(crate) fn table(repo: RepoRef, kind: u8) -> Key {
    Key::new(b"d").number(repo.project.0).number(repo.repo.0).byte(kind)
}

pub(crate) fn repo(at: RepoRef) -> Key {
    table(at, b'r')
}
