//! Why consensus stopped by itself, with what its owner decides by.
//!
//! openraft hands a storage's error on as a value of its config's `ErrorSource`. [`Cause`] is that value: it
//! keeps, beside the text, whether a database was found to be damaged, and whether a device was to blame.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

use clawhub_kv::{KvError, KvErrorKind};
use openraft::RaftTypeConfig;
use openraft::errors::{ErrorSource, Fatal};
use serde::{Deserialize, Serialize};

/// Why a node takes part no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub reason: String,
    /// A database of the node is damaged: neither another start nor another device helps.
    pub corrupt: bool,
    /// A device was full, or failed. It may do better later, and a store need not have noticed.
    pub device: bool,
}

impl Failure {
    /// What openraft's last word means; `None` if the node was told to stop.
    pub(crate) fn of<C: RaftTypeConfig<ErrorSource = Cause>>(fatal: &Fatal<C>) -> Option<Failure> {
        let cause = match fatal {
            Fatal::Stopped => return None,
            Fatal::Panicked => None,
            Fatal::StorageError(error) => error.source().and_then(|source| source.downcast_ref::<Cause>()),
        };
        let is = |what: fn(&Cause) -> bool| cause.is_some_and(what);
        let corrupt = is(|cause| cause.corrupt);
        let device = is(|cause| cause.device);
        Some(Failure { reason: fatal.to_string(), corrupt, device })
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
    device: bool,
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
        let error_of_io = error.downcast_ref::<io::Error>();
        let store = error_of_io.and_then(KvError::within);
        let full = |e: &io::Error| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let device = error_of_io.is_some_and(full) || store.is_some_and(|e| e.kind == KvErrorKind::Io);
        Cause { text: error.to_string(), corrupt: store.is_some_and(KvError::is_corrupt), device }
    }

    fn from_string(msg: impl ToString) -> Self {
        Cause { text: msg.to_string(), corrupt: false, device: false }
    }
}
