//! How often a network may show join tokens that this node does not know: each has it ask the cluster once, in case that
//! it is behind.
//!
//! Counted in memory, for as long as it matters; a restart begins anew.

use std::collections::HashMap;
use std::time::Duration;

use clawhub_types::Network;
use parking_lot::Mutex;
use tokio::time::Instant;

/// So many at once.
const BURST: u32 = 8;
/// And another one each time that so much has passed.
const PERIOD: Duration = Duration::from_secs(1);
/// Networks that are counted at the same time; nobody else may err meanwhile.
const NETWORKS: usize = 1024;

/// A bucket for each network that erred lately: when it will be as if it had not (the theoretical arrival time of the
/// generic cell rate algorithm, ITU-T I.371).
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<Network, Instant>>);

impl Attempts {
    /// Whether a network may err once more now; if so, it has.
    pub(crate) fn allow(&self, network: Network) -> bool {
        self.allow_at(network, Instant::now())
    }

    fn allow_at(&self, network: Network, now: Instant) -> bool {
        let mut all = self.0.lock();
        if all.len() >= NETWORKS {
            all.retain(|_, forgiven| *forgiven > now);
        }
        let known = all.get(&network).copied();
        if known.is_none() && all.len() >= NETWORKS {
            return false;
        }
        let forgiven = known.unwrap_or(now).max(now) + PERIOD;
        let allowed = forgiven <= now + PERIOD * BURST;
        if allowed {
            all.insert(network, forgiven);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(n: u16) -> Network {
        let [high, low] = n.to_be_bytes();
        IpAddr::from([10, 0, high, low]).into()
    }

    #[test]
    fn a_network_errs_so_often_at_once_and_then_at_its_pace() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let allowed =
            |after: Duration| (0..100).filter(|_| attempts.allow_at(network(1), now + after)).count();
        assert_eq!(allowed(Duration::ZERO), BURST as usize);
        assert_eq!(allowed(PERIOD - Duration::from_millis(1)), 0);
        assert_eq!(allowed(PERIOD * 3), 3);
        assert_eq!(allowed(PERIOD * 1000), BURST as usize, "no more than that is saved up");
        assert!(attempts.allow_at(network(2), now), "another one");
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..NETWORKS {
            assert!(attempts.allow_at(network(u16::try_from(n).unwrap()), now));
        }
        assert!(!attempts.allow_at(network(5000), now));
        assert!(attempts.allow_at(network(0), now), "who is counted already");
        assert!(attempts.allow_at(network(5000), now + PERIOD), "the others are forgiven");
        assert!(attempts.0.lock().len() <= NETWORKS);
    }
}
