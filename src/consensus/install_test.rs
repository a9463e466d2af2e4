//! The whole way of a snapshot on real stores, cut at every moment of it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, process};

use bytes::Bytes;
use clawhub_kv::{Kv, RocksKv, RocksProfile};
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_state::{LogItem, LogPos, Payload};
use clawhub_types::{ClusterId, Durability, Location, Roles};
use futures::stream::{self, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use tempfile::TempDir;

use super::*;
use crate::Execution;
use crate::announced::announced;
use crate::propose::system_entry;
use crate::receive::{Incoming, NotTaken, discard, sweep};
use crate::record;
use crate::store::Purpose;
use crate::transport::{Ballot, SnapshotHeader, SnapshotPart};

/// Set for the child that is to die: its directory, and what it dies of seeing.
const CHILD: &str = "CLAWHUB_INSTALL_TEST";
/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 4 << 10;

/// Every moment of the way, by what can be seen then. `2` is the state that comes, `tmp-0` its snapshot.
const MOMENTS: [&str; 13] = [
    "incoming",
    "incoming/data",
    "incoming/MANIFEST",
    "incoming/part",
    "incoming/data/CURRENT",
    "incoming/data/OPTIONS",
    "2",
    "2/CURRENT",
    "NEXT",
    "snapshots/tmp-0",
    "snapshots/tmp-0/MANIFEST",
    "snapshots/1-1-",
    "gone:NEXT",
];

fn rocks(dir: &Path, purpose: Purpose) -> Result<Arc<dyn Kv>, KvError> {
    let profile = match purpose {
        Purpose::Serve => RocksProfile::State,
        Purpose::Check => RocksProfile::Check,
    };
    Ok(Arc::new(RocksKv::open(dir, profile)?))
}

fn init() -> ClusterCmd {
    let node = NodeSpec {
        name: "n1".into(),
        location: Location { region: "r".into(), zone: "z".into() },
        roles: Roles { voter: true, storage: true },
        peer_addr: String::new(),
        http_addr: String::new(),
        spki: [1; 32],
    };
    let (ca_cert, ca_key_sealed) = (vec![], vec![]);
    ClusterCmd::Init {
        cluster: ClusterId([1; 16]),
        ca_cert,
        ca_key_sealed,
        durability: Durability::Local,
        node,
    }
}

/// Applies so many entries to an empty or older state. Each entry leaves a row.
fn apply(kv: &Arc<dyn Kv>, entries: u64) {
    let mut machine = Machine::open(Arc::clone(kv)).unwrap();
    let from = machine.applied().unwrap().0.map_or(0, |pos| pos.index + 1);
    let item = |index: u64| {
        let token =
            || ClusterCmd::TokenCreate { hash: *blake3::hash(&index.to_be_bytes()).as_bytes(), ttl: 1_000 };
        let cmd = if index == 0 { init() } else { token() };
        LogItem { pos: LogPos { term: 1, node: 1, index }, payload: Payload::Entry(system_entry(cmd)) }
    };
    let items: Vec<_> = (from..from + entries).map(item).collect();
    for outcome in machine.apply(&items).unwrap() {
        outcome.unwrap().unwrap();
    }
}

/// A node with a little state, and another one whose snapshot of more consists of several tables.
struct Two {
    dir: TempDir,
}

impl Two {
    fn new() -> Two {
        let two = Two { dir: tempfile::tempdir().unwrap() };
        apply(&StateStore::open(two.node(), rocks).unwrap().kv(), 10);
        let leader = StateStore::open(two.leader(), rocks).unwrap();
        let snapshots = Snapshots::open(&two.leader()).unwrap();
        for _ in 0..3 {
            apply(&leader.kv(), 200);
            two.snapshot(&leader, &snapshots);
        }
        two
    }

    fn node(&self) -> std::path::PathBuf {
        self.dir.path().join("node")
    }

    fn leader(&self) -> std::path::PathBuf {
        self.dir.path().join("leader")
    }

    fn snapshot(&self, leader: &StateStore, snapshots: &Snapshots) {
        let position = applied(&Machine::open(leader.kv()).unwrap()).unwrap();
        let staged = snapshots.stage(&*leader.kv(), position.0, position.1).unwrap();
        snapshots.publish(snapshots.seal(staged, None).unwrap(), false).unwrap();
    }
}

fn header(manifest: &record::Manifest) -> SnapshotHeader {
    let meta = record::encode_manifest(&record::Manifest { files: vec![], ..manifest.clone() });
    let vote = Ballot { term: 1, node: 1, committed: true };
    SnapshotHeader { vote, meta: meta.into(), files: manifest.files.clone(), transfer: true }
}

/// The files of a snapshot that are missing, in pieces.
fn parts(files: &SnapshotFiles, held: &[u32]) -> Vec<SnapshotPart> {
    let mut parts = Vec::new();
    for (file, entry) in (0..).zip(&files.manifest().files).filter(|(file, _)| !held.contains(file)) {
        let bytes = fs::read(files.data().join(&entry.name)).unwrap();
        let mut offset = 0;
        for piece in bytes.chunks(PIECE) {
            parts.push(SnapshotPart::Data { file, offset, bytes: Bytes::copy_from_slice(piece) });
            offset += piece.len() as u64;
        }
        if bytes.is_empty() {
            parts.push(SnapshotPart::Data { file, offset, bytes: Bytes::new() });
        }
    }
    parts
}

/// What [`crate::arrival`] does, openraft left out. Answers how many files were there before.
fn attempt(node: &Path, leader: &Path) -> Result<usize, NotTaken> {
    let store = StateStore::open(node, rocks)?;
    let snapshots = Snapshots::open(node)?;
    let files = Snapshots::open(leader)?.current().unwrap();
    let incoming = Incoming::open(node, announced(&header(files.manifest()))?, 0)?;
    let held = incoming.held();
    let sent = stream::iter(parts(&files, &held)).boxed();
    let received = TokioRuntime::run(incoming.receive::<TokioRuntime>(Execution::Inline, sent))?;
    let arrived = make_ready(&store, &snapshots, &received).map_err(|unsound| match unsound {
        Unsound::Damaged(what) | Unsound::Unclear(what) => NotTaken::Damaged(what),
        Unsound::Io(e) => NotTaken::Io(e),
    })?;
    let arrived = Arc::new(SnapshotFiles::arrived(arrived));
    drop(install(&store, &snapshots, &arrived.meta(), &arrived)?);
    discard(node)?;
    store.sweep();
    Ok(held.len())
}

/// The index of a state that is whole.
fn whole(node: &Path) -> u64 {
    let store = StateStore::open(node, rocks).unwrap();
    let kv = store.kv();
    let (index, hash) = View::new(&*kv).state_hash().unwrap();
    assert_eq!(View::new(&*kv).compute_state_hash().unwrap(), hash);
    index
}

/// Nothing is left but the new state and its snapshot.
fn only_the_new_state(node: &Path) {
    assert_eq!(whole(node), 599);
    let names = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let all = names(node);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!((&*all[1], &*all[2]), ("CURRENT", "snapshots"));
    assert_eq!(names(&node.join("snapshots")), ["1-1-599"]);
}

/// Whether a moment has come: a name appeared, or one went that was there.
fn is_there(node: &Path, moment: &str, before: &AtomicBool) -> bool {
    let (name, gone) = moment.strip_prefix("gone:").map_or((moment, false), |name| (name, true));
    let path = node.join(name);
    let (dir, start) = (path.parent().unwrap(), path.file_name().unwrap().to_string_lossy().into_owned());
    let mut names = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = names.any(|e| e.file_name().to_string_lossy().starts_with(&start));
    if gone { before.fetch_or(found, Ordering::Relaxed) && !found } else { found }
}

/// Only as a child of the test below: dies at a moment of the real way, as by `kill -9`.
#[test]
fn child_dies_on_the_way() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (dir, moment) = told.split_once('=').unwrap();
    let (dir, moment) = (Path::new(dir).to_owned(), moment.to_owned());
    let node = dir.join("node");
    thread::spawn(move || {
        let before = AtomicBool::new(false);
        loop {
            if is_there(&node, &moment, &before) {
                process::abort();
            }
        }
    });
    attempt(&dir.join("node"), &dir.join("leader")).unwrap();
    panic!("the moment went by");
}

