//! `Debug` of the messages that carry secrets: the secret is left out, so that no log line can hold it.

use std::fmt;

use crate::{admin, peer};

impl fmt::Debug for peer::JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("name", &self.name)
            .field("location", &self.location)
            .field("roles", &self.roles)
            .field("peer_addr", &self.peer_addr)
            .field("http_addr", &self.http_addr)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for peer::JoinReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinReply")
            .field("node", &self.node)
            .field("epoch", &self.epoch)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for admin::JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for admin::TokenCreateReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreateReply").field("ttl_seconds", &self.ttl_seconds).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let request =
            peer::JoinRequest { token: vec![0xAB; 32].into(), name: "n1".into(), ..Default::default() };
        let reply = peer::JoinReply { cluster_key: vec![0xAB; 32].into(), node: 7, ..Default::default() };
        let admin = admin::JoinRequest { token: "0xAB".into(), addresses: vec!["h:1".into()] };
        let made = admin::TokenCreateReply { token: "0xAB".into(), ttl_seconds: 9 };
        for shown in [format!("{request:?}"), format!("{reply:?}"), format!("{admin:?}"), format!("{made:?}")]
        {
            for secret in ["171", "AB", "\\xab"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }
}
