//! `cluster.json`: where the nodes of a running development cluster are.

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;

use super::layout::Node;
use crate::table;

const NAME: &str = "cluster.json";

#[derive(Debug, Serialize)]
pub(super) struct Manifest {
    nodes: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    id: u64,
    region: String,
    zone: String,
    /// 0 while the process is dead.
    pid: u32,
    http: String,
    peer: String,
    data: String,
    config: String,
}

impl Manifest {
    /// Describes `nodes`, which got these `ids`, with no process yet.
    pub(super) fn new(nodes: &[Node], ids: Vec<u64>) -> Manifest {
        let entry = |(node, id): (&Node, u64)| Entry {
            name: node.name.clone(),
            id,
            region: node.region.clone(),
            zone: node.zone.clone(),
            pid: 0,
            http: node.http.to_string(),
            peer: node.peer.to_string(),
            data: node.data.display().to_string(),
            config: node.config.display().to_string(),
        };
        Manifest { nodes: nodes.iter().zip(ids).map(entry).collect() }
    }

    /// Notes the process of the node at place `at`.
    pub(super) fn set_pid(&mut self, at: usize, pid: Option<u32>) {
        self.nodes[at].pid = pid.unwrap_or(0);
    }

    /// Replaces the file in one step: a reader finds the old text or the new one, whole.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        clawhub_durable::replace(&folder.join(NAME), &text)
    }

    /// Removes the file, if there is one.
    pub(super) fn remove(folder: &Path) -> io::Result<()> {
        match std::fs::remove_file(folder.join(NAME)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The nodes as a table.
    pub(super) fn summary(&self) -> String {
        let rows: Vec<_> = self
            .nodes
            .iter()
            .map(|n| {
                let url = format!("http://{}", n.http);
                [n.name.clone(), n.id.to_string(), n.region.clone(), n.pid.to_string(), url]
            })
            .collect();
        table::render(["NODE", "ID", "REGION", "PID", "URL"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn manifest() -> Manifest {
        let node = |k: u8| Node {
            name: format!("node{k}"),
            region: format!("r{k}"),
            zone: "a".into(),
            http: ([127, 0, 0, 1], 5000).into(),
            peer: ([127, 0, 0, 1], 7000).into(),
            data: PathBuf::from("/d"),
            config: PathBuf::from("/c"),
        };
        Manifest::new(&[node(1), node(2)], vec![1, 2])
    }

    #[test]
    fn a_reader_never_sees_half_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        manifest.write(folder.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) || reads == 0 {
                    let text = std::fs::read(folder.path().join(NAME)).unwrap();
                    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    assert_eq!(value["nodes"].as_array().unwrap().len(), 2);
                    reads += 1;
                }
            });
            for pid in 0..50 {
                // Texts of different lengths, so that writing in place would show.
                manifest.set_pid(0, (pid % 2 == 0).then_some(1_000_000 + pid));
                manifest.write(folder.path()).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }

    #[test]
    fn the_file_has_the_promised_keys() {
        let folder = tempfile::tempdir().unwrap();
        manifest().write(folder.path()).unwrap();
        let text = std::fs::read(folder.path().join(NAME)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let node = value["nodes"][1].as_object().unwrap();
        let keys: Vec<_> = node.keys().map(String::as_str).collect();
        assert_eq!(keys, ["config", "data", "http", "id", "name", "peer", "pid", "region", "zone"]);
        Manifest::remove(folder.path()).unwrap();
        Manifest::remove(folder.path()).unwrap();
    }
}
