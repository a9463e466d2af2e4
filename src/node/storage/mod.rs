//! Whether this node's storage can be relied on, and what the node does when it cannot.
//!
//! Two parts: **metadata** (`raft/`, `state/`, `local/`, each perhaps a device of its own) and **blobs** (the
//! data directory itself). Every second a block is written to each and fsynced.
//!
//! | what is found | what the node does |
//! |---|---|
//! | metadata runs full | gives up its ballast, hands leadership over and stands for none; follows on |
//! | metadata fails, or is full all the same | stops taking part; what it holds is still served by digest |
//! | blobs fail | takes no bytes and passes through what it cannot read; votes on |
//!
//! In the last two cases the log is told that the node's copies do not count for now, so that the others make
//! up for them. Nothing is repaired in place: what a device holds after a failed fsync is unknown. When
//! everything has been sound for a while the node begins a new life in the same process: it closes its stores,
//! opens them again, finds out what is there, and registers as it does at every start.
//!
//! A crash loses nothing but what was found; the next look finds it again.

mod ballast;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use clawhub_kv::CORRUPT;
use clawhub_state::cluster::ClusterCmd;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::data_dir::DataDir;
use crate::node::Node;
use crate::stack::Stack;
use ballast::Ballast;
use volume::Volume;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long handing over or stopping may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sound looks in a row that end a first failure. Each further life takes twice as many, so that a device
/// that comes and goes does not drag the node along.
const SOUND_LOOKS: u32 = 3;
/// At most so many.
const MOST_LOOKS: u32 = 60;

/// What is known of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// All is well.
    #[default]
    Sound,
    /// It is nearly full; the ballast is given up.
    Short,
    /// It does not take what it is given, for this reason.
    Failing(String),
}

/// What is known of the storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Votes, entries, the state, the index.
    pub(crate) metadata: Part,
    /// The bytes.
    pub(crate) blobs: Part,
}

impl Condition {
    fn is_failing(&self) -> bool {
        [&self.metadata, &self.blobs].into_iter().any(|part| matches!(part, Part::Failing(_)))
    }

    /// Why the node is not as good as any other; empty if it is.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let parts = [("metadata", &self.metadata), ("blobs", &self.blobs)];
        let failing = parts.into_iter().filter_map(|(name, part)| match part {
            Part::Failing(why) => Some(format!("the storage of {name} fails: {why}")),
            _ => None,
        });
        failing.collect()
    }

    /// One line for operators.
    pub(crate) fn summary(&self) -> String {
        match (self.reasons(), &self.metadata) {
            (reasons, _) if !reasons.is_empty() => reasons.join("; "),
            (_, Part::Short) => "the device of metadata is nearly full".to_owned(),
            _ => "sound".to_owned(),
        }
    }
}

/// What one look found.
#[derive(Clone, Debug)]
struct Seen {
    /// Room for metadata, the ballast included, bytes; or what the device or a store said.
    metadata: Result<u64, String>,
    /// What the device of blobs said, if it fails.
    blobs: Result<(), String>,
}

/// See the [module](self).
pub(crate) struct Storage {
    metadata: Vec<Volume>,
    blobs: Volume,
    ballast: Ballast,
    /// Which life of the process this is, from 0.
    life: u32,
    condition: Mutex<Condition>,
    /// What a store said that cannot go on.
    reported: Mutex<Option<String>>,
    report: Notify,
}

impl Storage {
    /// The storage below a data directory, taken to be sound: it could be opened.
    pub(crate) fn new(dir: &DataDir, ballast: u64, life: u32) -> Storage {
        Storage {
            metadata: Volume::distinct([dir.raft(), dir.state(), dir.local()]),
            blobs: Volume::new(dir.root().to_owned()),
            ballast: Ballast::new(&dir.raft(), ballast),
            life,
            condition: Mutex::default(),
            reported: Mutex::default(),
            report: Notify::new(),
        }
    }

    /// What is known now.
    pub(crate) fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// How much of the device the ballast takes, bytes.
    pub(crate) fn ballast(&self) -> u64 {
        self.ballast.held()
    }

    /// Notes that a store of metadata cannot go on.
    pub(crate) fn report(&self, reason: String) {
        self.reported.lock().get_or_insert(reason);
        self.report.notify_one();
    }

    /// Blocking.
    fn look(&self) -> Seen {
        let held = self.ballast.held();
        let least =
            self.metadata.iter().map(Volume::look).try_fold(u64::MAX, |least, free| Ok(least.min(free?)));
        let metadata = least.map(|free| free.saturating_add(held)).map_err(|e: std::io::Error| e.to_string());
        Seen { metadata, blobs: self.blobs.look().map(drop).map_err(|e| e.to_string()) }
    }

    fn reported(&self) -> Option<String> {
        self.reported.lock().clone()
    }

    fn looks_needed(&self) -> u32 {
        SOUND_LOOKS.saturating_mul(1 << self.life.min(16)).min(MOST_LOOKS)
    }
}

