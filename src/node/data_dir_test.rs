//! Tests of the data directory.

use std::collections::BTreeMap;

use clawhub_types::ClusterId;

use super::*;

fn someone(byte: u8) -> Owner {
    Owner { cluster: ClusterId([byte; 16]), node: NodeId(u64::from(byte)) }
}

/// What matters of a certificate here.
fn certificate(byte: u8) -> Vec<u8> {
    let owner = someone(byte);
    let name = format!("clawhub://{}/node/{}", owner.cluster, owner.node);
    [b"..\x86", &[name.len() as u8][..], name.as_bytes(), b"0.."].concat()
}

/// Names, contents and modes: what "untouched" is about.
fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        all.insert(path.clone(), (mode, std::fs::read(&path).unwrap()));
    }
    all.insert(root.into(), (std::fs::metadata(root).unwrap().permissions().mode(), Vec::new()));
    all
}

#[test]
fn a_new_directory_is_private_and_remembers_its_owner() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("a/b");
    let mut dir = DataDir::open(&root).unwrap();
    assert_eq!(dir.owner(), None);
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    dir.save_certificates(&certificate(1), b"ca").unwrap();
    dir.claim(someone(1)).unwrap();
    dir.claim(someone(1)).unwrap();
    assert_eq!(std::fs::read(root.join("node.crt")).unwrap(), certificate(1));
    drop(dir);
    assert_eq!(DataDir::open(&root).unwrap().owner(), Some(someone(1)));
}

#[test]
fn one_process_at_a_time() {
    let temp = tempfile::tempdir().unwrap();
    let first = DataDir::open(temp.path()).unwrap();
    // flock is per open file, so a second opening in this process stands for another process.
    assert!(matches!(DataDir::open(temp.path()), Err(DataDirError::Locked(_))));
    drop(first);
    assert!(DataDir::open(temp.path()).is_ok());
}

#[test]
fn what_is_in_quarantine_stays_there() {
    let temp = tempfile::tempdir().unwrap();
    let mut dir = DataDir::open(temp.path()).unwrap();
    dir.save_certificates(&certificate(7), b"ca").unwrap();
    dir.claim(someone(7)).unwrap();
    drop(dir);
    DataDir::quarantine(temp.path(), "raft: the database is corrupt").unwrap();
    for _ in 0..2 {
        let refused = DataDir::open(temp.path()).unwrap_err().to_string();
        assert!(refused.contains("the database is corrupt"), "{refused}");
        assert!(refused.contains("clawhub cluster remove 7"), "{refused}");
    }
}

#[test]
fn a_folder_without_its_device_is_not_taken_for_new() {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::open(temp.path()).unwrap();
    std::fs::create_dir(dir.raft()).unwrap();
    std::fs::create_dir(dir.state()).unwrap();
    dir.mark(7).unwrap();
    dir.check_marks(7).unwrap();
    assert!(matches!(dir.check_marks(8), Err(DataDirError::Unmarked(_))));
    std::fs::remove_dir_all(dir.raft()).unwrap();
    assert!(matches!(dir.check_marks(7), Err(DataDirError::Unmarked(folder)) if folder == dir.raft()));
}

#[test]
fn devices_of_metadata_may_be_mounted_before_the_first_start() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temp.path().join("raft/lost+found")).unwrap();
    assert!(DataDir::open(temp.path()).is_ok());
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(other.path().join("raft/000001.sst")).unwrap();
    assert!(matches!(DataDir::open(other.path()), Err(DataDirError::Foreign(_))));
}

#[test]
fn what_is_not_ours_stays_untouched() {
    for (name, text) in [
        ("FORMAT", r#"{"format": 2, "cluster": null, "shards": 7}"#),
        ("FORMAT", r#"{"format": 1, "cluster": "00", "node": 1}"#),
        ("FORMAT", r#"{"format": 1, "cluster": null, "node": 1}"#),
        ("FORMAT", r#"{"format": 1, "cluster": "01010101010101010101010101010101", "node": 1}"#),
        ("FORMAT", "hello"),
        ("thesis.txt", "chapter one"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(name), text).unwrap();
        std::fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
        let before = contents(temp.path());
        let error = DataDir::open(temp.path()).unwrap_err();
        assert!(error.to_string().ends_with("nothing was changed"), "{error}");
        assert_eq!(contents(temp.path()), before, "{error}");
    }
}

#[test]
fn another_clusters_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let mut dir = DataDir::open(temp.path()).unwrap();
    dir.save_certificates(&certificate(1), b"ca").unwrap();
    dir.claim(someone(1)).unwrap();
    let before = contents(temp.path());
    assert!(matches!(dir.claim(someone(2)), Err(DataDirError::OtherOwner { .. })));
    assert_eq!(contents(temp.path()), before);
}

#[test]
fn data_of_two_nodes_put_together_stays_untouched() {
    let temp = tempfile::tempdir().unwrap();
    let mut dir = DataDir::open(temp.path()).unwrap();
    dir.save_certificates(&certificate(1), b"ca").unwrap();
    dir.claim(someone(1)).unwrap();
    drop(dir);
    for other in [certificate(2), certificate(10), Vec::new()] {
        std::fs::write(temp.path().join("node.crt"), other).unwrap();
        let before = contents(temp.path());
        assert!(matches!(DataDir::open(temp.path()), Err(DataDirError::Mixed { .. })));
        assert_eq!(contents(temp.path()), before);
    }
    std::fs::remove_file(temp.path().join("node.crt")).unwrap();
    assert!(matches!(DataDir::open(temp.path()), Err(DataDirError::Mixed { .. })));
}
