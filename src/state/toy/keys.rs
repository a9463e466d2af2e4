//! Keys of the domain of bells.

use crate::key::Key;
use crate::project::{RepoRef, keys::table};

pub(crate) fn bell(repo: RepoRef) -> Key {
    table(repo, b'z')
}
