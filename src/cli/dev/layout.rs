//! What the folder of a development cluster holds, and how a new one is laid out.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clawhub_config::Config;
use clawhub_types::Durability;

use super::ports;
use crate::Failure;

/// Nodes of a cluster that nobody gave a number.
const DEFAULT_NODES: u16 = 3;
/// HTTP port of the first node of a cluster that nobody gave one.
const DEFAULT_HTTP: u16 = 5000;

/// One node of the cluster, as its configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) data: PathBuf,
    pub(super) config: PathBuf,
}

impl Node {
    pub(super) fn socket(&self) -> PathBuf {
        self.data.join("admin.sock")
    }
}

/// Lays the folder out, or reads how it was laid out: an existing configuration stays as it is, unless
/// other HTTP ports are asked for than it has.
pub(super) fn prepare(folder: &Path, nodes: Option<u16>, http: Option<u16>) -> Result<Vec<Node>, Failure> {
    let known = (1..).take_while(|k| config_path(folder, *k).exists()).count();
    let known = u16::try_from(known).map_err(|_| Failure::failed("too many nodes in the folder"))?;
    let wanted = nodes.unwrap_or(if known == 0 { DEFAULT_NODES } else { known });
    if wanted < known {
        return Err(Failure::usage(format!(
            "{} holds a cluster of {known} nodes; give --nodes {known} or more",
            folder.display()
        )));
    }
    let mut all = (1..=known).map(|k| read(folder, k)).collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = http.filter(|port| *port != 0) {
        for (node, port) in all.iter_mut().zip(consecutive(first, known)?) {
            if node.http.port() != port {
                node.http.set_port(port);
                write(node, wanted)?;
            }
        }
    }
    let added = wanted - known;
    if added > 0 {
        let last = all.last().map(|node| node.http.port());
        let http = match (http, last) {
            (Some(0), _) => HttpPorts::Free,
            (None, Some(last)) => HttpPorts::From(last.saturating_add(1)),
            (first, _) => HttpPorts::From(first.unwrap_or(DEFAULT_HTTP).saturating_add(known)),
        };
        for node in lay_out(folder, known + 1, added, http)? {
            write(&node, wanted)?;
            all.push(node);
        }
    }
    Ok(all)
}

/// Where HTTP ports of new nodes come from.
enum HttpPorts {
    Free,
    From(u16),
}

fn consecutive(first: u16, count: u16) -> Result<Vec<u16>, Failure> {
    (0..count)
        .map(|k| first.checked_add(k))
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::usage(format!("there are no {count} ports from {first} on")))
}

/// `count` new nodes from number `first` on.
fn lay_out(folder: &Path, first: u16, count: u16, http: HttpPorts) -> Result<Vec<Node>, Failure> {
    // Held until all are chosen, so that peers and HTTP do not get the same one.
    let mut held = ports::free(count)?;
    let peer: Vec<_> = held.iter().map(|port| port.number).collect();
    let http = match http {
        HttpPorts::From(first) => {
            let wanted = consecutive(first, count)?;
            if let Some(taken) = wanted.iter().find(|port| peer.contains(port)) {
                return Err(Failure::failed(format!("port {taken} was chosen for peers; try again")));
            }
            wanted
        }
        HttpPorts::Free => {
            held.extend(ports::free(count)?);
            held[usize::from(count)..].iter().map(|port| port.number).collect()
        }
    };
    let nodes = peer.into_iter().zip(http).zip(first..);
    Ok(nodes.map(|((peer, http), k)| new_node(folder, k, peer, http)).collect())
}

fn new_node(folder: &Path, k: u16, peer: u16, http: u16) -> Node {
    let home = home(folder, k);
    Node {
        name: format!("node{k}"),
        region: format!("r{k}"),
        zone: "a".into(),
        http: SocketAddr::from(([127, 0, 0, 1], http)),
        peer: SocketAddr::from(([127, 0, 0, 1], peer)),
        data: home.join("data"),
        config: home.join("config.toml"),
    }
}

