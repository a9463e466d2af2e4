//! Queries about bells.

use super::keys;
use super::records::BellRecord;
use crate::fault::Fault;
use crate::project::RepoRef;
use crate::read::Reader;

/// What the state says of bells.
#[derive(Clone, Copy)]
pub struct ToyView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for ToyView<'a> {
    fn from(read: Reader<'a>) -> Self {
        ToyView(read)
    }
}

impl ToyView<'_> {
    /// The bell of a repository.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn bell(&self, repo: &RepoRef) -> Result<BellRecord, Fault> {
        Ok(self.0.get(&keys::bell(*repo))?.unwrap_or_default())
    }
}
