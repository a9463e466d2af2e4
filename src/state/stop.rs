//! How a command ends that is not carried out.

use clawhub_kv::KvError;

use crate::fault::Fault;
use crate::reply::Rejected;

/// Why a command stopped: with a replicated answer, or with none.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The same on every node; the command's writes are discarded.
    Rejected(Rejected),
    Fault(Fault),
}

impl<R: Into<Rejected>> From<R> for Stop {
    fn from(rejected: R) -> Self {
        Stop::Rejected(rejected.into())
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Stop::Fault(Fault::Kv(error))
    }
}
