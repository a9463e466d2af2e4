//! Numeric and random identifiers. Node, project and repository ids come from the log and are never
//! reused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numeric_id!(
    /// A cluster member. Handed out by the log at join; a wiped node rejoins under a new one.
    NodeId
);
numeric_id!(
    /// A project; the prefix of the keys of all its data.
    ProjectId
);
numeric_id!(
    /// A repository within its project.
    RepoId
);
numeric_id!(
    /// A registered principal: a person or a service.
    PrincipalId
);
numeric_id!(
    /// A credential of a principal: a password, key, token or session.
    CredentialId
);
numeric_id!(
    /// A proposer session: the log index of the entry that opened it.
    SessionId
);

/// The identity of one request: applied at most once however often it is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The proposer session.
    pub session: SessionId,
    /// Counts up by one per request within the session.
    pub seq: u64,
}

/// Names a cluster for ever; part of every peer handshake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = UploadIdError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut out = [0; 16];
        hex::decode_to_slice(s, &mut out).map_err(|_| UploadIdError)?;
        Ok(ClusterId(out))
    }
}

/// An upload session: the node that opened it and 128 random bits, so that any node can route any
/// step to the owner without looking anything up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadId {
    /// The node that owns the session.
    pub node: NodeId,
    /// Unguessable part.
    pub random: [u8; 16],
}

/// Not an identifier of the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed identifier")]
pub struct UploadIdError;

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.node.0, hex::encode(self.random))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = UploadIdError;

    /// `<node in hex>-<32 hex digits>`, in canonical form only.
    fn from_str(s: &str) -> Result<Self, UploadIdError> {
        let (node, random) = s.split_once('-').ok_or(UploadIdError)?;
        let node = u64::from_str_radix(node, 16).map_err(|_| UploadIdError)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(random, &mut bytes).map_err(|_| UploadIdError)?;
        let id = UploadId { node: NodeId(node), random: bytes };
        // One session, one spelling: file names and cache keys are derived from it.
        if id.to_string() == s { Ok(id) } else { Err(UploadIdError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_ids_round_trip_and_have_one_spelling() {
        let id = UploadId { node: NodeId(31), random: [7; 16] };
        assert_eq!(id.to_string().parse::<UploadId>(), Ok(id));
        for bad in
            ["", "1", "-", "1-", "+1-07070707070707070707070707070707", "01-07070707070707070707070707070707"]
        {
            assert_eq!(bad.parse::<UploadId>(), Err(UploadIdError), "{bad}");
        }
        assert!(id.to_string().to_uppercase().parse::<UploadId>().is_err());
    }
}
