//! Everything the tests, the conformance runs, the client scripts and the benches share: real
//! `clawhub` processes on free ports, an OCI client that shows raw answers, images and manifests made
//! on the spot, a proxy that sends each request to the next node.
//!
//! Development only; nothing that ships depends on it. Processes belong to the value that started
//! them and are stopped, by id, when it is dropped.

pub mod cluster;
pub mod conformance;
pub mod content;
pub mod disk;
pub mod fleet;
pub mod fuse;
pub mod history;
pub mod image;
pub mod manifest;
pub mod net;
pub mod oci;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod rows;
pub mod wait;
pub mod wan;

pub use cluster::{Cluster, Node};
pub use oci::{Registry, Repo};
pub use wait::until;

use std::str::FromStr;

/// The value of the environment variable `name`, or `default` if it is unset. The scale of the long tests
/// is set this way, so that continuous integration runs them small.
///
/// # Panics
/// If it does not parse: a test that runs small by mistake would show what it has not measured.
pub fn scale<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var_os(name) {
        None => default,
        Some(text) => match text.to_str().and_then(|text| text.parse().ok()) {
            Some(value) => value,
            None => panic!("{name}={} is not a value that it can have", text.display()),
        },
    }
}
