//! Nodes that are far from each other: every directed link between two of them passes a relay on this machine, with
//! delay, jitter, loss and rate, and can be cut. See [`clawhub_relay`] for what is like the earth and what is not.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clawhub_relay::Relay;

pub use clawhub_relay::{Place, Shape};

/// The environment variable that puts the nodes of a run apart: `CLAWHUB_WAN=80ms`, or `400ms~80ms,1gbit,1%`.
pub const ASKED: &str = "CLAWHUB_WAN";

/// How far apart the nodes shall be; `None` if nothing is asked for.
///
/// # Panics
/// If the variable does not parse: a test that runs near by mistake would show what it has not measured.
pub fn asked_for() -> Option<Shape> {
    std::env::var_os(ASKED).map(|_| crate::scale(ASKED, Shape::default()))
}

/// How long writes and barriers wait for a leader: that of the profile that the nodes run with.
pub fn wait() -> Duration {
    Duration::from_secs(if asked_for().is_some() { 8 } else { 3 })
}

/// A time that a test allows, with the profile that the nodes run with: as it is near, and longer far apart.
pub fn allowed(near: Duration) -> Duration {
    near * if asked_for().is_some() { 4 } else { 1 }
}

/// The links between nodes that are far from each other.
pub struct Wan {
    relay: Relay,
    nodes: usize,
}

impl Wan {
    /// Puts every two of these nodes apart.
    ///
    /// # Errors
    /// If an address cannot be had.
    pub fn start(places: &[Place], shape: Shape) -> Result<Wan> {
        let relay = Relay::start(places, |_, _| shape).context("the relay between the nodes")?;
        Ok(Wan { relay, nodes: places.len() })
    }

    /// What the links do, and what has passed them.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// From now on a node hears nothing from another; what it says still gets there.
    pub fn deafen(&self, node: usize, from: usize) {
        self.relay.cut(from, node);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.deafen(node, other);
            self.deafen(other, node);
        }
    }

    /// Makes every link whole again.
    pub fn heal(&self) {
        self.relay.heal();
    }
}
