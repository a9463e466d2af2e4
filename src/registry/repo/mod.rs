//! The handles: what somebody may do to one repository, or to the list of them.
//!
//! Each is made from the permit that holds its repository, so that no use case is told a repository beside a
//! permit. A [`Reader`] also has the snapshot that the permit was judged on; a [`Repo`] for writing has none,
//! because bytes move while it is used.
//!
//! Owns nothing beyond a request. A crash loses nothing here.

mod check;
mod delete;
mod list;
mod publish;
mod push;
mod read;

use std::sync::Arc;

use clawhub_auth::{Act, Catalog, Permit, Principal, Pull};
use clawhub_kv::KvRead;
use clawhub_state::View;
use clawhub_types::RepoName;

use crate::error::RETRY;
use crate::use_cases::UseCases;
use crate::{Error, Freshness};

/// The state at one moment, from [`Registry::now`](crate::Registry::now) or [`Registry::latest`](crate::Registry::latest).
///
/// It keeps files of the store from being removed, so it must not be held while bytes move.
#[derive(Clone)]
pub struct At {
    use_cases: Arc<UseCases>,
    state: Arc<dyn KvRead>,
    latest: bool,
}

impl At {
    pub(crate) fn now(use_cases: &Arc<UseCases>) -> At {
        At { use_cases: use_cases.clone(), state: use_cases.core.snapshot(), latest: false }
    }

    pub(crate) async fn latest(use_cases: &Arc<UseCases>) -> Result<At, Error> {
        use_cases.core.barrier().await?;
        Ok(At { latest: true, ..At::now(use_cases) })
    }

    /// Decides whether `principal` may do something.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`](crate::Kind::Unauthenticated), [`Kind::Denied`](crate::Kind::Denied).
    pub fn authorize<A: Act>(&self, principal: &Principal, on: &A::On) -> Result<Permit<A>, Error> {
        self.use_cases.core.authorize(&*self.state, principal, on)
    }

    fn authorize_again<A: Act>(&self, permit: &Permit<A>) -> Result<Permit<A>, Error> {
        Ok(self.use_cases.core.authorizer.authorize_again(permit, &self.view())?)
    }

    /// Reads a repository as it was at this moment.
    pub fn reader(self, permit: Permit<Pull>) -> Reader {
        Reader { at: self, permit }
    }

    /// Lists repositories as they were at this moment.
    pub fn repositories(self, permit: Permit<Catalog>) -> Repositories {
        Repositories { at: self, permit }
    }

    fn view(&self) -> View<'_> {
        View::new(&*self.state)
    }

    /// How current an answer from here is; refused once this node has been cut off for too long. What a start before
    /// this one heard does not count: a node that is started again and again would never be cut off for long.
    fn freshness(&self) -> Result<Freshness, Error> {
        if self.latest {
            return Ok(Freshness::Linearizable);
        }
        let status = self.use_cases.core.consensus.status();
        let index = status.applied;
        if !status.heard {
            let why = "this node has not heard from the cluster since it started";
            return Err(Error::unavailable(RETRY, why));
        }
        match status.cut_off {
            None => Ok(Freshness::ByDigest { index }),
            Some(age) if age <= self.use_cases.core.limits.cut_off => Ok(Freshness::CutOff { index, age }),
            Some(_) => {
                Err(Error::unavailable(RETRY, "this node has been cut off from the cluster for too long"))
            }
        }
    }
}

/// A repository, for somebody who may do `A` to it.
///
/// A right to read gives nothing to write with:
///
/// ```compile_fail,E0599
/// use clawhub_auth::{Permit, Pull};
/// use clawhub_registry::{PutManifest, Registry};
/// use clawhub_types::Reference;
///
/// async fn write(registry: Registry, permit: Permit<Pull>, reference: Reference, put: PutManifest) {
///     let _ = registry.repo(permit).put_manifest(&reference, put).await;
/// }
/// ```
///
/// With a right to push it compiles:
///
/// ```no_run
/// use clawhub_auth::{Permit, Push};
/// use clawhub_registry::{PutManifest, Registry};
/// use clawhub_types::Reference;
///
/// async fn write(registry: Registry, permit: Permit<Push>, reference: Reference, put: PutManifest) {
///     let _ = registry.repo(permit).put_manifest(&reference, put).await;
/// }
/// ```
pub struct Repo<A: Act<On = RepoName>> {
    use_cases: Arc<UseCases>,
    permit: Permit<A>,
}

impl<A: Act<On = RepoName>> Repo<A> {
    pub(crate) fn new(use_cases: Arc<UseCases>, permit: Permit<A>) -> Repo<A> {
        Repo { use_cases, permit }
    }

    /// Its name.
    pub fn name(&self) -> &RepoName {
        self.permit.on()
    }
}

/// A repository as it was at one moment, for somebody who may read it. Used up by what it reads: it keeps files
/// of the store from being removed.
pub struct Reader {
    at: At,
    permit: Permit<Pull>,
}

impl Reader {
    /// The same repository as it is after everything that was acknowledged by now, with the right to read it
    /// judged once more.
    async fn latest(self) -> Result<Reader, Error> {
        if self.at.latest { Ok(self) } else { self.let_go().latest().await }
    }

    /// Lets the snapshot go.
    fn let_go(self) -> Absent {
        Absent { use_cases: self.at.use_cases, permit: self.permit }
    }
}

/// A reader without its snapshot, while something is waited for.
struct Absent {
    use_cases: Arc<UseCases>,
    permit: Permit<Pull>,
}

impl Absent {
    /// The repository after everything that was acknowledged by now, with the right to read it judged once more.
    async fn latest(self) -> Result<Reader, Error> {
        let at = At::latest(&self.use_cases).await?;
        let permit = at.authorize_again(&self.permit)?;
        Ok(Reader { at, permit })
    }
}

/// The repositories of the cluster at one moment, for somebody who may list them.
pub struct Repositories {
    at: At,
    permit: Permit<Catalog>,
}

impl Repositories {
    /// The same after everything that was acknowledged by now, with the right to list judged once more.
    async fn latest(self) -> Result<Repositories, Error> {
        if self.at.latest {
            return Ok(self);
        }
        let at = At::latest(&self.at.use_cases).await?;
        let permit = at.authorize_again(&self.permit)?;
        Ok(Repositories { at, permit })
    }
}
