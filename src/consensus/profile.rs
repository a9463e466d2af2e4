//! The settings of a node's part in consensus, and the values of openraft's own configuration that follow from
//! them.

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::{NodeId, RoundTrip};
use openraft::{Config, ConfigError, SnapshotPolicy};

/// How far apart the voters are. Each profile holds up to a [round trip](Profile::round_trip), with jitter of a fifth
/// of it and one packet in a hundred lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 50 ms: a heartbeat every 75 ms, elections after 350–700 ms, writes wait 3 s for a leader.
    Lan,
    /// 400 ms: a heartbeat every 300 ms, elections after 1.5–3 s, writes wait 8 s for a leader.
    Wan,
}

/// Milliseconds of a [`Profile`]. Only `answer` and `append` depend on the round trip, and nothing on each other but
/// by these bounds: an answer is waited for less long than an election, and openraft looks at its timers five times in
/// that time.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// What it holds.
    round_trip: u64,
    /// Between two heartbeats to one follower; the next one also waits for the answer to the last.
    beat: u64,
    /// How long a heartbeat may stay unanswered. openraft calls it the heartbeat interval.
    answer: u64,
    /// How long entries on their way may stay unanswered.
    append: u64,
    election_min: u64,
    election_max: u64,
    probe: u64,
    wait: u64,
}

const LAN: Timing = Timing {
    round_trip: 50,
    beat: 75,
    answer: 250,
    append: 500,
    election_min: 350,
    election_max: 700,
    probe: 1500,
    wait: 3000,
};

const WAN: Timing = Timing {
    round_trip: 400,
    beat: 300,
    answer: 1400,
    append: 4000,
    election_min: 1500,
    election_max: 3000,
    probe: 6000,
    wait: 8000,
};

impl Profile {
    fn timing(self) -> Timing {
        match self {
            Profile::Lan => LAN,
            Profile::Wan => WAN,
        }
    }

    /// The round trip between voters that it holds; with a longer one leadership may be lost without a fault.
    pub fn round_trip(self) -> RoundTrip {
        RoundTrip::millis(self.timing().round_trip)
    }

    /// How long writes and barriers wait for a leader before they are refused.
    pub fn wait(self) -> Duration {
        Duration::from_millis(self.timing().wait)
    }

    /// Between two heartbeats of a leader.
    pub(crate) fn beat(self) -> Duration {
        Duration::from_millis(self.timing().beat)
    }

    /// How long an append on its way may stay unanswered before the stream is opened anew. It covers a
    /// slow fsync, so that one hiccup does not send a megabyte twice; a dead peer is found earlier, by
    /// its heartbeats.
    pub(crate) fn append_patience(self) -> Duration {
        Duration::from_millis(self.timing().append)
    }

    /// How long a refused caller should stay away: about one election.
    pub(crate) fn retry_after(self) -> Duration {
        Duration::from_millis(self.timing().election_max).max(Duration::from_secs(1))
    }

    /// Without a sign of a quorum for this long, a node counts as cut off.
    pub(crate) fn lease(self) -> Duration {
        Duration::from_millis(self.timing().election_max)
    }

    /// How long to pause before asking again who leads.
    pub(crate) fn pause(self) -> Duration {
        self.beat()
    }
}

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// On threads of its own: the log's group commit, checkpoints, hashing.
    Threads,
    /// In place, so that a simulation is deterministic.
    Inline,
}

/// Wall time, Unix milliseconds.
pub type WallClock = dyn Fn() -> u64 + Send + Sync;

