//! Three nodes, each on a host of its own; or, where they are asked to be far apart, on this one with a relay between
//! them, which can be cut as well.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest;
use clawhub_testkit::net::Net;
use clawhub_testkit::wan::{self, Wan};
use clawhub_testkit::{Repo, until};
use reqwest::Response;
use tempfile::TempDir;
use tokio::sync::{OnceCell, RwLockWriteGuard};

/// How long a returned node may take to be like the others.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(30);
pub(crate) const REPO: &str = "cutoff/image";

/// Three nodes, each on a host of its own.
pub(crate) struct World {
    // Order matters in the drop: processes, the network they are in, their folders.
    pub(crate) members: Vec<Member>,
    net: Option<Net>,
    _home: TempDir,
}

type Slot = OnceCell<Option<World>>;

/// A test's turn, and the world that it shares with those that wait for theirs: the first one forms it.
pub(super) struct Turn {
    world: Arc<Slot>,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Turn {
    pub(super) async fn wait() -> Turn {
        static SHARED: Mutex<Weak<Slot>> = Mutex::new(Weak::new());
        let world = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let world = shared.upgrade().unwrap_or_default();
            *shared = Arc::downgrade(&world);
            world
        };
        Turn { world, _alone: crate::alone().await }
    }

    /// The world, whole whatever was done to it before. See [`World::start`].
    pub(super) async fn world(&self) -> Result<Option<&World>> {
        let world = self.world.get_or_try_init(World::start).await?.as_ref();
        if let Some(world) = world {
            world.heal()?;
            world.settle().await?;
        }
        Ok(world)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) hash: String,
}

impl World {
    /// `None`, and a line that says why, where there can be no network to cut.
    pub(crate) async fn start() -> Result<Option<World>> {
        if wan::asked_for().is_some() {
            let home = tempfile::tempdir()?;
            let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
            return World::of(members, None, home).await;
        }
        if let Some(reason) = Net::refused() {
            crate::skipped("cutoff", &format!("no networks can be made here: {reason}"))?;
            return Ok(None);
        }
        let (net, home) = (Net::new(3)?, tempfile::tempdir()?);
        let spec = |host| Spec { ip: net.ip(host), prefix: net.prefix(host), ..Spec::zone(host) };
        let members = fleet::form(home.path(), (0..3).map(spec).collect()).await?;
        World::of(members, Some(net), home).await
    }

    async fn of(members: Vec<Member>, net: Option<Net>, home: TempDir) -> Result<Option<World>> {
        let world = World { members, net, _home: home };
        world.repo(0).push_blob(manifest::CONFIG_BYTES).await?;
        Ok(Some(world))
    }

    fn wan(&self) -> Result<&Wan> {
        self.members[0].wan().context("no network that could be cut")
    }

    /// From now on a host hears nothing from another; what it says still gets there.
    pub(crate) fn deafen(&self, host: usize, from: usize) -> Result<()> {
        match &self.net {
            Some(net) => net.deafen(host, from),
            None => self.wan().map(|wan| wan.deafen(host, from)),
        }
    }

    /// Cuts a host off from all others.
    pub(crate) fn isolate(&self, host: usize) -> Result<()> {
        match &self.net {
            Some(net) => net.isolate(host),
            None => self.wan().map(|wan| wan.isolate(host)),
        }
    }

    /// Makes every link whole again.
    pub(crate) fn heal(&self) -> Result<()> {
        match &self.net {
            Some(net) => net.heal(),
            None => self.wan().map(Wan::heal),
        }
    }

    pub(crate) fn repo(&self, host: usize) -> Repo {
        self.members[host].registry().repo(REPO)
    }

    pub(crate) fn others(host: usize) -> [usize; 2] {
        [(host + 1) % 3, (host + 2) % 3]
    }

    pub(crate) fn standing(&self, host: usize) -> Result<Standing> {
        let status = self.members[host].admin(&["status"])?;
        let number = |field: &str| status[field].as_u64().unwrap_or(0);
        let hash = status["state_hash"].as_str().with_context(|| format!("no hash in {status}"))?.to_owned();
        Ok(Standing { leader: number("leader"), term: number("term"), applied: number("applied"), hash })
    }

    /// Waits until every node is ready and has the same state.
    pub(crate) async fn settle(&self) -> Result<Standing> {
        for member in &self.members {
            member.ready().await?;
        }
        until("equal states", CATCH_UP, || async {
            let standings: Vec<_> = (0..3).map(|host| self.standing(host)).collect::<Result<_>>()?;
            let same = standings.iter().all(|s| s.applied == standings[0].applied);
            ensure!(!same || standings.iter().all(|s| s.hash == standings[0].hash), "{standings:?}");
            Ok((same && standings.iter().all(|s| *s == standings[0])).then(|| standings[0].clone()))
        })
        .await
    }
}

pub(crate) async fn put(repo: &Repo, tag: &str, bytes: &[u8]) -> Result<Response> {
    repo.put_manifest(tag, manifest::OCI_MANIFEST, bytes).await
}
