//! What only RocksDB can show: crashes, corruption, files.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::is_table;

/// Set for the child of [`a_killed_process_loses_no_write`]: where it writes.
const CHILD: &str = "CLAWHUB_KV_TEST_DIR";

fn put(kv: &RocksKv, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(key, value);
    kv.write(batch).unwrap();
}

/// The newest write-ahead log.
fn wal(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

/// A copy of an open store's files: what a crash of the machine leaves, if everything reached the device.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// One bit of a file goes bad.
fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// An open store whose log ends in a write that nobody has synced.
struct Unsynced {
    dir: tempfile::TempDir,
    live: PathBuf,
    /// Open until the end: no crash closes a store.
    _kv: RocksKv,
    /// How long the log was when it held what is synced and no more.
    durable: u64,
}

impl Unsynced {
    fn new(profile: RocksProfile, torn: usize) -> Unsynced {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let kv = RocksKv::open(&live, profile).unwrap();
        put(&kv, b"synced", &[1; 1000]);
        kv.sync().unwrap();
        let durable = fs::metadata(wal(&live)).unwrap().len();
        put(&kv, b"torn", &vec![2; torn]);
        Unsynced { dir, live, _kv: kv, durable }
    }

    /// What a crash leaves of it.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy(&self.live, &to);
        to
    }
}

/// Opens a store after a crash: what was synced is there, and nothing of what was not.
fn recovered(dir: &Path, profile: RocksProfile) -> RocksKv {
    let kv = RocksKv::open(dir, profile).unwrap();
    assert_eq!(kv.get(b"synced").unwrap().unwrap(), [1; 1000], "{profile:?}, {}", dir.display());
    assert_eq!(kv.get(b"torn").unwrap(), None);
    kv
}

fn rejected(dir: &Path, profile: RocksProfile) -> KvError {
    match RocksKv::open(dir, profile) {
        Ok(_) => panic!("{} opened", dir.display()),
        Err(e) => e,
    }
}

#[test]
fn the_shared_suite_passes() {
    for profile in [RocksProfile::Raft, RocksProfile::State, RocksProfile::Local] {
        let dirs = tempfile::tempdir().unwrap();
        let made = std::cell::Cell::new(0);
        crate::suite::run(
            || {
                made.set(made.get() + 1);
                Box::new(RocksKv::open(&dirs.path().join(made.get().to_string()), profile).unwrap())
            },
            |dir| {
                // Opening creates; a checkpoint must be there already.
                fs::metadata(dir).map_err(KvError::io("checkpoint"))?;
                RocksKv::open(dir, profile).map(|kv| Box::new(kv) as Box<dyn Kv>)
            },
        );
    }
}

#[test]
fn a_store_reopens_with_its_data_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a/b/db");
    let kv = RocksKv::open(&at, RocksProfile::State).unwrap();
    put(&kv, b"k", b"v");
    let error = RocksKv::open(&at, RocksProfile::State).err().expect("one handle per directory");
    assert!(!error.is_corrupt(), "{error}");
    drop(kv);
    let kv = RocksKv::open(&at, RocksProfile::State).unwrap();
    assert_eq!(kv.get(b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_torn_tail_is_forgiven_and_what_was_synced_is_there() {
    for profile in [RocksProfile::Raft, RocksProfile::State, RocksProfile::Local] {
        let crashed = Unsynced::new(profile, 1000);
        let durable = crashed.durable;
        let all = fs::metadata(wal(&crashed.live)).unwrap().len();
        assert!(all > durable + 1000);

        for keep in [durable, durable + 3, durable + 500, all - 1] {
            let torn = crashed.copy(&format!("cut-at-{keep}"));
            File::options().write(true).open(wal(&torn)).unwrap().set_len(keep).unwrap();
            recovered(&torn, profile);
        }
    }
}

/// The new length of the log was durable and its last pages were not.
fn lose_last_pages(dir: &Path, from: u64) -> u64 {
    let log = wal(dir);
    let length = fs::metadata(&log).unwrap().len();
    let file = File::options().write(true).open(&log).unwrap();
    file.set_len(from).unwrap();
    file.set_len(length).unwrap();
    length
}

#[test]
fn a_log_that_ends_in_zeros_is_a_torn_tail_and_nothing_more() {
    for profile in [RocksProfile::Raft, RocksProfile::Local] {
        let crashed = Unsynced::new(profile, 9000);
        for from in [4096, 8192] {
            assert!(from > crashed.durable);
            let cut = crashed.copy(&format!("zeros-from-{from}"));
            lose_last_pages(&cut, from);
            put(&recovered(&cut, profile), b"after", b"it goes on");
        }

        let rotten = crashed.copy("rotten");
        let length = lose_last_pages(&rotten, 8192);
        let log = wal(&rotten);
        flip(&log, 500);
        rejected(&rotten, profile);
        assert_eq!(fs::metadata(&log).unwrap().len(), length, "left as it was found");
    }
}

#[test]
fn rot_in_the_middle_of_the_log_is_corruption_where_others_rely_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let kv = RocksKv::open(&live, RocksProfile::Raft).unwrap();
    for n in 0..100_u8 {
        put(&kv, &[n], &[n; 1000]);
    }
    kv.sync().unwrap();
    let rotten = dir.path().join("rotten");
    copy(&live, &rotten);
    flip(&wal(&rotten), 20_000);
    let error = rejected(&rotten, RocksProfile::Raft).to_string();
    assert!(error.contains("corrupt"), "{error}");
    assert!(error.contains("rotten"), "{error}");
    assert!(rejected(&rotten, RocksProfile::Raft).is_corrupt());
}

#[test]
fn damaged_files_are_refused_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let kv = RocksKv::open(&dir.path().join("live"), RocksProfile::Raft).unwrap();
    put(&kv, b"vote", b"7");
    kv.checkpoint(&good).unwrap();

    let beheaded = dir.path().join("beheaded");
    copy(&good, &beheaded);
    fs::remove_file(beheaded.join("CURRENT")).unwrap();
    assert!(rejected(&beheaded, RocksProfile::Raft).message.contains("corrupt"));

    for (name, kind) in [("manifest", "MANIFEST"), ("table", ".sst")] {
        let damaged = dir.path().join(name);
        copy(&good, &damaged);
        let names = fs::read_dir(&damaged).unwrap().map(|e| e.unwrap().path());
        let victim = names.into_iter().find(|p| p.to_string_lossy().contains(kind)).unwrap();
        let length = fs::metadata(&victim).unwrap().len();
        File::options().write(true).open(&victim).unwrap().set_len(length / 2).unwrap();
        assert!(rejected(&damaged, RocksProfile::Raft).message.contains("corrupt"), "{name}");
    }
}