fn home(folder: &Path, k: u16) -> PathBuf {
    folder.join(format!("node{k}"))
}

fn config_path(folder: &Path, k: u16) -> PathBuf {
    home(folder, k).join("config.toml")
}

fn write(node: &Node, nodes: u16) -> Result<(), Failure> {
    let Some(home) = node.config.parent() else {
        return Err(Failure::failed("a configuration without a folder"));
    };
    DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    std::fs::write(&node.config, text(node, nodes))?;
    Ok(())
}

/// What so many nodes can keep: in two zones there is no majority without either.
pub(super) fn durability(nodes: usize) -> Durability {
    if nodes < 3 { Durability::Local } else { Durability::Zone }
}

/// The configuration of a node in a cluster of `nodes`.
fn text(node: &Node, nodes: u16) -> String {
    let durability = durability(nodes.into());
    format!(
        "# Written by `clawhub dev`, which keeps what is changed here.\n\
         [node]\n\
         name = \"{}\"\n\
         region = \"{}\"\n\
         zone = \"{}\"\n\
         data = \"data\"\n\
         \n\
         [http]\n\
         listen = \"{}\"\n\
         \n\
         [peer]\n\
         listen = \"{}\"\n\
         \n\
         [raft]\n\
         profile = \"lan\"\n\
         \n\
         [storage]\n\
         durability = \"{durability}\"\n\
         min_free = \"256MiB\"\n",
        node.name, node.region, node.zone, node.http, node.peer
    )
}

fn read(folder: &Path, k: u16) -> Result<Node, Failure> {
    let config = config_path(folder, k);
    let Config { node, http, peer, .. } = Config::load(&config)?;
    Ok(Node {
        name: node.name,
        region: node.location.region,
        zone: node.location.zone,
        http: http.listen,
        peer: peer.listen,
        data: node.data,
        config,
    })
}

/// Makes sure that the nodes can listen for clients where they are to.
///
/// # Errors
/// Names the first port that somebody else has.
pub(super) fn check_http(nodes: &[Node]) -> Result<(), Failure> {
    let taken = |node: &&Node| TcpListener::bind(node.http).is_err_and(|e| e.kind() == ErrorKind::AddrInUse);
    match nodes.iter().find(taken) {
        Some(node) => Err(Failure::failed(format!(
            "{}, where {} is to listen, is in use: choose other ports with --http-port",
            node.http, node.name
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_layout() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(folder.path(), None, Some(0)).unwrap();
        assert_eq!(first.len(), 3);
        assert_eq!(first[2].region, "r3");
        assert_eq!(first[1].data, folder.path().join("node2/data"));
        let ports: Vec<_> = first.iter().map(|node| node.http.port()).collect();
        assert_eq!(ports, [ports[0], ports[0] + 1, ports[0] + 2]);
        assert_eq!(prepare(folder.path(), None, None).unwrap(), first);
        assert_eq!(prepare(folder.path(), Some(3), Some(0)).unwrap(), first);
    }

    #[test]
    fn a_folder_grows_and_does_not_shrink() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(folder.path(), Some(2), Some(0)).unwrap();
        assert!(std::fs::read_to_string(&first[1].config).unwrap().contains("durability = \"local\""));
        let grown = prepare(folder.path(), Some(3), Some(0)).unwrap();
        assert_eq!(grown[..2], first);
        assert_eq!(grown.len(), 3);
        assert!(std::fs::read_to_string(&grown[2].config).unwrap().contains("durability = \"zone\""));
        assert!(prepare(folder.path(), Some(2), None).is_err());
    }

    #[test]
    fn other_http_ports_replace_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(folder.path(), Some(2), Some(0)).unwrap();
        let moved = prepare(folder.path(), None, Some(4000)).unwrap();
        assert_eq!(moved.iter().map(|node| node.http.port()).collect::<Vec<_>>(), [4000, 4001]);
        assert_eq!(moved[1].peer, first[1].peer);
        assert_eq!(prepare(folder.path(), None, None).unwrap(), moved);
        assert!(prepare(folder.path(), None, Some(65_535)).is_err());
    }
}
