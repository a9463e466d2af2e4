//! The protocol, on every node of a cluster that the tests share: each leaves the nodes as it found them. The few that do
//! not have nodes of their own.

mod conditional;
mod errors;
mod manifests;
mod push_pull;
mod ranges;
mod referrers;
mod uploads;
