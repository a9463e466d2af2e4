//! What goes through a mount, what each fault stops and where, and that nothing stays behind.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, UNIX_EPOCH};

use clawhub_kv::{Batch, Change, Kv as _, KvRead as _, RocksKv, RocksProfile};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, fcntl_lock, flock, statvfs};
use tempfile::TempDir;

use super::*;

/// A mounted view of an empty folder.
struct Place {
    // Unmounted before its folder is removed.
    faulty: Faulty,
    home: TempDir,
}

impl Place {
    /// None, which is said, where nothing can be mounted.
    fn new() -> Result<Option<Place>> {
        if let Some(why) = Faulty::unavailable() {
            println!("skipped: no FUSE here: {why}");
            return Ok(None);
        }
        let home = tempfile::tempdir()?;
        let (below, at) = (home.path().join("below"), home.path().join("at"));
        fs::create_dir(&below)?;
        fs::create_dir(&at)?;
        Ok(Some(Place { faulty: Faulty::mount(&below, &at)?, home }))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join("at").join(name)
    }

    fn below(&self, name: &str) -> PathBuf {
        self.home.path().join("below").join(name)
    }
}

fn both() -> fs::OpenOptions {
    File::options().read(true).write(true).clone()
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|e| Errno::from_io_error(&e))
}

fn mounted(at: &Path) -> Result<bool> {
    Ok(fs::read_to_string("/proc/self/mounts")?.contains(&*at.to_string_lossy()))
}

#[test]
fn names_go_through() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    fs::write(place.at("new"), "new")?;
    fs::write(place.at("old"), "old")?;
    let replaced = File::open(place.at("old"))?;
    fs::rename(place.at("new"), place.at("old"))?;
    assert_eq!(fs::read(place.below("old"))?, b"new");
    assert!(!place.below("new").exists());
    assert_eq!(io::read_to_string(replaced)?, "old");

    fs::hard_link(place.at("old"), place.at("other"))?;
    assert_eq!(fs::metadata(place.at("old"))?.nlink(), 2);
    assert_eq!(fs::metadata(place.at("old"))?.ino(), fs::metadata(place.at("other"))?.ino());
    let open = both().open(place.at("old"))?;
    fs::remove_file(place.at("old"))?;
    fs::remove_file(place.at("other"))?;
    open.write_all_at(b"NEWER", 0)?;
    open.sync_all()?;
    assert_eq!((open.metadata()?.len(), open.metadata()?.nlink()), (5, 0));
    assert_eq!(io::read_to_string(open)?, "NEWER");

    let names: BTreeSet<String> = (0..500).map(|n| format!("a rather long name of a file, {n}")).collect();
    fs::create_dir_all(place.at("one/two"))?;
    for name in &names {
        File::create(place.at("one/two").join(name))?;
    }
    File::open(place.at("one/two"))?.sync_all()?;
    fs::rename(place.at("one"), place.at("three"))?;
    let listed = fs::read_dir(place.at("three/two"))?.map(|entry| entry.map(|entry| entry.file_name()));
    let listed: io::Result<BTreeSet<String>> =
        listed.map(|name| Ok(name?.to_string_lossy().into())).collect();
    assert_eq!(listed?, names);
    symlink("three/two", place.at("link"))?;
    assert_eq!(fs::read_link(place.at("link"))?, Path::new("three/two"));
    assert_eq!(fs::read_dir(place.at("link"))?.count(), names.len());
    fs::remove_dir_all(place.at("three"))?;
    assert!(!place.below("three").exists());
    Ok(())
}

#[test]
fn contents_and_attributes_go_through() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    let path = place.at("file");
    let mut file = both().create_new(true).mode(0o640).open(&path)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
    assert!(fs::metadata(place.below("file"))?.blocks() >= 2048, "nothing was allocated");
    file.write_all(&[7; 5 << 20])?;
    file.sync_data()?;
    file.set_len(3 << 20)?;
    File::options().append(true).open(&path)?.write_all(b"end")?;
    file.write_all_at(b"start", 0)?;
    let direct = both().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path)?;
    direct.write_all_at(&[8; 4096], 4096)?;
    direct.sync_all()?;
    let (shown, kept) = (fs::read(&path)?, fs::read(place.below("file"))?);
    assert!(shown == kept, "what is shown is not what is below");
    assert_eq!((&kept[..6], kept[4096], &kept[3 << 20..]), (&b"start\x07"[..], 8, &b"end"[..]));

    #[expect(unsafe_code, reason = "a file mapping")]
    // SAFETY: nobody writes to the file or cuts it while the mapping lives.
    let mapping = unsafe { memmap2::Mmap::map(&File::open(&path)?)? };
    assert!(mapping[..] == kept[..], "what is mapped is not what is below");
    drop(mapping);

    assert_eq!(fs::metadata(place.below("file"))?.mode() & 0o7777, 0o640);
    fs::set_permissions(&path, Permissions::from_mode(0o604))?;
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    file.set_modified(then)?;
    let found = fs::metadata(place.below("file"))?;
    assert_eq!((found.mode() & 0o7777, found.modified()?), (0o604, then));
    let (shown, kept) = (statvfs(place.at(""))?, statvfs(place.below(""))?);
    assert_eq!((shown.f_blocks, shown.f_frsize), (kept.f_blocks, kept.f_frsize));
    Ok(())
}

