//! Who acts. Until access control is configured, every client is the anonymous principal, but each log entry
//! and each event already says so in these types.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CredentialId, NodeId, PrincipalId};

/// Who acts. The kind of a registered principal stands beside its id, so that a log line or an audit row says it
/// without a look at the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Principal {
    /// A client that showed no credentials.
    #[default]
    Anonymous,
    /// The cluster itself: reconcilers, membership, sessions.
    System,
    /// A local operator, over the admin socket.
    Operator,
    /// A registered person.
    User(PrincipalId),
    /// A registered machine: a robot, a pipeline.
    Service(PrincipalId),
    /// A member, for what it says of itself.
    Node(NodeId),
}

impl Principal {
    /// The principal with nothing else known of its request.
    pub fn actor(&self) -> Actor {
        Actor { principal: self.clone(), credential: None, on_behalf_of: None, origin: Origin::default() }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Anonymous => f.write_str("anonymous"),
            Principal::System => f.write_str("system"),
            Principal::Operator => f.write_str("operator"),
            Principal::User(id) => write!(f, "user {id}"),
            Principal::Service(id) => write!(f, "service {id}"),
            Principal::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// Where a request came from, for the audit trail. It takes no part in any decision of apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The client's address as the edge saw it.
    pub address: Option<IpAddr>,
    /// The request's name in the log of the node that took it.
    pub request: Option<HttpRequestId>,
}

/// The name of an HTTP request in its node's log: 1 to 64 visible ASCII characters, so that it can be one that a
/// client or a proxy chose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpRequestId(String);

/// Longest [`HttpRequestId`], bytes.
const MAX_REQUEST_ID: usize = 64;

impl HttpRequestId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An [`HttpRequestId`] that is empty, too long or not visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 1 to 64 visible ASCII characters")]
pub struct HttpRequestIdError;

impl FromStr for HttpRequestId {
    type Err = HttpRequestIdError;

    fn from_str(s: &str) -> Result<Self, HttpRequestIdError> {
        let fits = (1..=MAX_REQUEST_ID).contains(&s.len());
        if fits && s.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(HttpRequestId(s.to_owned()))
        } else {
            Err(HttpRequestIdError)
        }
    }
}

/// Who caused a log entry, and by what means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Whose rights counted.
    pub principal: Principal,
    /// The password, key, token or session it showed.
    pub credential: Option<CredentialId>,
    /// For whom it acted, where that is somebody else.
    pub on_behalf_of: Option<PrincipalId>,
    /// Where the request came from.
    pub origin: Origin,
}

impl Actor {
    /// A client that showed no credentials.
    pub fn anonymous() -> Actor {
        Principal::Anonymous.actor()
    }

    /// The cluster itself.
    pub fn system() -> Actor {
        Principal::System.actor()
    }

    /// A local operator.
    pub fn operator() -> Actor {
        Principal::Operator.actor()
    }
}

/// For logs. Nothing reads it back.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.principal.fmt(f)?;
        if let Some(credential) = self.credential {
            write!(f, " with credential {credential}")?;
        }
        if let Some(other) = self.on_behalf_of {
            write!(f, " for principal {other}")?;
        }
        if let Some(address) = self.origin.address {
            write!(f, " from {address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_bounded() {
        let longest = "x".repeat(64);
        for good in ["a", "4bf92f3577b34da6-1", longest.as_str()] {
            assert_eq!(good.parse::<HttpRequestId>().unwrap().as_str(), good);
        }
        let too_long = "x".repeat(65);
        for bad in ["", "a b", "a\n", "é", too_long.as_str()] {
            assert_eq!(bad.parse::<HttpRequestId>(), Err(HttpRequestIdError), "{bad:?}");
        }
    }

    #[test]
    fn actors_say_who_and_by_what_means() {
        assert_eq!(Actor::anonymous().to_string(), "anonymous");
        assert_eq!(Actor::system().to_string(), "system");
        assert_eq!(Actor::operator().to_string(), "operator");
        let actor = Actor {
            principal: Principal::Service(PrincipalId(7)),
            credential: Some(CredentialId(12)),
            on_behalf_of: Some(PrincipalId(3)),
            origin: Origin { address: Some([10, 0, 0, 1].into()), request: None },
        };
        assert_eq!(actor.to_string(), "service 7 with credential 12 for principal 3 from 10.0.0.1");
        assert_eq!(Principal::default().actor(), Actor::anonymous());
    }
}
