//! Files and directories whose names and content outlive a power cut.
//!
//! A file is replaced by writing a new one beside it (`NAME.tmp`), which is fsynced, renamed over the old one,
//! and the directory fsynced: in this order a crash leaves the old content or the new one, and perhaps an
//! unfinished file, which the next replacement removes. All of these functions block.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The directory that holds the name `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // A bare name means the working directory.
        _ => Path::new("."),
    }
}

/// The name under which the new content of the file `name` is written.
fn unfinished(name: &OsStr) -> OsString {
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    temporary
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be opened, or the device refuses.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces a file, or creates it, so that a crash leaves the old content or the new one. The new file can be
/// read by its owner alone (mode 0600). One caller at a time may replace a file.
///
/// # Errors
/// Whatever the file system says; the old content is then still there, or the new one is and may not survive a
/// power cut.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = parent(path).join(unfinished(name));
    // What an earlier attempt left: the mode is set where a file is made.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(parent(path))
}

/// Creates a directory, and those above it, and makes its own name durable; one that exists is fine.
///
/// # Errors
/// Whatever the file system says.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    sync_dir(parent(dir))
}

/// Gives a file another name in the same directory, durably, in place of any that has it.
///
/// # Errors
/// Whatever the file system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(to))
}

/// Removes a file, durably; one that does not exist is fine.
///
/// # Errors
/// Whatever the file system says.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(parent(path)),
    }
}

/// Removes a directory and all below, not durably; one that does not exist is fine.
///
/// # Errors
/// Whatever the file system says; part of it may then be gone.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves a directory within a file system, durably.
///
/// # Errors
/// Whatever the file system says.
pub fn move_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(from))?;
    sync_dir(parent(to))
}

/// Copies the files of a flat directory into a new one on the same file system, durably. Those that `shared` names get
/// a second name instead: nobody may write to them any more.
///
/// # Errors
/// `to` exists, `from` holds a directory, or whatever the file system says; `to` may then hold part of it.
pub fn copy_dir(from: &Path, to: &Path, shared: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if shared(&entry.file_name()) {
            fs::hard_link(entry.path(), &copy)?;
            continue;
        }
        fs::copy(entry.path(), &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    sync_dir(to)?;
    sync_dir(parent(to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_replaced_file_is_private_and_nothing_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "old").unwrap();
        // A crash left half a file that others could read.
        let left = dir.path().join(unfinished(OsStr::new("k")));
        fs::write(&left, "half").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "old").unwrap();
        // The name that the new file needs is a directory's.
        fs::create_dir(dir.path().join(unfinished(OsStr::new("k")))).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(replace(Path::new("/"), b"new").is_err());
    }

    #[test]
    fn directories_are_copied_moved_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let [from, copy, moved] = ["from", "copy", "moved"].map(|name| dir.path().join(name));
        create_dir(&from).unwrap();
        create_dir(&from).unwrap();
        fs::write(from.join("one"), "1").unwrap();
        fs::write(from.join("two"), "2").unwrap();
        let is_one = |name: &OsStr| name == "one";
        copy_dir(&from, &copy, is_one).unwrap();
        assert!(copy_dir(&from, &copy, is_one).is_err(), "it is there already");
        let inode = |dir: &Path, name| fs::metadata(dir.join(name)).unwrap().ino();
        assert_eq!(inode(&from, "one"), inode(&copy, "one"));
        assert_ne!(inode(&from, "two"), inode(&copy, "two"));
        remove_dir(&from).unwrap();
        remove_dir(&from).unwrap();
        move_dir(&copy, &moved).unwrap();
        assert!(!copy.exists());
        assert_eq!(fs::read(moved.join("one")).unwrap(), b"1");
        assert_eq!(fs::read(moved.join("two")).unwrap(), b"2");
    }

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert_eq!(parent(Path::new("name")), Path::new("."));
        assert_eq!(parent(Path::new("some/name")), Path::new("some"));
    }
}