#[test]
fn locks_and_sockets_go_through() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    let (mine, other) = (File::create(place.at("lock"))?, File::open(place.at("lock"))?);
    fcntl_lock(&mine, FlockOperation::NonBlockingLockExclusive)?;
    flock(&mine, FlockOperation::NonBlockingLockExclusive)?;
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    drop(mine);
    flock(&other, FlockOperation::NonBlockingLockShared)?;

    let listener = UnixListener::bind(place.at("socket"))?;
    assert!(fs::metadata(place.below("socket"))?.file_type().is_socket());
    let mut client = UnixStream::connect(place.at("socket"))?;
    client.write_all(b"through")?;
    let mut heard = [0; 7];
    listener.accept()?.0.read_exact(&mut heard)?;
    assert_eq!(&heard, b"through");
    Ok(())
}

/// A folder in which each operation has something to be tried on, and what is open there.
struct Bench {
    folder: PathBuf,
    file: File,
    open_folder: File,
}

impl Bench {
    fn new(folder: PathBuf) -> Result<Bench> {
        fs::create_dir_all(folder.join("listed"))?;
        for made in ["created", "made", "link", "away"].map(|name| folder.join(name)) {
            let _ = fs::remove_file(&made).or_else(|_| fs::remove_dir(&made));
        }
        for name in ["file", "moved", "removed", "linked"] {
            fs::write(folder.join(name), name)?;
        }
        let (file, open_folder) = (both().open(folder.join("file"))?, File::open(&folder)?);
        Ok(Bench { folder, file, open_folder })
    }

    /// Those that the operation can be told apart by, each with how it failed.
    fn try_all(&self) -> Vec<(&'static str, Option<Errno>)> {
        let name = |name: &str| self.folder.join(name);
        let mut byte = [0];
        vec![
            ("read", errno(self.file.read_at(&mut byte, 0))),
            ("write", errno(self.file.write_at(b"F", 0))),
            ("fsync", errno(self.file.sync_data())),
            ("fsync of a folder", errno(self.open_folder.sync_all())),
            ("cut", errno(self.file.set_len(2))),
            ("chmod", errno(self.file.set_permissions(Permissions::from_mode(0o600)))),
            ("stat", errno(fs::metadata(name("file")))),
            ("list", errno(fs::read_dir(name("listed")).map(Iterator::count))),
            ("open", errno(File::open(name("file")))),
            ("open to write", errno(both().open(name("file")))),
            ("create", errno(File::create_new(name("created")))),
            ("mkdir", errno(fs::create_dir(name("made")))),
            ("link", errno(fs::hard_link(name("linked"), name("link")))),
            ("rename", errno(fs::rename(name("moved"), name("away")))),
            ("unlink", errno(fs::remove_file(name("removed")))),
        ]
    }
}

#[test]
fn each_fault_stops_what_it_should_below_its_path_only() -> Result<()> {
    let changes = ["write", "cut", "chmod", "open to write", "create", "mkdir", "link", "rename", "unlink"];
    let stopped: [(Fault, Errno, &[&str]); 4] = [
        (Fault::Io, Errno::IO, &[]),
        (Fault::WriteIo, Errno::IO, &["write", "fsync", "fsync of a folder"]),
        (Fault::ReadOnly, Errno::ROFS, &changes),
        (Fault::Full, Errno::NOSPC, &["write", "create", "mkdir", "link"]),
    ];
    for (fault, answer, stopped) in stopped {
        let Some(place) = Place::new()? else { return Ok(()) };
        let (bad, like_it) = (Bench::new(place.at("data/bad"))?, Bench::new(place.at("data/bad.not"))?);
        let top = Bench::new(place.at(""))?;
        place.faulty.fail("data/bad", fault);
        place.faulty.uncache("data/bad")?;
        for (operation, failed) in bad.try_all() {
            let expected = stopped.is_empty() || stopped.contains(&operation);
            assert_eq!(failed, expected.then_some(answer), "{operation} with {fault:?}");
        }
        let failures = place.faulty.failures();
        assert!(failures >= stopped.len() as u64, "{failures} with {fault:?}");
        if fault == Fault::Full {
            assert_eq!(statvfs(place.at("data/bad"))?.f_bavail, 0);
        }
        assert_ne!(statvfs(place.at(""))?.f_bavail, 0);
        for (operation, failed) in [like_it.try_all(), top.try_all()].concat() {
            assert_eq!(failed, None, "{operation} elsewhere with {fault:?}");
        }
        assert_eq!(place.faulty.failures(), failures);

        place.faulty.heal();
        // Laid out anew; what was open before the fault still is.
        Bench::new(place.at("data/bad"))?;
        for (operation, failed) in bad.try_all() {
            assert_eq!(failed, None, "{operation} after {fault:?}");
        }
    }
    Ok(())
}

