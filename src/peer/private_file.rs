//! Files that hold a secret: mode 0600, written durably, refused if others could read them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::KeyError;

/// No key file is anywhere near this long.
const LIMIT: u64 = 16 << 10;

fn at(path: &Path) -> impl Fn(io::Error) -> KeyError + '_ {
    move |source| KeyError::File { path: path.to_owned(), source }
}

/// Reads a secret; `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(path)(e)),
    };
    let mode = file.metadata().map_err(at(path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut content).map_err(at(path))?;
    if content.len() as u64 > LIMIT {
        return Err(KeyError::Key(format!("{} is longer than {LIMIT} bytes", path.display())));
    }
    Ok(Some(content))
}

/// Writes a secret so that after a crash the file is there whole or not at all. An existing file is
/// replaced.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), KeyError> {
    clawhub_durable::replace(path, content).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_private_and_replace_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        assert!(read(&path).unwrap().is_none());
        fs::write(dir.path().join("k.tmp"), "half").unwrap();
        write(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path).unwrap().unwrap(), b"secret");
        assert!(!dir.path().join("k.tmp").exists());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write(&path, b"secret").unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(KeyError::Mode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_a_key_is_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write(&path, &vec![0; LIMIT as usize + 1]).unwrap();
        assert!(matches!(read(&path), Err(KeyError::Key(_))));
    }
}
