//! The files of a checkpoint, hashed: each table once, for as long as what was seen of it may still hold.
//!
//! A table is written once, and the checkpoints of a state share it, so that its hash stands in the manifest of the
//! snapshot before. It is read again when that was seen to hold too long ago: devices let bits rot.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clawhub_kv::{KvError, KvErrorKind};

use crate::files;
use crate::record::FileEntry;

/// How long the hash of a table counts as seen, milliseconds of the wall clock: a day.
const SEEN_FOR: u64 = 24 * 60 * 60 * 1000;

/// Files whose hashes are known, and when each was last read and found so: Unix milliseconds, 0 if nobody knows.
/// A clock that was set back makes them unknown.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) data: &'a Path,
    pub(crate) files: &'a [FileEntry],
    pub(crate) seen: &'a [u64],
}

/// Every file of a checkpoint by name, and when each was seen to be so.
///
/// # Errors
/// A file cannot be read; a [`KvError`] that says corrupt if a table is no longer what it was.
pub(crate) fn list(
    data: &Path,
    known: Option<Known<'_>>,
    now: u64,
) -> io::Result<(Vec<FileEntry>, Vec<u64>)> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data)? {
        let name = entry?.file_name().into_string();
        names.push(name.map_err(|name| io::Error::other(format!("file name {name:?} in a checkpoint")))?);
    }
    names.sort();
    let mut files = Vec::with_capacity(names.len());
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        let path = data.join(&name);
        let before = known.and_then(|known| known.same_table(&name, &fs::metadata(&path).ok()?));
        if let Some((entry, at)) = before
            && now.checked_sub(at).is_some_and(|age| age < SEEN_FOR)
        {
            files.push(entry.clone());
            seen.push(at);
            continue;
        }
        let (size, hash) = files::digest(&path)?;
        if before.is_some_and(|(entry, _)| entry.hash != hash) {
            return Err(rotten(&path).into());
        }
        files.push(FileEntry { name, size, hash });
        seen.push(now);
    }
    Ok((files, seen))
}

/// A file that is not what it was when it was hashed.
pub(crate) fn rotten(path: &Path) -> KvError {
    let context = format!("reading {}", path.display());
    KvError::new(
        KvErrorKind::Corrupt,
        context,
        "the file is not what it was when it was written: the device has let it rot",
    )
}

impl<'a> Known<'a> {
    /// As if nothing were known of what lies in `data`.
    pub(crate) fn nothing(data: &'a Path) -> Known<'a> {
        Known { data, files: &[], seen: &[] }
    }

    /// What is known of a file that is this table, under whatever name its directory has.
    fn same_table(&self, name: &str, found: &Metadata) -> Option<(&'a FileEntry, u64)> {
        if !clawhub_kv::is_table(name.as_ref()) {
            return None;
        }
        let at = self.files.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        let entry = &self.files[at];
        let there = fs::metadata(self.data.join(name)).ok()?;
        let same = (there.dev(), there.ino(), there.len()) == (found.dev(), found.ino(), found.len());
        (same && entry.size == found.len()).then(|| (entry, self.seen[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_once_and_again_when_that_was_long_ago() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        for name in ["1.sst", "2.sst", "CURRENT"] {
            fs::write(old.join(name), name).unwrap();
        }
        let (files, seen) = list(&old, None, 1_000).unwrap();
        assert_eq!(seen, [1_000; 3]);
        clawhub_durable::copy_dir(&old, &new, |name| name == "1.sst").unwrap();
        // Rot that nobody has looked at: to leave it unread is what this is for.
        fs::write(new.join("1.sst"), "1.SST").unwrap();
        let known = Some(Known { data: &old, files: &files, seen: &seen });
        let (again, when) = list(&new, known, 1_000 + SEEN_FOR - 1).unwrap();
        assert_eq!((again, when[0]), (files.clone(), 1_000));
        assert!(when[1] > 1_000 && when[2] > 1_000, "2.sst is another file of that name");
        for now in [1_000 + SEEN_FOR, 999] {
            let rot = list(&new, known, now).unwrap_err();
            assert!(KvError::within(&rot).is_some_and(KvError::is_corrupt), "{rot}");
        }
    }
}
