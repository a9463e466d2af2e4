//! Who acts, and the rights it was judged under.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use clawhub_types::{
    AccessRevisions, Actor, CredentialId, NodeId, Origin, Principal, PrincipalId, ProjectId,
};

use crate::{Invalid, array, blob, required};

impl From<&Principal> for blob::actor::Principal {
    fn from(principal: &Principal) -> Self {
        match principal {
            Principal::Anonymous => blob::actor::Principal::Anonymous(blob::Anonymous {}),
            Principal::System => blob::actor::Principal::System(blob::System {}),
            Principal::Operator => blob::actor::Principal::Operator(blob::Operator {}),
            Principal::User(id) => blob::actor::Principal::User(id.0),
            Principal::Service(id) => blob::actor::Principal::Service(id.0),
            Principal::Node(id) => blob::actor::Principal::Node(id.0),
        }
    }
}

impl From<blob::actor::Principal> for Principal {
    fn from(principal: blob::actor::Principal) -> Self {
        match principal {
            blob::actor::Principal::Anonymous(_) => Principal::Anonymous,
            blob::actor::Principal::System(_) => Principal::System,
            blob::actor::Principal::Operator(_) => Principal::Operator,
            blob::actor::Principal::User(id) => Principal::User(PrincipalId(id)),
            blob::actor::Principal::Service(id) => Principal::Service(PrincipalId(id)),
            blob::actor::Principal::Node(id) => Principal::Node(NodeId(id)),
        }
    }
}

impl From<&Actor> for blob::Actor {
    fn from(actor: &Actor) -> Self {
        let address = match actor.origin.address {
            Some(IpAddr::V4(address)) => Bytes::copy_from_slice(&address.octets()),
            Some(IpAddr::V6(address)) => Bytes::copy_from_slice(&address.octets()),
            None => Bytes::new(),
        };
        blob::Actor {
            principal: Some((&actor.principal).into()),
            credential: actor.credential.map(|id| id.0),
            on_behalf_of: actor.on_behalf_of.map(|id| id.0),
            address,
            request: actor.origin.request.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        }
    }
}

impl TryFrom<blob::Actor> for Actor {
    type Error = Invalid;

    fn try_from(actor: blob::Actor) -> Result<Self, Invalid> {
        let address = match actor.address.len() {
            0 => None,
            4 => Some(Ipv4Addr::from(array::<4>("address", &actor.address)?).into()),
            _ => Some(Ipv6Addr::from(array::<16>("address", &actor.address)?).into()),
        };
        let request = match actor.request.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|_| Invalid::new("request", "is not a request id"))?),
        };
        Ok(Actor {
            principal: required("principal", actor.principal)?.into(),
            credential: actor.credential.map(CredentialId),
            on_behalf_of: actor.on_behalf_of.map(PrincipalId),
            origin: Origin { address, request },
        })
    }
}

impl blob::Access {
    /// Both halves of a permit as they travel.
    pub fn new(actor: &Actor, access: &AccessRevisions) -> Self {
        let revision = |id, revision| blob::Revision { id, revision };
        blob::Access {
            actor: Some(actor.into()),
            cluster: access.cluster,
            project: access.project.map(|(id, rev)| revision(id.0, rev)),
            source: access.source.map(|(id, rev)| revision(id.0, rev)),
            principal: access.principal.map(|(id, rev)| revision(id.0, rev)),
        }
    }
}

impl TryFrom<blob::Access> for (Actor, AccessRevisions) {
    type Error = Invalid;

    fn try_from(access: blob::Access) -> Result<Self, Invalid> {
        let project = |of: blob::Revision| (ProjectId(of.id), of.revision);
        let revisions = AccessRevisions {
            cluster: access.cluster,
            project: access.project.map(project),
            source: access.source.map(project),
            principal: access.principal.map(|of| (PrincipalId(of.id), of.revision)),
        };
        Ok((required("actor", access.actor)?.try_into()?, revisions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> AccessRevisions {
        AccessRevisions {
            cluster: 1,
            project: Some((ProjectId(2), 3)),
            source: Some((ProjectId(4), 5)),
            principal: Some((PrincipalId(6), 7)),
        }
    }

    fn actor(principal: Principal) -> Actor {
        let origin = Origin { address: Some([192, 0, 2, 1].into()), request: Some("4f-1".parse().unwrap()) };
        Actor { principal, credential: Some(CredentialId(8)), on_behalf_of: Some(PrincipalId(9)), origin }
    }

    #[test]
    fn every_actor_and_revision_arrives_as_it_was_sent() {
        let id = PrincipalId(5);
        let kinds = [
            Principal::Anonymous,
            Principal::System,
            Principal::Operator,
            Principal::User(id),
            Principal::Service(id),
            Principal::Node(NodeId(2)),
        ];
        for kind in kinds {
            let v6 = Origin { address: Some("2001:db8::1".parse().unwrap()), request: None };
            for actor in [kind.actor(), actor(kind.clone()), Actor { origin: v6, ..kind.actor() }] {
                for access in [AccessRevisions::default(), access()] {
                    let sent = blob::Access::new(&actor, &access);
                    assert_eq!(sent.try_into(), Ok((actor.clone(), access)));
                }
            }
        }
    }

    #[test]
    fn an_actor_of_an_unknown_kind_is_refused() {
        let sent = |change: fn(&mut blob::Actor)| {
            let mut sent = blob::Access::new(&actor(Principal::Anonymous), &access());
            change(sent.actor.as_mut().unwrap());
            <(Actor, AccessRevisions)>::try_from(sent).map_err(|invalid| invalid.field)
        };
        assert!(sent(|_| ()).is_ok());
        assert_eq!(sent(|actor| actor.principal = None), Err("principal"), "of a later release, or none");
        assert_eq!(sent(|actor| actor.address = Bytes::from_static(&[1, 2, 3])), Err("address"));
        assert_eq!(sent(|actor| actor.request = "x".repeat(65)), Err("request"));
        let nobody = blob::Access { actor: None, ..blob::Access::default() };
        assert_eq!(<(Actor, AccessRevisions)>::try_from(nobody), Err(Invalid::new("actor", "is missing")));
    }
}
