//! Whether this node's storage can be relied on, and what the node does when it cannot.
//!
//! Two parts: **metadata** (`raft/`, `state/`, `local/`, each perhaps a device of its own) and **blobs** (the
//! data directory itself). `clawhub_devices` looks at them every second and says what that means.
//!
//! | what is found | what the node does |
//! |---|---|
//! | metadata runs full | gives up its ballast and is not eligible to lead (`cluster`'s leadership); follows on |
//! | metadata fails, or is full all the same | stops taking part; what it holds is still served by digest |
//! | blobs fail | takes no bytes and passes through what it cannot read; votes on |
//!
//! In the last two cases the log is told that the node's copies do not count for now, so that the others make
//! up for them. Nothing is repaired in place: what a device holds after a failed fsync is unknown, so a part that
//! failed stays so for this life of the node. When everything has been sound for a while the node begins a new
//! life in the same process: it closes its stores, opens them again, finds out what is there, and registers as
//! it does at every start.
//!
//! A crash loses nothing but what was found; the next look finds it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_blobs::BlobStore;
use clawhub_consensus::{Consensus, Failure};
use clawhub_devices::{Condition, Devices, Look, Part, Seen};
use clawhub_kv::{Kv, KvErrorKind};
use clawhub_liveness::Liveness;
use clawhub_reconcile::{Progress, Reconciler};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stop::Stop;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A device that has not kept a block by then does not answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long consensus may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who writes to the devices, and who must hear how they are.
pub(crate) struct Watched {
    /// The store of what the node alone knows.
    pub(crate) local: Arc<dyn Kv>,
    /// The store of the log.
    pub(crate) raft: Arc<dyn Kv>,
    pub(crate) consensus: Consensus,
    pub(crate) blobs: BlobStore,
    pub(crate) liveness: Liveness,
}

impl Watched {
    /// The stores of metadata.
    fn stores(&self) -> [Arc<dyn Kv>; 3] {
        [self.local.clone(), self.raft.clone(), self.consensus.state()]
    }
}

/// Looks at the devices, keeps what was found, and does what a change asks for.
pub(crate) struct Watch {
    devices: Arc<Devices>,
    watched: Watched,
    stop: Stop,
    metadata: Looking,
    blobs: Looking,
    /// Looks in a row that found everything sound, after a failure.
    sound: u32,
    /// Consensus has stopped, of itself or because it was told to.
    over: bool,
    /// Why consensus stopped of itself.
    failure: Option<Failure>,
}

impl Watch {
    /// Watches over `devices`, and ends the node through `stop` where it must not go on.
    pub(crate) fn new(devices: Arc<Devices>, watched: Watched, stop: Stop) -> Watch {
        Watch {
            devices,
            watched,
            stop,
            metadata: Looking::default(),
            blobs: Looking::default(),
            sound: 0,
            over: false,
            failure: None,
        }
    }

    /// Looks once, and acts on it.
    async fn look(&mut self) {
        let looked = tokio::join!(
            self.metadata.look(&self.devices, Devices::look_at_metadata),
            self.blobs.look(&self.devices, Devices::look_at_blobs)
        );
        let (Some(metadata), Some(blobs)) = looked else { return };
        let mut seen = Seen { metadata, blobs };
        let before = self.devices.condition();
        if !before.metadata.is_failing()
            && let Some(Failure { reason: why, corrupt, device }) = self.gave_up()
        {
            let found = self.devices.judge(&seen).metadata;
            let store_failed = self.watched.stores().iter().any(|kv| kv.fault().is_some());
            // No device's fault, so a new life would meet it again.
            if corrupt {
                return self.stop.damaged(why);
            }
            if found == Part::Sound && !store_failed && !device {
                return self.stop.fault(why);
            }
            tracing::error!(why, "a store of metadata cannot go on");
            if !found.is_failing() {
                seen.metadata = Look::Failing("a store gave up; the log has the details".to_owned());
            }
        }
        let now = self.devices.judge(&seen);
        self.sound = if before.is_failing() && now.is_sound() { self.sound + 1 } else { 0 };
        if self.sound >= self.devices.looks_needed() {
            return self.stop.again("the storage is sound again: opening it anew");
        }
        let after = before.then(now);
        self.devices.set_condition(after.clone());
        self.act(&before, &after).await;
    }

    /// Why metadata cannot be written any more, if a store or consensus said so.
    fn gave_up(&self) -> Option<Failure> {
        let failed = || self.watched.stores().iter().find_map(|kv| kv.fault());
        self.failure.clone().or_else(|| {
            failed().map(|error| Failure {
                corrupt: error.is_corrupt(),
                device: error.kind == KvErrorKind::Io,
                reason: error.to_string(),
            })
        })
    }

    /// Does what the change asks for.
    async fn act(&self, before: &Condition, now: &Condition) {
        self.watched.liveness.set_eligible(now.metadata == Part::Sound);
        if now == before {
            return;
        }
        tracing::warn!("storage: {}", now.summary());
        if now.is_failing() && !before.is_failing() {
            self.watched.blobs.hold_back(true);
        }
        if now.metadata.is_failing()
            && !before.metadata.is_failing()
            && timeout(PATIENCE, self.watched.consensus.shutdown()).await.is_err()
        {
            tracing::warn!("consensus did not stop in time");
        }
    }
}

impl Reconciler for Watch {
    fn name(&self) -> &'static str {
        "storage"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    /// Completes once, when consensus stops of itself. It does so when a store fails, or when it meets what it must
    /// not go on with; which of the two it was, the look tells.
    async fn wake(&mut self) {
        if !self.over {
            let stopped = self.watched.consensus.stopped().await;
            self.over = true;
            if let Some(failure) = stopped {
                let reason = format!("consensus stopped: {}", failure.reason);
                self.failure = Some(Failure { reason, ..failure });
                return;
            }
        }
        std::future::pending().await
    }

    async fn pass(&mut self) -> Result<Progress, clawhub_reconcile::Failure> {
        if self.stop.is_told() {
            return Ok(Progress::Over);
        }
        self.look().await;
        Ok(Progress::Settled)
    }
}

/// One part's look under way. The parts are looked at apart: a device of blobs that is busy says nothing of the
/// one that the votes lie on.
#[derive(Default)]
struct Looking(Option<(Instant, JoinHandle<Look>)>);

impl Looking {
    /// Begins a look, or goes on with one that its device has outlasted so far: nothing is known of it then, and
    /// after a while that it does not answer. `None` if the runtime is going down.
    async fn look(&mut self, devices: &Arc<Devices>, part: fn(&Devices) -> Look) -> Option<Look> {
        let (since, under_way) = self.0.get_or_insert_with(|| {
            let devices = devices.clone();
            (Instant::now(), tokio::task::spawn_blocking(move || part(&devices)))
        });
        match timeout(EVERY, under_way).await {
            Err(_) if since.elapsed() >= ANSWER => Some(Look::Failing("a device does not answer".to_owned())),
            Err(_) => Some(Look::Unknown),
            Ok(seen) => {
                self.0 = None;
                seen.ok()
            }
        }
    }
}
