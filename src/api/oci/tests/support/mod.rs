//! A cluster of one node in this process: a real state machine, blob store and peer endpoint, with the
//! metadata in memory.

#![allow(dead_code, unused_imports, reason = "each test file uses its part of this")]

mod client;
mod cluster;

pub(crate) use client::{Answer, Client, sha256};
pub(crate) use cluster::Cluster;
