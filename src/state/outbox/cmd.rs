//! Commands about the outbox.

use clawhub_types::{Action, Resource, Touched};
use serde::{Deserialize, Serialize};

use crate::proposers::{Members, Proposers};

/// A command of those who read events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxCmd {
    /// Moves a reader of the outbox, registering it if it is new. Rows that every reader has passed are
    /// deleted, some at each command.
    Cursor {
        /// The reader.
        reader: String,
        /// It is done up to this log index, or at most up to this command's; `None` forgets the reader.
        done: Option<u64>,
    },
}

impl OutboxCmd {
    pub(crate) fn resource(&self) -> Touched {
        Resource::Cluster.into()
    }

    /// None: the readers of the outbox are the cluster's own.
    pub(crate) fn action(&self) -> Option<Action> {
        None
    }

    /// Who proposes it.
    pub(crate) fn proposers(&self) -> Proposers {
        let OutboxCmd::Cursor { .. } = self;
        Proposers::members(Members::Any)
    }

    /// Whether it may not be applied twice.
    pub(crate) fn needs_identity(&self) -> bool {
        true
    }
}
