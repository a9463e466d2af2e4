//! Bounds how many handshakes are under way at the same time, in total and from one address, since a handshake
//! costs work before anybody has proved anything. Counted in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::{HANDSHAKES, HANDSHAKES_PER_ADDRESS};

#[derive(Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Default)]
pub(crate) struct Handshakes(Mutex<Inside>);

/// The right to be inside; ends when dropped.
pub(crate) struct Pass {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    /// Lets one more in, unless that is too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut inside = self.0.lock();
        if inside.total >= HANDSHAKES {
            return None;
        }
        let here = inside.by_address.entry(address).or_default();
        if *here >= HANDSHAKES_PER_ADDRESS {
            return None;
        }
        *here += 1;
        inside.total += 1;
        Some(Pass { handshakes: self.clone(), address })
    }

    /// So many are inside that a newcomer should first prove that it is where it says it is.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.lock().total > HANDSHAKES / 8
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.handshakes.0.lock();
        inside.total -= 1;
        if let Some(here) = inside.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_fill_the_gate_and_all_together_cannot_overfill_it() {
        let handshakes = Arc::new(Handshakes::default());
        let from = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut inside: Vec<_> =
            (0..HANDSHAKES_PER_ADDRESS).map(|_| handshakes.enter(from(1)).unwrap()).collect();
        assert!(handshakes.enter(from(1)).is_none());
        assert!(handshakes.is_busy());
        for n in 2.. {
            match handshakes.enter(from(n)) {
                Some(pass) => inside.push(pass),
                None => break,
            }
        }
        assert_eq!(inside.len(), HANDSHAKES);
        inside.clear();
        assert!(handshakes.enter(from(1)).is_some() && !handshakes.is_busy());
        assert!(handshakes.0.lock().by_address.is_empty());
    }
}
