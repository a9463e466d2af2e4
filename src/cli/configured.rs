//! The few settings of a node's configuration file that commands need. The node checks all of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Failure;

/// Where a node is and how it is reached on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) zone: String,
    /// Relative paths in the file count from the file's folder, as they do for the node.
    pub(crate) data: PathBuf,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
}

#[derive(Deserialize)]
struct File {
    node: Node,
    #[serde(default)]
    http: Listener,
    #[serde(default)]
    peer: Listener,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    region: String,
    zone: String,
    data: PathBuf,
}

#[derive(Default, Deserialize)]
struct Listener {
    listen: Option<SocketAddr>,
}

/// Reads the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Configured, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::usage(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let File { node, http, peer } = toml::from_str(&text).map_err(|e| wrong(&e))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(Configured {
        name: node.name,
        region: node.region,
        zone: node.zone,
        data: folder.join(node.data),
        http: http.listen,
        peer: peer.listen,
    })
}
