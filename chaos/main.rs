//! Faults against real nodes, and whether the promises of `docs/durability.md` hold: what was acknowledged
//! stays, answers are true or honest about not knowing.
//!
//! Each file is one kind of fault. `cargo test` runs them small; `make prove` runs them in full and prints
//! what was seen. Those of [`timed`] run one at a time.
#![expect(clippy::print_stdout, reason = "what a run measured belongs in its output")]

mod cache;
mod clients;
mod clock;
mod damage;
mod disks;
mod earth;
mod layouts;
mod lead;
mod overlap;
mod power;
mod pressure;
mod rollback;
mod rot;
mod snapshots;
mod timed;

use anyhow::{Result, ensure};
use clawhub_testkit::scale;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::const_new(());

/// Held by a test that measures times: it runs by itself.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().await
}

/// Held by a test that only needs an end: others of the kind may run beside it.
async fn beside() -> RwLockReadGuard<'static, ()> {
    TURNS.read().await
}

/// Says that this machine lacks what a line of the proof, or a part of it, needs. With `CLAWHUB_NO_SKIP=1` that
/// is a failure.
fn skipped(line: &str, why: &str) -> Result<()> {
    println!("NOT RUN | {line} | {why}");
    ensure!(scale("CLAWHUB_NO_SKIP", 0) == 0, "{line} was to be run, but {why}");
    Ok(())
}

/// What a line of the proof measured, for the table of `make prove`.
fn seen(line: &str, figure: &str) {
    println!("seen | {line} | {figure}");
}
