//! What measures times, or is disturbed by whatever else the machine does: one at a time. Tests are run by name, so
//! these come last, when nobody else is left to wait for.

mod cutoff;
mod failover;
mod flood;
mod kills;
mod pauses;
