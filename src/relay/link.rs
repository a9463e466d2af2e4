//! One direction of a link: when what comes now arrives, or that it does not.
//!
//! Owns the link's shape, its generator of random numbers and when its wire is free again, in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Shape;
use crate::shape::OVERTAKEN;

/// How much may wait for a slow wire, as a router's memory: what comes then is lost, or not read.
const ROUTER: Duration = Duration::from_millis(100);
/// How long one connection has a slow wire to itself, and what it sends at least in that time: the others' packets come
/// in between.
const TURN: Duration = Duration::from_millis(10);
const TURN_LEAST: usize = 1500;
/// After so many losses in a row a piece of TCP gets through.
const LOSSES: u32 = 6;

/// What has passed a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Datagrams that came.
    pub datagrams: u64,
    /// Those of them that were lost, and pieces of TCP that were, once or more.
    pub lost: u64,
    /// Bytes that came, of both protocols.
    pub bytes: u64,
}

#[derive(Clone, Copy)]
struct State {
    shape: Shape,
    cut: bool,
}

pub(crate) struct Link {
    state: watch::Sender<State>,
    wire: Mutex<Wire>,
    datagrams: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
}

struct Wire {
    random: StdRng,
    /// When it has sent everything that it was given.
    free: Instant,
}

impl Wire {
    /// Sends so many bytes; when the last one has left.
    fn send(&mut self, rate: Option<u64>, bytes: usize, now: Instant) -> Instant {
        let Some(rate) = rate else { return now };
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.free = self.free.max(now) + takes;
        self.free
    }

    fn loses(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share)
    }

    /// How long it takes to the other end.
    fn flight(&mut self, shape: &Shape) -> Duration {
        if shape.jitter.is_zero() {
            return shape.delay;
        }
        (shape.delay + shape.jitter)
            .saturating_sub(2 * shape.jitter.mul_f64(self.random.random_range(0.0..1.0)))
    }
}

impl Link {
    pub(crate) fn new(shape: Shape, seed: u64) -> Link {
        Link {
            state: watch::Sender::new(State { shape, cut: false }),
            wire: Mutex::new(Wire { random: StdRng::seed_from_u64(seed), free: Instant::now() }),
            datagrams: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, shape: Shape) {
        self.state.send_modify(|state| state.shape = shape);
    }

    pub(crate) fn cut(&self, cut: bool) {
        self.state.send_modify(|state| state.cut = cut);
    }

    pub(crate) fn counted(&self) -> Counted {
        Counted {
            datagrams: self.datagrams.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// When a datagram that comes now arrives, and whether others may overtake it. `None` if it is lost.
    pub(crate) fn datagram(&self, bytes: usize, now: Instant) -> Option<(Instant, bool)> {
        let State { shape, cut } = *self.state.borrow();
        self.datagrams.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut wire = self.wire.lock();
        let full = wire.free > now + ROUTER;
        if cut || full || wire.loses(shape.loss) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let left = wire.send(shape.rate, bytes, now);
        let due = left + wire.flight(&shape);
        match shape.reorder > 0.0 && wire.random.random_bool(shape.reorder) {
            true => Some((due + OVERTAKEN, true)),
            false => Some((due, false)),
        }
    }

    /// Whether every datagram has the same fate, so that several may be handled as one.
    pub(crate) fn is_even(&self) -> bool {
        let State { shape, cut } = *self.state.borrow();
        !cut && shape.loss == 0.0 && shape.reorder == 0.0
    }

    /// Several datagrams that came in one go over an [even](Self::is_even) link.
    pub(crate) fn datagrams(&self, count: usize, bytes: usize, now: Instant) -> Option<Instant> {
        let due = self.datagram(bytes, now);
        let others = count.saturating_sub(1) as u64;
        self.datagrams.fetch_add(others, Ordering::Relaxed);
        if due.is_none() {
            self.lost.fetch_add(others, Ordering::Relaxed);
        }
        due.map(|(due, _)| due)
    }

    /// When a piece of a TCP stream that comes now arrives.
    pub(crate) fn piece(&self, bytes: usize, now: Instant) -> Instant {
        let shape = self.state.borrow().shape;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut wire = self.wire.lock();
        let mut due = wire.send(shape.rate, bytes, now) + wire.flight(&shape);
        let mut wait = shape.resend();
        for losses in 0..LOSSES {
            if !wire.loses(shape.loss) {
                break;
            }
            if losses == 0 {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            due += wait;
            wait *= 2;
        }
        due
    }

    /// How many bytes of one connection the wire takes in one go.
    pub(crate) fn at_once(&self) -> usize {
        let rate = self.state.borrow().shape.rate;
        let turn = |rate: u64| (rate as f64 * TURN.as_secs_f64()) as usize;
        rate.map_or(usize::MAX, |rate| turn(rate).max(TURN_LEAST))
    }

    /// Waits until the wire takes more.
    pub(crate) async fn room(&self) {
        let free = self.wire.lock().free;
        if let Some(from) = free.checked_sub(ROUTER).filter(|from| *from > Instant::now()) {
            sleep_until(from).await;
        }
    }

    /// Waits while the link is cut; then until a kernel tries again.
    pub(crate) async fn whole(&self) {
        let mut state = self.state.subscribe();
        if !state.borrow().cut {
            return;
        }
        // An error means that the link is gone, and with it whoever waits.
        let _ = state.wait_for(|state| !state.cut).await;
        let resend = self.state.borrow().shape.resend();
        sleep(resend).await;
    }
}