#[test]
fn a_kill_at_any_moment_leaves_a_node_that_can_be_sent_the_same_again() {
    for moment in MOMENTS {
        let two = killed_at(moment);
        let index = whole(&two.node());
        assert!(index == 9 || index == 599, "{moment}: {index}");
        if index == 9 {
            let held = attempt(&two.node(), &two.leader()).unwrap();
            let files = Snapshots::open(&two.leader()).unwrap().current().unwrap().manifest().files.len();
            let arrived = MOMENTS.iter().position(|m| *m == moment).unwrap() >= 6;
            assert!(held == files || !arrived, "{moment}: {held} of {files} files need not come again");
        } else {
            sweep(&two.node(), index).unwrap();
            drop(Snapshots::open(&two.node()).unwrap());
        }
        only_the_new_state(&two.node());
    }
}

/// A node that a child left as it died at that moment. A busy machine may let the moment go by.
#[expect(clippy::disallowed_methods, reason = "a real process is waited for")]
fn killed_at(moment: &str) -> Two {
    for _ in 0..20 {
        let two = Two::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "install::tests::child_dies_on_the_way"])
            .env(CHILD, format!("{}={moment}", two.dir.path().display()))
            .stdout(process::Stdio::null())
            .stderr(process::Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < until, "{moment}: the child hangs"),
            }
            thread::yield_now();
        };
        if status.code().is_none() {
            return two;
        }
    }
    panic!("{moment}: the child was not killed");
}

