//! Decides whether a principal may do something to a resource: the one place where a right is judged, and judged
//! again.
//!
//! There are no rules yet. A node is open, or, for tests of the edges, denies everything.

use clawhub_state::{Fault, View};
use clawhub_types::{AccessRevisions, Action, Resource};

use crate::principal::may_authenticate;
use crate::{Act, On, Permit, Principal};

/// How a node decides. Chosen once, when the node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorizer {
    /// Everyone may do everything. Only for loopback or a listener declared insecure.
    Open,
    /// Nobody may do anything: what the tests of every edge run against.
    DenyAll,
}

/// Why no permit was given.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Credentials are missing; others might be enough.
    #[error("authentication is required")]
    Unauthenticated,
    /// Known, and not allowed.
    #[error("{principal} may not {} here", verb(*.action))]
    Forbidden {
        /// Who asked.
        principal: Principal,
        /// What for.
        action: Action,
    },
    /// The state could not be read, so there is no decision.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Authorizer {
    /// Decides whether `principal` may do something to `on` as `view` stands.
    ///
    /// # Errors
    /// [`Denied`] with the reason.
    pub fn authorize<A: Act>(
        &self,
        principal: &Principal,
        on: &A::On,
        view: &View<'_>,
    ) -> Result<Permit<A>, Denied> {
        match self {
            Authorizer::Open => {
                let access = revisions(&on.resource(), view)?;
                Ok(Permit::new(principal.actor(), on.clone(), access))
            }
            Authorizer::DenyAll if may_authenticate(principal) => Err(Denied::Unauthenticated),
            Authorizer::DenyAll => Err(Denied::Forbidden { principal: principal.clone(), action: A::ACTION }),
        }
    }

    /// Decides once more what was decided before, as `view` stands now. Who asked, and by what means, stays.
    ///
    /// # Errors
    /// [`Denied`] with the reason.
    pub fn authorize_again<A: Act>(&self, permit: &Permit<A>, view: &View<'_>) -> Result<Permit<A>, Denied> {
        let again: Permit<A> = self.authorize(permit.principal(), permit.on(), view)?;
        Ok(Permit::new(permit.actor().clone(), permit.on().clone(), again.access()))
    }
}

