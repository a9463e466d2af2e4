//! Rules that a test build can be told to break, one at a time, to show that some test notices.
//!
//! Without the feature `unsafe-mutants` no rule can be broken: [`Mutant::breaks`] is `false` at compile time, the
//! code behind it is not there, and neither is the environment variable. With it, one build breaks whichever rule
//! `CLAWHUB_MUTANT` names when the process starts, or none. A build without debug assertions is refused.
//! `chaos/prove` has a line for each: which test must fail, and with which words.
//!
//! Owns no state but the name, read once. A crash loses nothing here.

#[cfg(all(feature = "unsafe-mutants", not(debug_assertions)))]
compile_error!(
    "unsafe-mutants is for test builds: whoever sets an environment variable breaks a promise with it"
);

/// A rule, by what breaking it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Neither log nor blobs are fsynced.
    NoFsync,
    /// Receipts are given for blobs that are not fsynced.
    EarlyReceipts,
    /// Votes are answered before they are fsynced.
    UnsyncedVote,
    /// A barrier asks nobody.
    LocalReads,
    /// A leader confirms read positions to who has promised itself to another one.
    AnyLeader,
    /// A snapshot that was sent is taken in whatever its files and the state in them hash to.
    UncheckedFiles,
    /// A request is applied as often as it is in the log.
    NoSessionCheck,
    /// Receipts count that contradict what is known, or are of nobody that may hold copies.
    UncheckedReceipts,
    /// Receipts count that are older than their node's last deletion.
    IgnoredEpoch,
    /// Manifests may reference what their repository has not linked.
    UncheckedLinks,
    /// Conditions on tags always hold.
    UncheckedConditions,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 11] = [
        Mutant::NoFsync,
        Mutant::EarlyReceipts,
        Mutant::UnsyncedVote,
        Mutant::LocalReads,
        Mutant::AnyLeader,
        Mutant::UncheckedFiles,
        Mutant::NoSessionCheck,
        Mutant::UncheckedReceipts,
        Mutant::IgnoredEpoch,
        Mutant::UncheckedLinks,
        Mutant::UncheckedConditions,
    ];

    /// What `CLAWHUB_MUTANT` says for it.
    pub fn name(self) -> &'static str {
        match self {
            Mutant::NoFsync => "no-fsync",
            Mutant::EarlyReceipts => "early-receipts",
            Mutant::UnsyncedVote => "unsynced-vote",
            Mutant::LocalReads => "local-reads",
            Mutant::AnyLeader => "any-leader",
            Mutant::UncheckedFiles => "unchecked-files",
            Mutant::NoSessionCheck => "no-session-check",
            Mutant::UncheckedReceipts => "unchecked-receipts",
            Mutant::IgnoredEpoch => "ignored-epoch",
            Mutant::UncheckedLinks => "unchecked-links",
            Mutant::UncheckedConditions => "unchecked-conditions",
        }
    }

    /// Whether this process breaks the rule.
    #[cfg(not(feature = "unsafe-mutants"))]
    #[inline(always)]
    pub const fn breaks(self) -> bool {
        false
    }

    /// Whether this process breaks the rule.
    ///
    /// # Panics
    /// If `CLAWHUB_MUTANT` names no rule: a test that was to fail would prove nothing.
    #[cfg(feature = "unsafe-mutants")]
    pub fn breaks(self) -> bool {
        named() == Some(self)
    }
}

/// The rule that this process breaks, if it breaks one.
///
/// # Panics
/// As [`Mutant::breaks`].
pub fn named() -> Option<Mutant> {
    #[cfg(feature = "unsafe-mutants")]
    {
        static NAMED: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        *NAMED.get_or_init(|| {
            let name = std::env::var_os("CLAWHUB_MUTANT")?;
            let known = Mutant::ALL.into_iter().find(|mutant| name.to_str() == Some(mutant.name()));
            Some(known.unwrap_or_else(|| panic!("CLAWHUB_MUTANT={} names no rule", name.display())))
        })
    }
    #[cfg(not(feature = "unsafe-mutants"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "unsafe-mutants"))]
    fn nothing_is_broken_without_the_feature() {
        const { assert!(!Mutant::NoFsync.breaks()) };
        assert_eq!(named(), None);
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
    }
}
