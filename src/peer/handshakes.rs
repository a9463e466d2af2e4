//! Bounds how many handshakes are under way at the same time, since a handshake costs work before anybody has proved
//! anything: in total, by where they come from, and with places that are kept for members. In memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use clawhub_policy::may_have_more;
use clawhub_types::Network;
use parking_lot::Mutex;

use crate::limits::{HANDSHAKES, MEMBERS_ADDRESSES, MEMBERS_HANDSHAKES};

/// Where members were when they were last here, or when this node was last there.
#[derive(Default)]
pub(crate) struct KnownAddresses(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// When each was last seen, counted in sightings.
    last: HashMap<IpAddr, u64>,
    sightings: u64,
}

impl KnownAddresses {
    /// Notes that a member is there: its certificate and the log said so.
    pub(crate) fn note(&self, address: IpAddr) {
        let mut known = self.0.lock();
        known.sightings += 1;
        let now = known.sightings;
        known.last.insert(address.to_canonical(), now);
        if known.last.len() > MEMBERS_ADDRESSES {
            let oldest = known.last.iter().min_by_key(|(_, last)| **last).map(|(address, _)| *address);
            oldest.and_then(|oldest| known.last.remove(&oldest));
        }
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.0.lock().last.contains_key(&address.to_canonical())
    }
}

#[derive(Default)]
struct Inside {
    total: usize,
    by_network: HashMap<Network, usize>,
    /// In the places that are kept for members.
    members: usize,
}

/// The handshakes under way on one socket.
pub(crate) struct Handshakes {
    inside: Mutex<Inside>,
    known: Arc<KnownAddresses>,
}

/// The right to be inside; ends when dropped.
pub(crate) struct Pass {
    handshakes: Arc<Handshakes>,
    /// `None` for a place that is kept for members.
    network: Option<Network>,
}

impl Handshakes {
    /// None under way.
    pub(crate) fn new(known: Arc<KnownAddresses>) -> Arc<Handshakes> {
        Arc::new(Handshakes { inside: Mutex::default(), known })
    }

    /// Lets one more in, unless that is too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let network = Network::from(address);
        let mut inside = self.inside.lock();
        let here = inside.by_network.get(&network).copied().unwrap_or(0);
        if may_have_more(here, HANDSHAKES - inside.total) {
            inside.total += 1;
            inside.by_network.insert(network, here + 1);
            return Some(Pass { handshakes: self.clone(), network: Some(network) });
        }
        if inside.members < MEMBERS_HANDSHAKES && self.known.knows(address) {
            inside.members += 1;
            return Some(Pass { handshakes: self.clone(), network: None });
        }
        None
    }

    /// So many are inside that a newcomer should first prove that it is where it says it is.
    pub(crate) fn is_busy(&self) -> bool {
        self.inside.lock().total > HANDSHAKES / 8
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.handshakes.inside.lock();
        let Some(network) = self.network else {
            inside.members -= 1;
            return;
        };
        inside.total -= 1;
        if let Some(here) = inside.by_network.get_mut(&network) {
            *here -= 1;
            if *here == 0 {
                inside.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    /// As many as get in from there.
    fn flood(handshakes: &Arc<Handshakes>, n: u8) -> Vec<Pass> {
        std::iter::from_fn(|| handshakes.enter(from(n))).collect()
    }

    #[test]
    fn one_address_cannot_fill_the_gate_and_all_together_cannot_overfill_it() {
        let handshakes = Handshakes::new(Arc::default());
        let first = flood(&handshakes, 1);
        assert!(first.len() < HANDSHAKES && handshakes.is_busy());
        let others: Vec<_> = (2..=255).flat_map(|n| flood(&handshakes, n)).collect();
        assert_eq!(first.len() + others.len(), HANDSHAKES);
        drop((first, others));
        assert!(handshakes.enter(from(1)).is_some() && !handshakes.is_busy());
        assert!(handshakes.inside.lock().by_network.is_empty());
    }

    #[test]
    fn members_come_back_whatever_strangers_do() {
        let known = Arc::new(KnownAddresses::default());
        let handshakes = Handshakes::new(known.clone());
        known.note(from(200));
        let _strangers: Vec<_> = (1..=100).flat_map(|n| flood(&handshakes, n)).collect();
        assert!(handshakes.enter(from(201)).is_none());
        let members = flood(&handshakes, 200);
        assert_eq!(members.len(), MEMBERS_HANDSHAKES);
        drop(members);
        assert!(handshakes.enter(from(200)).is_some());
    }

    #[test]
    fn only_so_many_addresses_are_remembered_the_last_ones() {
        let known = KnownAddresses::default();
        let address = |n: usize| IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
        for n in 0..=MEMBERS_ADDRESSES {
            known.note(address(0));
            known.note(address(n));
        }
        assert!(
            known.knows(address(0)) && known.knows(address(MEMBERS_ADDRESSES)) && !known.knows(address(1))
        );
    }
}
