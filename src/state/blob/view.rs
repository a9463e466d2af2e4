//! Queries about roots, holders and links.

use clawhub_policy::Policy;
use clawhub_types::{Digest, NodeId, ProjectId, Root};

use super::keys;
use super::records::{DigestRecord, LinkRecord, RootRecord};
use crate::fault::Fault;
use crate::project::{ProjectView, RepoRef};
use crate::read::{Reader, Row};

/// A linked root that lacks copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnderTarget {
    /// Members that hold it, whether or not they count; 255 stands for more.
    pub copies: u8,
    /// The tick since which it lacks copies.
    pub since: u64,
    /// The root.
    pub root: Root,
}

/// What the state says of roots, holders and links.
#[derive(Clone, Copy)]
pub struct BlobView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for BlobView<'a> {
    fn from(read: Reader<'a>) -> Self {
        BlobView(read)
    }
}

impl BlobView<'_> {
    /// A root's record.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read; so for every query.
    pub fn root(&self, root: &Root) -> Result<Option<RootRecord>, Fault> {
        self.0.get(&keys::root(root))
    }

    /// The root that a digest names.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn root_of(&self, digest: &Digest) -> Result<Option<Root>, Fault> {
        Ok(self.0.get::<DigestRecord>(&keys::digest(digest))?.map(|record| record.0))
    }

    /// A repository's link to a blob, by any of the blob's digests.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn link(&self, repo: &RepoRef, digest: &Digest) -> Result<Option<LinkRecord>, Fault> {
        match self.root_of(digest)? {
            Some(root) => self.link_to(repo, &root),
            None => Ok(None),
        }
    }

    /// A repository's link to a root.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn link_to(&self, repo: &RepoRef, root: &Root) -> Result<Option<LinkRecord>, Fault> {
        self.0.get(&keys::link(*repo, root))
    }

    /// One of the manifests of a repository that hold its link to a root.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn referenced_by(&self, repo: &RepoRef, root: &Root) -> Result<Option<Digest>, Fault> {
        let table = keys::uses(*repo, root);
        self.0.rows(&table, &table, 1)?.first().map(|row| row.parts()?.digest()).transpose()
    }

    /// At most `limit` roots in byte order after `after`, for reconcilers.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn roots(&self, after: Option<Root>, limit: usize) -> Result<Vec<(Root, RootRecord)>, Fault> {
        let table = keys::roots();
        let start = after.map_or_else(|| table.clone(), |root| keys::root(&root).after());
        let rows = self.0.rows(&table, &start, limit)?;
        rows.iter().map(|row| Ok((row.parts()?.root()?, row.record()?))).collect()
    }

    /// At most `limit` roots in byte order after `after` that the state says `node` holds.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn held_by(&self, node: NodeId, after: Option<Root>, limit: usize) -> Result<Vec<Root>, Fault> {
        let table = keys::held_by(node);
        let start = after.map_or_else(|| table.clone(), |root| keys::holder(node, &root).after());
        self.0.rows(&table, &start, limit)?.iter().map(|row| row.parts()?.root()).collect()
    }

    /// At most `limit` linked roots that have fewer copies than their projects ask for, after `after`: those with
    /// the fewest copies first, then those that have been so for longest. After a change of the layout or of a
    /// policy it is right as far as `BlobCmd::Review` has come.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn under_target(&self, after: Option<&UnderTarget>, limit: usize) -> Result<Vec<UnderTarget>, Fault> {
        let table = keys::all_under_target();
        let start = after
            .map_or_else(|| table.clone(), |at| keys::under_target(at.copies, at.since, &at.root).after());
        let rows = self.0.rows(&table, &start, limit)?;
        let read = |row: &Row| {
            let mut parts = row.parts()?;
            Ok(UnderTarget { copies: parts.byte()?, since: parts.number()?, root: parts.root()? })
        };
        rows.iter().map(read).collect()
    }

    /// At most `limit` roots that nobody links, after `after`, each with the tick since which: the oldest first.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn unlinked(&self, after: Option<(u64, Root)>, limit: usize) -> Result<Vec<(u64, Root)>, Fault> {
        let table = keys::all_unlinked();
        let start = after.map_or_else(|| table.clone(), |(since, root)| keys::unlinked(since, &root).after());
        let rows = self.0.rows(&table, &start, limit)?;
        let read = |row: &Row| {
            let mut parts = row.parts()?;
            Ok((parts.number()?, parts.root()?))
        };
        rows.iter().map(read).collect()
    }

    /// The policies of every project that links a root.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn policies(&self, root: &Root) -> Result<Vec<Policy>, Fault> {
        let mut policies = Vec::new();
        for row in self.0.all(&keys::link_counts(root))? {
            let id = ProjectId(row.parts()?.number()?);
            let policy = ProjectView::from(self.0).policy_by_id(id)?;
            // Most projects follow the default: one policy stands for all of them.
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        Ok(policies)
    }
}