/// The revisions that a decision about a resource depends on. A project that does not exist yet has none:
/// whatever creates it creates it at its first revision.
fn revisions(resource: &Resource, view: &View<'_>) -> Result<AccessRevisions, Fault> {
    let cluster = view.cluster().record()?.map_or(0, |record| record.access_rev);
    let project = match resource.project() {
        Some(name) => view.project().by_name(&name)?.map(|record| (record.id, record.access_rev)),
        None => None,
    };
    Ok(AccessRevisions { cluster, project, source: None, principal: None })
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Pull => "pull",
        Action::Push => "push",
        Action::Delete => "delete",
        Action::Catalog => "list repositories",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Catalog, Cluster, Delete, Pull, Push, Visit};
    use clawhub_kv::Kv;
    use clawhub_kv::memory::MemoryKv;
    use clawhub_state::cluster::{ClusterCmd, NodeSpec};
    use clawhub_state::project::{ProjectCmd, ProjectPolicy};
    use clawhub_state::{Command, Entry, LogItem, LogPos, Machine, Payload};
    use clawhub_types::{
        Actor, ClusterId, Durability, Location, NodeId, RepoName, RequestId, Roles, SessionId,
    };

    fn repository(name: &str) -> RepoName {
        name.parse().unwrap()
    }

    fn entry(index: u64, request: Option<RequestId>, cmd: Command) -> LogItem {
        let entry = Entry {
            tick: index,
            at: index,
            actor: Actor::operator(),
            access: AccessRevisions::default(),
            request,
            deadline: None,
            cmd,
        };
        LogItem { pos: LogPos { term: 1, node: 1, index }, payload: Payload::Entry(entry) }
    }

    /// A state with one project, `team`.
    fn state() -> Arc<dyn Kv> {
        let node = NodeSpec {
            name: "a".into(),
            location: Location { region: "r".into(), zone: "z".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
            spki: [1; 32],
        };
        let init = ClusterCmd::Init {
            cluster: ClusterId([7; 16]),
            ca_cert: vec![1],
            ca_key_sealed: vec![2],
            durability: Durability::Local,
            node,
        };
        let policy = ProjectPolicy { durability: None, regions: None, confined: false };
        let project = ProjectCmd::SetPolicy { name: "team".parse().unwrap(), policy };
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let mut machine = Machine::open(kv.clone()).unwrap();
        let session = ClusterCmd::SessionOpen { node: NodeId(1), boot: 1, nonce: 1 };
        let request = RequestId { session: SessionId(2), seq: 1 };
        let items = [
            entry(1, None, Command::Cluster(init)),
            entry(2, None, Command::Cluster(session)),
            entry(3, Some(request), Command::Project(project)),
        ];
        for outcome in machine.apply(&items).unwrap() {
            outcome.expect("an entry has an outcome").unwrap();
        }
        kv
    }

    fn permit<A: Act>(who: &Principal, on: &A::On, view: &View<'_>) -> Permit<A> {
        Authorizer::Open.authorize(who, on, view).unwrap()
    }

    #[test]
    fn open_permits_and_notes_the_revision_it_judged_at() {
        let kv = state();
        let view = View::new(&*kv);
        let project = view.project().by_name(&"team".parse().unwrap()).unwrap().unwrap();
        let app = repository("team/app");
        let noted = Some((project.id, project.access_rev));
        let pull = permit::<Pull>(&Principal::Anonymous, &app, &view);
        assert_eq!((pull.access().project, pull.on(), pull.actor()), (noted, &app, &Actor::anonymous()));
        let push = permit::<Push>(&Principal::Anonymous, &app, &view);
        assert_eq!((push.access().project, push.on(), push.actor()), (noted, &app, &Actor::anonymous()));
        let delete = permit::<Delete>(&Principal::Anonymous, &app, &view);
        assert_eq!(
            (delete.access().project, delete.on(), delete.actor()),
            (noted, &app, &Actor::anonymous())
        );
        let fresh = permit::<Push>(&Principal::System, &repository("new/app"), &view);
        assert_eq!((fresh.access(), fresh.actor()), (AccessRevisions::default(), &Actor::system()));
        let cluster = permit::<Catalog>(&Principal::Operator, &Cluster, &view);
        assert_eq!((cluster.access(), cluster.actor()), (AccessRevisions::default(), &Actor::operator()));
    }

    #[test]
    fn a_permit_covers_its_repository_and_no_other() {
        let kv = state();
        let push = permit::<Push>(&Principal::Anonymous, &repository("team/app"), &View::new(&*kv));
        assert!(push.covers(&Resource::Repository(repository("team/app"))));
        for other in [
            Resource::Repository(repository("team/other")),
            Resource::Repository(repository("team/app/deep")),
            Resource::Project("team".parse().unwrap()),
            Resource::Cluster,
        ] {
            assert!(!push.covers(&other), "{other:?}");
        }
    }

    fn denied<A: Act>(on: &A::On, view: &View<'_>) {
        let deny = |who| Authorizer::DenyAll.authorize::<A>(&who, on, view).unwrap_err();
        assert!(matches!(deny(Principal::Anonymous), Denied::Unauthenticated));
        for known in [Principal::System, Principal::Operator] {
            assert!(matches!(deny(known), Denied::Forbidden { action, .. } if action == A::ACTION));
        }
    }

    #[test]
    fn deny_all_asks_strangers_for_credentials_and_turns_the_known_away() {
        let kv = state();
        let view = View::new(&*kv);
        for repo in [repository("team/app"), repository("new/app")] {
            denied::<Pull>(&repo, &view);
            denied::<Push>(&repo, &view);
            denied::<Delete>(&repo, &view);
        }
        denied::<Visit>(&Cluster, &view);
        denied::<Catalog>(&Cluster, &view);
    }
}
