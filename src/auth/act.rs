//! What a permit can be for: one type for each action, with the kind of thing it is done to.
//!
//! The types carry no data. They make a right to read and a right to write two types, so that one cannot be
//! handed over where the other is asked for.

use std::fmt::Debug;

use clawhub_types::{Action, RepoName, Resource};

mod sealed {
    pub trait Sealed {}
}

/// An action that somebody can be permitted. Implemented here and nowhere else.
pub trait Act: sealed::Sealed + Clone + Copy + Debug + PartialEq + Eq + Send + Sync + 'static {
    /// The action that is decided about.
    const ACTION: Action;
    /// What it is done to.
    type On: On;
}

/// What an action is done to.
pub trait On: sealed::Sealed + Clone + Debug + PartialEq + Eq + Send + Sync + 'static {
    /// The same as a value.
    fn resource(&self) -> Resource;
}

/// The whole cluster, as what an action is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster;

impl sealed::Sealed for Cluster {}

impl On for Cluster {
    fn resource(&self) -> Resource {
        Resource::Cluster
    }
}

impl sealed::Sealed for RepoName {}

impl On for RepoName {
    fn resource(&self) -> Resource {
        Resource::Repository(self.clone())
    }
}

macro_rules! act {
    ($(#[$doc:meta])* $name:ident, $action:ident, $on:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl sealed::Sealed for $name {}

        impl Act for $name {
            const ACTION: Action = Action::$action;
            type On = $on;
        }
    };
}

act!(
    /// To ask whether this is a registry that one may pull from at all.
    Visit,
    Pull,
    Cluster
);
act!(
    /// To read a repository: manifests, blobs, tags, referrers. Reading may extend a blob's lease.
    Pull,
    Pull,
    RepoName
);
act!(
    /// To write to a repository: uploads, mounts into it, manifests and tags.
    Push,
    Push,
    RepoName
);
act!(
    /// To delete manifests, tags and links to blobs of a repository.
    Delete,
    Delete,
    RepoName
);
act!(
    /// To list the cluster's repositories.
    Catalog,
    Catalog,
    Cluster
);
