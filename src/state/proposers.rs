//! Who proposes a command: what each domain says of its own. What becomes of it is in `forward.rs`. Owns nothing.

use clawhub_types::{NodeId, SessionId};

/// Who proposes a command, besides the clients that it says an action for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposers {
    /// Whether operators do, at any member.
    pub(crate) operators: bool,
    /// Which members do in the cluster's name.
    pub(crate) members: Members,
}

/// Which members propose a command in the cluster's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    /// None, or only one that leads and so forwards nothing.
    Nobody,
    /// All of them.
    Any,
    /// The one that it is about.
    Only(NodeId),
    /// The one whose session it is about.
    OwnerOf(SessionId),
}

impl Proposers {
    /// Nobody but clients, if the command says an action for them.
    pub(crate) const CLIENTS: Proposers = Proposers { operators: false, members: Members::Nobody };
    /// Operators, through any member.
    pub(crate) const OPERATORS: Proposers = Proposers { operators: true, members: Members::Nobody };

    /// These members.
    pub(crate) const fn members(members: Members) -> Proposers {
        Proposers { operators: false, members }
    }

    /// These members, and operators.
    pub(crate) const fn operators_and(members: Members) -> Proposers {
        Proposers { operators: true, members }
    }
}