/// What a node has to know to take part.
#[derive(Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// This start of the node: fsynced and counted up by one before the node starts.
    pub boot: u64,
    /// Drawn at random when the process started: tells a repetition from a twin with the same `boot`.
    pub nonce: u64,
    /// Timing.
    pub profile: Profile,
    /// Threads, or simulation.
    pub execution: Execution,
    /// Entries between snapshots. A follower further behind than four times this gets a snapshot.
    pub snapshot_interval: u64,
    /// Bytes a second that a snapshot is sent with, at most: it must not take the network from clients.
    pub snapshot_rate: u64,
    /// Bytes that must stay free on the state's device beside a snapshot that arrives.
    pub snapshot_reserve: u64,
    /// Bytes of proposals under way, of this node's clients and, as leader, of others'. Beyond it new
    /// work is refused.
    pub proposal_budget: usize,
    /// Wall time for entries' `at`; nothing is decided by it.
    pub wall: Arc<WallClock>,
}

/// openraft's limit on how long a snapshot takes to send. Ours is on how long a part of it takes ([`crate::send`]).
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Settings {
    /// Settings with the defaults of a real node.
    pub fn new(node: NodeId, boot: u64, nonce: u64, profile: Profile) -> Settings {
        Settings {
            node,
            boot,
            nonce,
            profile,
            execution: Execution::Threads,
            snapshot_interval: 20_000,
            snapshot_rate: 64 << 20,
            snapshot_reserve: 64 << 20,
            proposal_budget: 32 << 20,
            wall: Arc::new(clawhub_durable::now_millis),
        }
    }

    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let Timing { answer, election_min, election_max, probe, .. } = self.profile.timing();
        let config = Config {
            cluster_name: "clawhub".to_owned(),
            // openraft gives a heartbeat no longer than this to be answered; `heartbeat` sends them more often.
            heartbeat_interval: answer,
            election_timeout_min: election_min,
            election_timeout_max: election_max,
            install_snapshot_timeout: u64::try_from(SNAPSHOT_LIMIT.as_millis()).unwrap_or(u64::MAX),
            // The reader ends a batch at 1 MiB; this only bounds the number of small entries.
            max_payload_entries: 1_024,
            max_append_entries: Some(1_024),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_interval),
            replication_lag_threshold: self.snapshot_interval.saturating_mul(4),
            // `purge` decides what goes, so nothing goes by itself.
            max_in_snapshot_log_to_keep: u64::MAX,
            // Bytes are bounded by the proposal budget; these bound what openraft holds besides.
            api_channel_size: Some(8_192),
            notification_channel_size: Some(8_192),
            state_machine_channel_size: Some(256),
            // A partitioned or stale node asks before it raises its term.
            enable_pre_vote: Some(true),
            // Lets the connected majority elect where a leader reaches everybody but a quorum.
            quorum_loss_probe_interval: Some(probe),
            // The state is not synced as it is applied: a restarted leader might serve an old one.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_profiles_are_accepted_and_set_what_openraft_leaves_out() {
        for profile in [Profile::Lan, Profile::Wan] {
            let settings = Settings::new(NodeId(1), 1, 7, profile);
            let config = settings.config().unwrap();
            assert_eq!(config.enable_pre_vote, Some(true));
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.replication_lag_threshold, 4 * settings.snapshot_interval);
            assert!(config.quorum_loss_probe_interval.unwrap() >= 2 * config.election_timeout_max);
        }
    }

    #[test]
    fn a_profile_gives_time_for_the_round_trip_that_it_holds() {
        for timing in [LAN, WAN] {
            // Linux sends a lost segment again after a round trip and 200 ms. On a short way the next heartbeats
            // make up for one that is lost.
            let resent = timing.round_trip + timing.round_trip / 5 + 200;
            let one_lost = timing.round_trip + timing.round_trip / 5 + resent;
            assert!(timing.answer >= one_lost.min(5 * timing.round_trip), "{timing:?}");
            assert!(timing.append > one_lost, "{timing:?}");
            // A follower hears something before it campaigns: its lease and an election time-out.
            let silence = timing.beat.max(timing.round_trip) + resent + 2 * resent;
            assert!(silence < timing.election_max + timing.election_min, "{timing:?}");
            assert!(timing.answer < timing.election_min && timing.beat < timing.answer, "{timing:?}");
        }
    }
}
