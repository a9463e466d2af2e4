//! Endpoints on real sockets: members that talk to each other, and those that must not.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod common;
mod far;
mod members;
mod revoked;
mod rotation;
mod strangers;
