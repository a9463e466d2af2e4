//! Whether this node's storage can be relied on, and what the node does when it cannot.
//!
//! Two parts: **metadata** (`raft/`, `state/`, `local/`, each perhaps a device of its own) and **blobs** (the
//! data directory itself). Every second a block is written to each and fsynced.
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

mod ballast;
mod notice;
mod volume;
mod watch;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::data_dir::DataDir;
use ballast::Ballast;
use volume::{Look, Volume};

pub(crate) use notice::FailureNotice;
pub(crate) use watch::{Parts, Watch};

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

impl Part {
    fn is_failing(&self) -> bool {
        matches!(self, Part::Failing(_))
    }

    /// What holds after a look that says `now`: a failure stays.
    fn then(&self, now: Part) -> Part {
        if self.is_failing() { self.clone() } else { now }
    }
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
    /// Whether all is well.
    pub(crate) fn is_sound(&self) -> bool {
        *self == Condition::default()
    }

    fn is_failing(&self) -> bool {
        self.metadata.is_failing() || self.blobs.is_failing()
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

/// What one look at every device found.
#[derive(Clone, Debug)]
struct Seen {
    /// Of metadata; room with the ballast included.
    metadata: Look,
    blobs: Look,
}

/// See the [module](self).
pub(crate) struct Storage {
    /// The first is that of the log, where the ballast lies.
    metadata: Vec<Volume>,
    blobs: Volume,
    ballast: Ballast,
    /// How much of the device the ballast took at the last look, bytes.
    held: AtomicU64,
    /// Which life of the process this is, from 0.
    life: u32,
    condition: Mutex<Condition>,
}

impl Storage {
    /// The storage below a data directory, taken to be sound.
    ///
    /// # Errors
    /// If a device does not take a file.
    pub(crate) fn open(dir: &DataDir, ballast: u64, life: u32) -> io::Result<Storage> {
        for folder in [dir.raft(), dir.state()] {
            // The stores would make them a little later.
            std::fs::create_dir_all(folder)?;
        }
        Ok(Storage {
            metadata: Volume::distinct([dir.raft(), dir.state(), dir.local()])?,
            blobs: Volume::open(dir.root().to_owned())?,
            ballast: Ballast::new(&dir.raft(), ballast),
            held: AtomicU64::default(),
            life,
            condition: Mutex::default(),
        })
    }

    /// What is known now.
    pub(crate) fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// How much of the device the ballast took at the last look, bytes.
    pub(crate) fn ballast(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Blocking. Looks at the devices of metadata, and takes the ballast or leaves it as was found.
    fn look_at_metadata(&self) -> Look {
        let sound = self.condition().metadata == Part::Sound;
        if !sound {
            self.note(self.ballast.give_up());
        }
        let held = self.ballast.held();
        let seen = all_of(self.metadata.iter().map(Volume::look), held);
        // Not where taking it is what makes the room short.
        if sound && matches!(seen, Look::Room(room) if room >= short_below(self.ballast.bytes())) {
            self.note(self.ballast.take());
        }
        self.held.store(self.ballast.held(), Ordering::Relaxed);
        seen
    }

    fn note(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::debug!(%error, "the ballast is not as it should be");
        }
    }

    fn looks_needed(&self) -> u32 {
        SOUND_LOOKS.saturating_mul(1 << self.life.min(16)).min(MOST_LOOKS)
    }
}

/// Room below this calls for the ballast, with one of so many bytes.
fn short_below(ballast: u64) -> u64 {
    ballast + ballast / 4
}

/// What looks at several devices mean together. The ballast, which takes `held` bytes of the first one, counts as
/// room there: elsewhere nothing would be won by giving it up.
fn all_of(looks: impl IntoIterator<Item = Look>, held: u64) -> Look {
    let with_ballast = |(at, look)| match look {
        Look::Room(free) if at == 0 => Look::Room(free.saturating_add(held)),
        other => other,
    };
    looks.into_iter().enumerate().map(with_ballast).reduce(worse).unwrap_or(Look::Unknown)
}

fn worse(one: Look, other: Look) -> Look {
    match (one, other) {
        (Look::Failing(why), _) | (_, Look::Failing(why)) => Look::Failing(why),
        (Look::Unknown, _) | (_, Look::Unknown) => Look::Unknown,
        (Look::Room(one), Look::Room(other)) => Look::Room(one.min(other)),
    }
}

/// What a look means after `before`, with a ballast of so many bytes. Room that comes and goes around a limit
/// does not change the verdict every time.
fn judge(before: &Condition, seen: &Seen, ballast: u64) -> Condition {
    let metadata = match &seen.metadata {
        Look::Failing(why) => Part::Failing(why.clone()),
        Look::Unknown => before.metadata.clone(),
        Look::Room(room) if *room < ballast / 4 => Part::Failing("the device is full".to_owned()),
        Look::Room(room) if *room < short_below(ballast) => Part::Short,
        Look::Room(room) if before.metadata != Part::Sound && *room < ballast + ballast / 2 => Part::Short,
        Look::Room(_) => Part::Sound,
    };
    let blobs = match &seen.blobs {
        Look::Failing(why) => Part::Failing(why.clone()),
        Look::Unknown => before.blobs.clone(),
        Look::Room(_) => Part::Sound,
    };
    Condition { metadata, blobs }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn after(before: Part, room: u64) -> Part {
        let before = Condition { metadata: before, blobs: Part::Sound };
        let seen = Seen { metadata: Look::Room(room), blobs: Look::Room(u64::MAX) };
        judge(&before, &seen, 64 * MIB).metadata
    }

    #[test]
    fn the_ballast_goes_before_the_room_does_and_comes_back_later() {
        assert_eq!(after(Part::Sound, 200 * MIB), Part::Sound);
        assert_eq!(after(Part::Sound, 81 * MIB), Part::Sound);
        assert_eq!(after(Part::Sound, 79 * MIB), Part::Short);
        assert_eq!(after(Part::Short, 95 * MIB), Part::Short, "no flapping");
        assert_eq!(after(Part::Short, 96 * MIB), Part::Sound);
        assert_eq!(after(Part::Short, 17 * MIB), Part::Short);
        assert!(after(Part::Short, 15 * MIB).is_failing());
        assert_eq!(after(Part::Failing("full".into()), 95 * MIB), Part::Short, "not enough to begin anew");
    }

    #[test]
    fn each_part_fails_for_itself_and_what_is_not_known_changes_nothing() {
        let (well, bad) = (|| Look::Room(u64::MAX), || Look::Failing("input/output error".to_owned()));
        let judged = |metadata, blobs| judge(&Condition::default(), &Seen { metadata, blobs }, 64 * MIB);
        let now = judged(well(), bad());
        assert!(now.is_failing() && now.metadata == Part::Sound);
        assert_eq!(now.reasons(), ["the storage of blobs fails: input/output error"]);
        let now = judged(bad(), well());
        assert!(now.is_failing() && now.blobs == Part::Sound);
        assert_eq!(judged(Look::Unknown, Look::Unknown), Condition::default());
        assert_eq!(worse(Look::Unknown, Look::Room(7)), Look::Unknown);
        assert_eq!(worse(Look::Room(7), Look::Room(3)), Look::Room(3));
        assert_eq!(worse(Look::Room(7), bad()), bad());
    }

    #[test]
    fn the_ballast_is_room_where_it_lies_and_nowhere_else() {
        let looks = |raft, state| [Look::Room(raft), Look::Room(state)];
        assert_eq!(all_of(looks(10 * MIB, 500 * MIB), 64 * MIB), Look::Room(74 * MIB));
        assert_eq!(all_of(looks(500 * MIB, 30 * MIB), 64 * MIB), Look::Room(30 * MIB));
        assert_eq!(all_of([], 64 * MIB), Look::Unknown);
    }

    #[test]
    fn a_failure_stays_for_the_life() {
        let failed = Part::Failing("input/output error".to_owned());
        assert_eq!(failed.then(Part::Sound), failed);
        assert_eq!(Part::Short.then(Part::Sound), Part::Sound);
    }
}
