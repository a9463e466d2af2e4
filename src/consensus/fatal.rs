//! Why consensus stopped by itself, with what its owner decides by.
//!
//! openraft hands a storage's error on as a value of its config's `ErrorSource`. [`Cause`] is that value: it
//! keeps, beside the text, whether a database was found to be damaged.

use std::error::Error;
use std::fmt;
use std::io;

use clawhub_kv::KvError;
use openraft::AsyncRuntime;
use openraft::errors::{ErrorSource, Fatal};
use serde::{Deserialize, Serialize};

use crate::types::Types;

/// Why a node takes part no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub reason: String,
    /// A database of the node is damaged: neither another start nor another device helps.
    pub corrupt: bool,
}

impl Failure {
    /// What openraft's last word means; `None` if the node was told to stop.
    pub(crate) fn of<R: AsyncRuntime>(fatal: &Fatal<Types<R>>) -> Option<Failure> {
        let cause = match fatal {
            Fatal::Stopped => return None,
            Fatal::Panicked => None,
            Fatal::StorageError(error) => error.source().and_then(|source| source.downcast_ref::<Cause>()),
        };
        let corrupt = cause.is_some_and(|cause| cause.corrupt);
        Some(Failure { reason: fatal.to_string(), corrupt })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// An error of the log or of the state machine, as openraft keeps it. (The serde form serves openraft's
/// bounds; it is never written or sent.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    text: String,
    corrupt: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {}

impl ErrorSource for Cause {
    fn from_error<E: Error + 'static>(error: &E) -> Self {
        let error: &(dyn Error + 'static) = error;
        let store = error.downcast_ref::<io::Error>().and_then(KvError::within);
        Cause { text: error.to_string(), corrupt: store.is_some_and(KvError::is_corrupt) }
    }

    fn from_string(msg: impl ToString) -> Self {
        Cause { text: msg.to_string(), corrupt: false }
    }
}