#[test]
fn a_flipped_bit_in_a_table_is_an_error_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("copy");
    let kv = RocksKv::open(&dir.path().join("live"), RocksProfile::State).unwrap();
    put(&kv, b"key", b"value");
    kv.checkpoint(&at).unwrap();
    let table = fs::read_dir(&at).unwrap().map(|e| e.unwrap().path());
    let table = table.into_iter().find(|p| p.extension().is_some_and(|e| e == "sst")).unwrap();
    flip(&table, 10);
    let kv = RocksKv::open(&at, RocksProfile::State).unwrap();
    let error = kv.get(b"key").unwrap_err();
    assert!(error.message.contains("corrupt") && error.is_corrupt(), "{error}");
    assert!(kv.scan(b"", b"z", 9).is_err());
    assert!(kv.last(b"", b"z").is_err());
}

/// The child's part: writes numbers until it is killed, telling each after it was written.
#[test]
fn child_writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let kv = RocksKv::open(Path::new(&dir), RocksProfile::Raft).unwrap();
    let mut out = std::io::stdout().lock();
    for n in 0_u64.. {
        put(&kv, &n.to_be_bytes(), &[0xab; 700]);
        writeln!(out, "\nwrote {n}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_no_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rocks::tests::child_writes_until_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(n) = line.unwrap().strip_prefix("wrote ") {
            last = Some(n.parse::<u64>().unwrap());
        }
        if last == Some(500) {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    let last = last.unwrap();
    assert!(last >= 500, "the child died early, at {last}");

    let kv = RocksKv::open(dir.path(), RocksProfile::Raft).unwrap();
    let found = kv.scan(&[0; 8], &[0xff; 8], usize::MAX).unwrap();
    assert!(found.len() as u64 > last);
    for (n, (key, value)) in (0_u64..).zip(found) {
        assert_eq!(key, n.to_be_bytes(), "a hole");
        assert_eq!(value, [0xab; 700]);
    }
}

#[test]
fn a_check_reads_every_block_from_the_device_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let kv = RocksKv::open(&live, RocksProfile::State).unwrap();
    for key in 0..2_000_u32 {
        put(&kv, &key.to_be_bytes(), &[7; 100]);
    }
    kv.checkpoint(&copy).unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&copy).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    // The live store has every block in its cache by now, and the copy shares its tables.
    assert_eq!(kv.scan(b"", &[0xff], usize::MAX).unwrap().len(), 2_000);
    let check = RocksKv::open(&copy, RocksProfile::Check).unwrap();
    assert_eq!(check.scan(b"", &[0xff], usize::MAX).unwrap().len(), 2_000);
    assert!(check.write(Batch { changes: vec![Change::Delete(b"x".to_vec())] }).is_err());
    drop(check);
    assert_eq!(names(), before);

    let table = before.iter().find(|name| is_table(name)).unwrap();
    let mut bytes = fs::read(copy.join(table)).unwrap();
    bytes[1_000] ^= 1;
    // In place: the live store has this file, too.
    fs::File::options().write(true).open(copy.join(table)).unwrap().write_all(&bytes).unwrap();
    assert_eq!(kv.scan(b"", &[0xff], usize::MAX).unwrap().len(), 2_000, "its blocks are in the cache");
    let check = RocksKv::open(&copy, RocksProfile::Check).unwrap();
    assert!(check.scan(b"", &[0xff], usize::MAX).unwrap_err().is_corrupt());
}
