//! What a look at a device found, and what looks at several devices mean together.

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It takes what it is given. This much room is free, bytes.
    Room(u64),
    /// It fails, or is another one than at the start.
    Failing(String),
    /// It could not be looked at, for a reason that is not the device's.
    Unknown,
}

/// What looks at several devices mean together. The ballast, which takes `held` bytes of the first one, counts as
/// room there: elsewhere nothing would be won by giving it up.
pub(crate) fn all_of(looks: impl IntoIterator<Item = Look>, held: u64) -> Look {
    let with_ballast = |(at, look)| match look {
        Look::Room(free) if at == 0 => Look::Room(free.saturating_add(held)),
        other => other,
    };
    looks.into_iter().enumerate().map(with_ballast).reduce(worse).unwrap_or(Look::Unknown)
}

pub(crate) fn worse(one: Look, other: Look) -> Look {
    match (one, other) {
        (Look::Failing(why), _) | (_, Look::Failing(why)) => Look::Failing(why),
        (Look::Unknown, _) | (_, Look::Unknown) => Look::Unknown,
        (Look::Room(one), Look::Room(other)) => Look::Room(one.min(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ballast_is_room_where_it_lies_and_nowhere_else() {
        let looks = |raft, state| [Look::Room(raft), Look::Room(state)];
        assert_eq!(all_of(looks(10 * MIB, 500 * MIB), 64 * MIB), Look::Room(74 * MIB));
        assert_eq!(all_of(looks(500 * MIB, 30 * MIB), 64 * MIB), Look::Room(30 * MIB));
        assert_eq!(all_of([], 64 * MIB), Look::Unknown);
    }
}