/// What a look means after `before`, with a ballast of so many bytes. Room that comes and goes around a limit
/// does not change the verdict every time.
fn judge(before: &Part, seen: &Seen, ballast: u64) -> Condition {
    let metadata = match &seen.metadata {
        Err(why) => Part::Failing(why.clone()),
        Ok(room) if *room < ballast / 4 => Part::Failing("the device is full".to_owned()),
        Ok(room) if *room < ballast + ballast / 4 => Part::Short,
        Ok(room) if *before != Part::Sound && *room < ballast + ballast / 2 => Part::Short,
        Ok(_) => Part::Sound,
    };
    let blobs = match &seen.blobs {
        Err(why) => Part::Failing(why.clone()),
        Ok(()) => Part::Sound,
    };
    Condition { metadata, blobs }
}

/// Looks until the node stops, and acts.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sound = 0;
    while !node.stop.is_told() {
        tokio::select! {
            _ = every.tick() => (),
            () = node.storage.report.notified() => (),
        }
        let looking = node.clone();
        // The runtime is going down.
        let Ok(mut seen) = tokio::task::spawn_blocking(move || looking.storage.look()).await else { return };
        let before = node.storage.condition();
        if before.is_failing() {
            let now = judge(&before.metadata, &seen, node.storage.ballast.bytes());
            sound = if now == Condition::default() { sound + 1 } else { 0 };
            if sound >= node.storage.looks_needed() {
                return node.stop.again("the storage is sound again: opening it anew");
            }
            continue;
        }
        if let Some(why) = node.local.fault().or_else(|| node.storage.reported()) {
            if why.contains(CORRUPT) {
                return node.stop.fault(why);
            }
            tracing::error!(why, "a store of metadata cannot go on");
            seen.metadata = Err("a store gave up; the log has the details".to_owned());
        }
        let now = judge(&before.metadata, &seen, node.storage.ballast.bytes());
        *node.storage.condition.lock() = now.clone();
        act(&node, stack, &before, &now).await;
    }
}

async fn act(node: &Arc<Node>, stack: &Stack, before: &Condition, now: &Condition) {
    let ballast = &node.storage.ballast;
    if now != before {
        let summary = now.summary();
        tracing::warn!(room = ballast.held(), "storage: {summary}");
    }
    let room = match now.metadata {
        Part::Sound => ballast.take(),
        Part::Short | Part::Failing(_) => ballast.give_up(),
    };
    if let Err(error) = room {
        tracing::debug!(%error, "the ballast is not as it should be");
    }
    stack.consensus.stand_for_election(now.metadata == Part::Sound);
    if now.metadata == Part::Short && stack.consensus.status().leader == Some(stack.me) {
        tracing::warn!("the device of metadata is nearly full: handing over leadership");
        if let Err(error) = stack.consensus.transfer_leader(None, PATIENCE).await {
            tracing::warn!(%error, "leadership could not be handed over yet");
        }
    }
    if now.is_failing() {
        step_aside(node, stack, now).await;
    }
}

/// Ends what cannot be relied on, and has the others know.
async fn step_aside(node: &Arc<Node>, stack: &Stack, now: &Condition) {
    stack.blobs.hold_back(true);
    if now.metadata != Part::Sound && timeout(PATIENCE, stack.consensus.shutdown()).await.is_err() {
        tracing::warn!("consensus did not stop in time");
    }
    tokio::spawn(tell(node.clone()));
}

/// Has the log say that the copies here do not count for now.
async fn tell(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let failing = ClusterCmd::Failing { node: stack.me, boot: node.boot.count };
    while !node.stop.is_told() {
        match stack.consensus.plead(failing.clone(), PATIENCE).await {
            Ok(()) => return tracing::info!("the others know that the copies here do not count for now"),
            Err(error) => tracing::debug!(%error, "the others do not know yet"),
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn after(before: &Part, room: u64) -> Part {
        judge(before, &Seen { metadata: Ok(room), blobs: Ok(()) }, 64 * MIB).metadata
    }

    #[test]
    fn the_ballast_goes_before_the_room_does_and_comes_back_later() {
        assert_eq!(after(&Part::Sound, 200 * MIB), Part::Sound);
        assert_eq!(after(&Part::Sound, 81 * MIB), Part::Sound);
        assert_eq!(after(&Part::Sound, 79 * MIB), Part::Short);
        assert_eq!(after(&Part::Short, 95 * MIB), Part::Short, "no flapping");
        assert_eq!(after(&Part::Short, 96 * MIB), Part::Sound);
        assert_eq!(after(&Part::Short, 17 * MIB), Part::Short);
        assert!(matches!(after(&Part::Short, 15 * MIB), Part::Failing(_)));
        assert_eq!(after(&Part::Failing("full".into()), 95 * MIB), Part::Short, "not enough to begin anew");
    }

    #[test]
    fn each_part_fails_for_itself() {
        let why = || "input/output error".to_owned();
        let now = judge(&Part::Sound, &Seen { metadata: Ok(u64::MAX), blobs: Err(why()) }, 64 * MIB);
        assert!(now.is_failing() && now.metadata == Part::Sound);
        assert_eq!(now.reasons(), ["the storage of blobs fails: input/output error"]);
        let now = judge(&Part::Sound, &Seen { metadata: Err(why()), blobs: Ok(()) }, 64 * MIB);
        assert!(now.is_failing() && now.blobs == Part::Sound);
        assert_eq!(judge(&Part::Sound, &Seen { metadata: Ok(0), blobs: Ok(()) }, 0), Condition::default());
    }
}
