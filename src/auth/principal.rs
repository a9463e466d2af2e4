//! Who is asking.

use std::fmt;

use clawhub_types::Actor;

/// Whom a request was made by, established once at the edge it came in through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// A client that showed no credentials.
    #[default]
    Anonymous,
    /// The cluster's own background work.
    System,
    /// A local operator, over the admin socket.
    Operator,
}

impl Principal {
    /// The name that log entries carry.
    pub fn actor(&self) -> Actor {
        match self {
            Principal::Anonymous => Actor::Anonymous,
            Principal::System => Actor::System,
            Principal::Operator => Actor::Operator,
        }
    }

    /// Whether showing other credentials could change the decision.
    pub(crate) fn may_authenticate(&self) -> bool {
        matches!(self, Principal::Anonymous)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.actor().fmt(f)
    }
}
