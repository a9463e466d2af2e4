//! `clawhub dev --wan`: the nodes of the folder as if they were far from each other.
//!
//! A relay listens at the address that each node is known by, and the node at another one, with the same port: so
//! what the cluster's log says of its members holds with and without. The configuration of such a run is derived
//! anew at each start and lies beside the node's own, which stays as it is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use clawhub_relay::{Place, Relay, Shape};
use toml::{Table, Value};

use super::layout::Node;
use crate::Failure;

const NAME: &str = "wan.toml";

/// Puts a relay between the nodes: every way between two of them is like this. It ends when the relay is dropped.
///
/// # Errors
/// If an address cannot be had, a file not be read or written, or the nodes have not one loopback address each.
pub(super) fn between(nodes: &mut [Node], shape: Shape) -> Result<Relay, Failure> {
    let mut places = Vec::new();
    for (node, number) in nodes.iter_mut().zip(1..) {
        if !node.peer.ip().is_loopback() {
            return Err(Failure::usage(format!("--wan is for loopback, and {} is not there", node.name)));
        }
        let place = Place { advertised: node.peer, node: apart(number, node.peer) };
        derive(node, place)?;
        places.push(place);
    }
    let started = Relay::start(&places, |_, _| shape);
    started.map_err(|e| Failure::failed(format!("the relay of --wan cannot listen: {e}")))
}

/// An address of its own for the node of this number. `dev` has 16 at most.
fn apart(number: u8, peer: SocketAddr) -> SocketAddr {
    (Ipv4Addr::new(127, 1, 0, number), peer.port()).into()
}

/// Has the node start with a configuration that listens elsewhere than it says.
fn derive(node: &mut Node, place: Place) -> Result<(), Failure> {
    let mut config: Table = fs::read_to_string(&node.config)?
        .parse()
        .map_err(|e| Failure::failed(format!("{}: {e}", node.config.display())))?;
    let mut set = |section: &str, key: &str, value: String| {
        let section = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), Value::String(value));
        }
    };
    set("peer", "listen", place.node.to_string());
    set("peer", "advertise", place.advertised.to_string());
    set("raft", "profile", "wan".to_owned());
    let derived = node.config.with_file_name(NAME);
    fs::write(&derived, format!("# Written by `clawhub dev --wan` at each start.\n{config}"))?;
    node.config = derived;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clawhub_config::{Config, RaftProfile};

    use super::super::layout::prepare;
    use super::*;

    #[test]
    fn a_folder_is_near_and_far_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let near = prepare(folder.path(), Some(2), Some(0)).unwrap();
        let mut far = near.clone();
        let relay = between(&mut far, Shape::default()).unwrap();
        for (far, near) in far.iter().zip(&near) {
            let config = Config::load(&far.config).unwrap();
            assert_eq!(config.peer.advertise, Some(near.peer.to_string()));
            assert_ne!(config.peer.listen, near.peer);
            assert_eq!((config.peer.listen.port(), config.node.data), (near.peer.port(), near.data.clone()));
            assert_eq!(config.raft.profile, RaftProfile::Wan);
        }
        drop(relay);
        assert_eq!(prepare(folder.path(), None, None).unwrap(), near);
    }
}
