//! The decision.

use clawhub_state::{Fault, View};
use clawhub_types::{AccessRevisions, Action, Resource};

use crate::principal::may_authenticate;
use crate::{Permit, Principal};

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
    /// Decides whether `principal` may do `action` on `scope` as `view` stands.
    ///
    /// # Errors
    /// [`Denied`] with the reason.
    pub fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        scope: &Resource,
        view: &View<'_>,
    ) -> Result<Permit, Denied> {
        match self {
            Authorizer::Open => {
                let access = revisions(scope, view)?;
                Ok(Permit::new(principal.actor(), action, scope.clone(), access))
            }
            Authorizer::DenyAll if may_authenticate(principal) => Err(Denied::Unauthenticated),
            Authorizer::DenyAll => Err(Denied::Forbidden { principal: principal.clone(), action }),
        }
    }
}

/// The revisions that a decision about `scope` depends on. A project that does not exist yet has none:
/// whatever creates it creates it at its first revision.
fn revisions(scope: &Resource, view: &View<'_>) -> Result<AccessRevisions, Fault> {
    let cluster = view.cluster().record()?.map_or(0, |record| record.access_rev);
    let project = match scope.project() {
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
    use clawhub_kv::Kv;
    use clawhub_kv::memory::MemoryKv;
    use clawhub_state::cluster::{ClusterCmd, NodeSpec};
    use clawhub_state::project::{ProjectCmd, ProjectPolicy};
    use clawhub_state::{Command, Entry, LogItem, LogPos, Machine, Payload};
    use clawhub_types::{
        Actor, ClusterId, Durability, Location, NodeId, RepoName, RequestId, Roles, SessionId,
    };

    fn repository(name: &str) -> Resource {
        Resource::Repository(name.parse().unwrap())
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

    #[test]
    fn open_permits_and_notes_the_revision_it_judged_at() {
        let kv = state();
        let view = View::new(&*kv);
        let project = view.project().by_name(&"team".parse().unwrap()).unwrap().unwrap();
        for action in [Action::Pull, Action::Push, Action::Delete, Action::Catalog] {
            let scope = repository("team/app");
            let permit = Authorizer::Open.authorize(&Principal::Anonymous, action, &scope, &view).unwrap();
            assert_eq!(permit.access().project, Some((project.id, project.access_rev)));
            assert_eq!((permit.action(), permit.scope()), (action, &scope));
            assert_eq!(permit.actor(), &Actor::anonymous());
        }
        let fresh = repository("new/app");
        let permit = Authorizer::Open.authorize(&Principal::System, Action::Push, &fresh, &view).unwrap();
        assert_eq!(permit.access(), AccessRevisions::default());
        assert_eq!(permit.actor(), &Actor::system());
        let cluster = Authorizer::Open
            .authorize(&Principal::Operator, Action::Catalog, &Resource::Cluster, &view)
            .unwrap();
        assert_eq!((cluster.repo(), cluster.actor()), (None, &Actor::operator()));
    }

    #[test]
    fn a_permit_is_for_one_action_on_one_repository() {
        let kv = state();
        let permit = Authorizer::Open
            .authorize(&Principal::Anonymous, Action::Push, &repository("team/app"), &View::new(&*kv))
            .unwrap();
        let (app, other): (RepoName, RepoName) = ("team/app".parse().unwrap(), "team/other".parse().unwrap());
        assert_eq!(permit.repo(), Some(&app));
        assert!(permit.allows(Action::Push, &app));
        assert!(!permit.allows(Action::Pull, &app));
        assert!(!permit.allows(Action::Push, &other));
    }

    #[test]
    fn deny_all_asks_strangers_for_credentials_and_turns_the_known_away() {
        let kv = state();
        let view = View::new(&*kv);
        for scope in [repository("team/app"), repository("new/app"), Resource::Cluster] {
            for action in [Action::Pull, Action::Push, Action::Delete, Action::Catalog] {
                let deny = |who| Authorizer::DenyAll.authorize(&who, action, &scope, &view).unwrap_err();
                assert!(matches!(deny(Principal::Anonymous), Denied::Unauthenticated));
                for known in [Principal::System, Principal::Operator] {
                    assert!(matches!(deny(known), Denied::Forbidden { .. }));
                }
            }
        }
    }
}
