//! Which members are alive, and what they say of themselves.
//!
//! A node asks every member twice a second whether it is there. The answer also says whether that member takes
//! copies, whom it reaches itself, whether its storage is sound enough to lead, and how its wall clock stands. This
//! crate keeps the last answer of each member and says for how long it counts. What follows from it, where a copy
//! goes and who should lead, is decided above.
//!
//! **State.** In memory only. A crash loses it, and the first round of questions brings it back.

mod clock;
mod exchange;
mod live;
mod report;

pub use live::{HEARTBEAT, Liveness};
pub use report::Report;
