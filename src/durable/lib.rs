//! What several crates need to keep something on a disk: files that are replaced whole, names that outlive a
//! power cut, blocking work beside a runtime, and the wall clock.
//!
//! The crate owns no state and no file; a crash loses nothing of its own. It is the only place that leaves
//! fsyncs out if a test build is told to (see [`promised`]).

mod clock;
mod files;
pub mod promised;
#[cfg(feature = "tokio")]
pub mod task;

pub use clock::now_millis;
pub use files::{copy_dir, create_dir, move_dir, parent, remove_dir, remove_file, rename, replace, sync_dir};
