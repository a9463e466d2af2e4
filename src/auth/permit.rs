//! The permit: proof that somebody may do one thing to one resource. It is the key to a use case, and it cannot be
//! made elsewhere.

use std::marker::PhantomData;

use clawhub_peer::Caller;
use clawhub_types::{AccessRevisions, Actor, Principal, RepoName, Resource};

use crate::act::{Act, On, Push};

/// One principal may do one thing to one resource, as judged at certain access revisions. The permit holds its
/// resource: who has one has no need to say once more what it is for, and cannot say something else.
///
/// Made by [`crate::Authorizer::authorize`], and by [`Permit::vouched`] for a member that was authenticated.
/// Nobody else can make one:
///
/// ```compile_fail,E0451
/// use clawhub_auth::{Permit, Principal, Push};
///
/// let forged: Permit<Push> = Permit {
///     actor: Principal::System.actor(),
///     on: "a/b".parse().unwrap(),
///     access: Default::default(),
///     act: std::marker::PhantomData,
/// };
/// ```
///
/// A permit for one action is not one for another:
///
/// ```compile_fail,E0308
/// use clawhub_auth::{Permit, Pull, Push};
///
/// fn push(_: Permit<Push>) {}
///
/// fn read_and_write(permit: Permit<Pull>) {
///     push(permit);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit<A: Act> {
    actor: Actor,
    on: A::On,
    access: AccessRevisions,
    act: PhantomData<A>,
}

impl<A: Act> Permit<A> {
    pub(crate) fn new(actor: Actor, on: A::On, access: AccessRevisions) -> Permit<A> {
        Permit { actor, on, access, act: PhantomData }
    }

    /// Whom it was given.
    pub fn principal(&self) -> &Principal {
        &self.actor.principal
    }

    /// The name that log entries carry.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What it is for.
    pub fn on(&self) -> &A::On {
        &self.on
    }

    /// The revisions the decision was taken at; they travel in the log entry.
    pub fn access(&self) -> AccessRevisions {
        self.access
    }

    /// Whether `resource` lies within what it is for.
    pub fn covers(&self, resource: &Resource) -> bool {
        self.on.resource().contains(resource)
    }
}

impl Permit<Push> {
    /// The permit that another member gave before it sent the request on to this node. The member vouches for
    /// it: it was authenticated when its stream was accepted. Apply checks the revisions once more.
    ///
    /// A member's number alone is not enough:
    ///
    /// ```compile_fail,E0308
    /// use clawhub_auth::{Permit, Principal, Push};
    /// use clawhub_types::NodeId;
    ///
    /// let repo = "a/b".parse().unwrap();
    /// Permit::<Push>::vouched(&NodeId(1), Principal::Anonymous.actor(), repo, Default::default());
    /// ```
    pub fn vouched(_by: &Caller, actor: Actor, repo: RepoName, access: AccessRevisions) -> Permit<Push> {
        Permit::new(actor, repo, access)
    }
}
