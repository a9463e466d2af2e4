//! Faults against real nodes, and whether the promises of `docs/durability.md` hold: what was acknowledged
//! stays, answers are true or honest about not knowing.
//!
//! Each file is one kind of fault. `cargo test` runs them small; `make prove` runs them in full and prints
//! what was seen. They share the machine's two cores badly, so one runs at a time.
#![expect(clippy::print_stdout, reason = "what a run measured belongs in its output")]

mod clock;
mod cutoff;
mod disks;
mod failover;
mod kills;
mod pauses;
mod power;
mod rollback;
mod snapshots;

use tokio::sync::{Mutex, MutexGuard};

/// Held by the one test that runs.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// What a line of the proof measured, for the table of `make prove`.
fn seen(line: &str, figure: &str) {
    println!("seen | {line} | {figure}");
}
