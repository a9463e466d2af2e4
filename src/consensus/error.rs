//! Why something was not done, as far as several parts of consensus say it.

use std::time::Duration;

use clawhub_kv::KvError;
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::Fatal;

use crate::fatal::Failure;
use crate::types::Types;

/// Nothing was done; trying again later may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// How long to stay away: about one election.
    pub retry_after: Duration,
    /// For people.
    pub reason: String,
}

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Its settings contradict each other.
    #[error("settings: {0}")]
    Settings(String),
    /// The log or the state cannot be read, or is damaged. Nothing was changed or repaired.
    #[error("storage: {0}")]
    Storage(#[from] std::io::Error),
    /// Consensus ended while it started.
    #[error("raft: {0}")]
    Failed(Failure),
    /// openraft refused to start.
    #[error("raft: {0}")]
    Raft(String),
}

impl ConsensusError {
    /// Whether the log or the state is damaged rather than out of reach.
    pub fn is_corrupt(&self) -> bool {
        match self {
            ConsensusError::Storage(error) => {
                error.kind() == std::io::ErrorKind::InvalidData
                    || KvError::within(error).is_some_and(KvError::is_corrupt)
            }
            ConsensusError::Failed(failure) => failure.corrupt,
            ConsensusError::Settings(_) | ConsensusError::Raft(_) => false,
        }
    }

    pub(crate) fn fatal<R: AsyncRuntime>(fatal: &Fatal<Types<R>>) -> ConsensusError {
        match Failure::of(fatal) {
            Some(failure) => ConsensusError::Failed(failure),
            None => ConsensusError::Raft(fatal.to_string()),
        }
    }
}

/// This node did not handle a message of another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// It has stopped, or is about to.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// The message cannot be accepted.
    #[error("{0}")]
    Refused(String),
}
