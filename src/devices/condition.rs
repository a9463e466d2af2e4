//! What is known of a node's devices, and what a look means after what was known before: a pure rule.

use crate::look::Look;

/// What is known of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All is well.
    #[default]
    Sound,
    /// It is nearly full; the ballast is given up.
    Short,
    /// It does not take what it is given, for this reason.
    Failing(String),
}

impl Part {
    /// Whether it does not take what it is given.
    pub fn is_failing(&self) -> bool {
        matches!(self, Part::Failing(_))
    }

    /// What holds after a look that says `now`: a failure stays.
    pub(crate) fn then(&self, now: Part) -> Part {
        if self.is_failing() { self.clone() } else { now }
    }
}

/// What is known of the storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Votes, entries, the state, the index.
    pub metadata: Part,
    /// The bytes.
    pub blobs: Part,
}

impl Condition {
    /// Whether all is well.
    pub fn is_sound(&self) -> bool {
        *self == Condition::default()
    }

    /// Whether either part does not take what it is given.
    pub fn is_failing(&self) -> bool {
        self.metadata.is_failing() || self.blobs.is_failing()
    }

    /// Why the node is not as good as any other; empty if it is.
    pub fn reasons(&self) -> Vec<String> {
        let parts = [("metadata", &self.metadata), ("blobs", &self.blobs)];
        let failing = parts.into_iter().filter_map(|(name, part)| match part {
            Part::Failing(why) => Some(format!("the storage of {name} fails: {why}")),
            _ => None,
        });
        failing.collect()
    }

    /// What holds after a look that says `now`: a part that failed stays so.
    #[must_use]
    pub fn then(&self, now: Condition) -> Condition {
        Condition { metadata: self.metadata.then(now.metadata), blobs: self.blobs.then(now.blobs) }
    }

    /// One line for operators.
    pub fn summary(&self) -> String {
        match (self.reasons(), &self.metadata) {
            (reasons, _) if !reasons.is_empty() => reasons.join("; "),
            (_, Part::Short) => "the device of metadata is nearly full".to_owned(),
            _ => "sound".to_owned(),
        }
    }
}

/// What one look at every device found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of metadata; room with the ballast included.
    pub metadata: Look,
    /// Of blobs.
    pub blobs: Look,
}

/// Room below this, in bytes, calls for a ballast of `ballast` bytes to be given up.
pub(crate) fn short_below(ballast: u64) -> u64 {
    ballast + ballast / 4
}

/// What a look means after `before`, with a ballast of `ballast` bytes. Room that comes and goes around a limit
/// does not change the verdict every time.
pub(crate) fn judge(before: &Condition, seen: &Seen, ballast: u64) -> Condition {
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
    use crate::look::worse;

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
    fn a_failure_stays_for_the_life() {
        let failed = Part::Failing("input/output error".to_owned());
        assert_eq!(failed.then(Part::Sound), failed);
        assert_eq!(Part::Short.then(Part::Sound), Part::Sound);
    }
}