#[test]
fn an_open_file_fails_where_its_names_lie_by_now() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    fs::create_dir_all(place.at("was/deep"))?;
    let file = File::create(place.at("was/deep/file"))?;
    fs::rename(place.at("was"), place.at("is"))?;
    let linked = File::create(place.at("linked"))?;
    fs::hard_link(place.at("linked"), place.at("is/link"))?;
    let gone = File::create(place.at("is/gone"))?;
    fs::remove_file(place.at("is/gone"))?;
    place.faulty.fail("was", Fault::Io);
    file.sync_all()?;
    place.faulty.fail("is", Fault::WriteIo);
    assert_eq!(errno(file.sync_all()), Some(Errno::IO));
    assert_eq!(errno(gone.sync_all()), Some(Errno::IO));
    assert_eq!(errno(linked.sync_all()), Some(Errno::IO), "one of its names lies there");
    fs::remove_file(place.at("is/link"))?;
    linked.sync_all()?;
    fs::rename(place.at("is/deep/file"), place.at("moved"))?;
    file.sync_all()?;
    Ok(())
}

#[test]
fn the_kernel_reads_from_its_cache_until_it_is_dropped() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    fs::write(place.at("file"), "content")?;
    let file = File::open(place.at("file"))?;
    let mut read = [0; 7];
    file.read_exact_at(&mut read, 0)?;
    place.faulty.fail("", Fault::Io);
    file.read_exact_at(&mut read, 0)?;
    place.faulty.uncache("")?;
    assert_eq!(errno(file.read_exact_at(&mut read, 0)), Some(Errno::IO));
    place.faulty.heal();
    file.read_exact_at(&mut read, 0)?;
    assert_eq!(&read, b"content");
    Ok(())
}

#[test]
fn nothing_stays_mounted() -> Result<()> {
    let Some(Place { faulty, home }) = Place::new()? else { return Ok(()) };
    let at = home.path().join("at");
    let open = File::create(at.join("open"))?;
    assert!(mounted(&at)?);
    drop(faulty);
    assert!(!mounted(&at)?);
    assert_eq!(errno(open.sync_all()), Some(Errno::NOTCONN));
    drop(open);
    assert_eq!(fs::read_dir(&at)?.count(), 0, "something lies in what was covered");

    // Over the very folder that it shows.
    let below = home.path().join("below");
    let faulty = Faulty::mount(&below, &below)?;
    fs::write(below.join("file"), "there")?;
    faulty.fail("", Fault::ReadOnly);
    assert_eq!(errno(fs::remove_file(below.join("file"))), Some(Errno::ROFS));
    drop(faulty);
    assert_eq!(fs::read(below.join("file"))?, b"there");
    fs::remove_file(below.join("file"))?;
    Ok(())
}

#[test]
fn a_database_lives_on_it_and_notices() -> Result<()> {
    let Some(place) = Place::new()? else { return Ok(()) };
    let put = |key: &str| Batch { changes: vec![Change::Put(key.into(), vec![5; 100_000])] };
    let kv = RocksKv::open(&place.at("kv"), RocksProfile::Raft)?;
    for n in 0..300 {
        kv.write(put(&format!("synced {n}")))?;
    }
    kv.sync()?;
    kv.checkpoint(&place.at("copy"))?;
    kv.write(put("not synced"))?;
    place.faulty.fail("kv", Fault::WriteIo);
    let failed = kv.sync().expect_err("the disk fails").to_string();
    assert!(failed.contains("Input/output error"), "{failed}");
    kv.write(put("late")).expect_err("a sync has failed");
    drop(kv);
    RocksKv::open(&place.at("kv"), RocksProfile::Raft).err().expect("the disk fails");
    place.faulty.heal();
    for name in ["kv", "copy"] {
        let kv = RocksKv::open(&place.at(name), RocksProfile::Raft)?;
        for n in 0..300 {
            assert_eq!(kv.get(format!("synced {n}").as_bytes())?, Some(vec![5; 100_000]), "{name}");
        }
        assert_eq!(kv.get(b"late")?, None);
    }
    Ok(())
}

#[test]
fn a_slow_disk_works_and_takes_its_time() -> Result<()> {
    const DELAY: Duration = Duration::from_millis(120);
    let Some(place) = Place::new()? else { return Ok(()) };
    fs::create_dir(place.at("slow"))?;
    let [slow, other] = ["slow/file", "file"].map(|name| place.at(name));
    place.faulty.fail("slow", Fault::Slow(DELAY));
    let took = |path: &Path| -> Result<Duration> {
        let began = std::time::Instant::now();
        let mut file = File::create(path)?;
        file.write_all(b"written")?;
        file.sync_all()?;
        Ok(began.elapsed())
    };
    assert!(took(&slow)? >= 2 * DELAY, "one for the write, one for the fsync");
    assert!(took(&other)? < DELAY, "it is elsewhere");
    place.faulty.heal();
    assert!(took(&slow)? < DELAY);
    assert_eq!(fs::read(place.below("slow/file"))?, b"written");
    assert_eq!(place.faulty.failures(), 0);
    Ok(())
}