#[test]
fn a_refusal_of_the_file_system_leaves_a_node_that_can_be_sent_the_same_again() {
    let two = Two::new();
    // The file is written anew under this name, which is a directory's.
    let obstacle = two.node().join("NEXT.tmp");
    fs::create_dir(&obstacle).unwrap();
    let refused = attempt(&two.node(), &two.leader());
    assert!(matches!(refused, Err(NotTaken::Io(_))), "{:?}", refused.err());
    assert_eq!(whole(&two.node()), 9);
    assert!(!two.node().join("2").exists());
    fs::remove_dir(&obstacle).unwrap();
    assert!(attempt(&two.node(), &two.leader()).unwrap() > 0, "what arrived is kept");
    only_the_new_state(&two.node());
}

#[test]
fn rot_of_the_sender_is_found_before_it_is_in_force() {
    let two = Two::new();
    let leader = StateStore::open(two.leader(), rocks).unwrap();
    let table = fs::read_dir(two.leader().join("1")).unwrap().map(|e| e.unwrap().path());
    let table = table.filter(|path| clawhub_kv::is_table(path.file_name().unwrap())).min().unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[700] ^= 0x10;
    fs::write(&table, &bytes).unwrap();
    // Opened anew: what was seen of the tables before does not count, and the rot is hashed as it is.
    fs::remove_dir_all(two.leader().join("snapshots")).unwrap();
    let snapshots = Snapshots::open(&two.leader()).unwrap();
    two.snapshot(&leader, &snapshots);
    drop((leader, snapshots));
    let refused = attempt(&two.node(), &two.leader());
    assert!(matches!(refused, Err(NotTaken::Damaged(_))), "{:?}", refused.err());
    assert_eq!(whole(&two.node()), 9);
    assert!(!two.node().join("2").exists());
}

#[test]
fn a_state_that_lost_a_row_does_not_add_up() {
    let two = Two::new();
    let leader = StateStore::open(two.leader(), rocks).unwrap();
    let mut lost = clawhub_kv::Batch::default();
    let rows = leader.kv().scan(b"", &[0xff], usize::MAX).unwrap();
    lost.delete(rows[rows.len() / 2].0.clone());
    leader.kv().write(lost).unwrap();
    let snapshots = Snapshots::open(&two.leader()).unwrap();
    apply(&leader.kv(), 1);
    two.snapshot(&leader, &snapshots);
    drop((leader, snapshots));
    let refused = attempt(&two.node(), &two.leader()).unwrap_err();
    assert!(refused.to_string().contains("do not add up"), "{refused}");
}
