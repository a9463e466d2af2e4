//! The files that a member's keys lie in, and how one generation of them replaces another.
//!
//! The keys in force are four files: `node.key`, `cluster.key` (0600), `node.crt` and `ca.crt`. Those of the next
//! generation are one, `keys.next`, written before anything is said of them. They come into force by one rename, to
//! `keys.now`: from then on the four files are to hold what it holds, and it goes when they do. A crash at any point
//! leaves either generation whole, and the next opening goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::keyring::Certified;
use crate::{ClusterKey, KeyError, NodeKey, private_file};

const NEXT: &str = "keys.next";
const NOW: &str = "keys.now";
/// The first bytes of a file of one generation.
const MAGIC: &[u8] = b"clawhub keys v1\n";

/// What a member has of one generation of keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The number of the generation; 0 if it is the one in force and nobody has asked for it.
    pub generation: u64,
    /// The member's own key and its certificate.
    pub certified: Certified,
    /// The key that seals secrets in the state.
    pub cluster_key: ClusterKey,
}

struct Held {
    present: Arc<Keys>,
    next: Option<Arc<Keys>>,
}

/// A member's keys, on disk and in memory.
pub struct KeyFiles {
    root: PathBuf,
    held: RwLock<Held>,
}

impl KeyFiles {
    /// Reads the keys from the data directory, after finishing what a crash interrupted.
    ///
    /// # Errors
    /// [`KeyError`] if a file is missing, cannot be read or written, lets others in, or holds no such key.
    pub fn open(root: &Path) -> Result<KeyFiles, KeyError> {
        install(root)?;
        let present = Arc::new(present(root)?);
        let next = private_file::read(&root.join(NEXT))?.map(|bytes| decode(&bytes)).transpose()?;
        let held = RwLock::new(Held { present, next: next.map(Arc::new) });
        Ok(KeyFiles { root: root.to_owned(), held })
    }

    /// The keys in force.
    pub fn present(&self) -> Arc<Keys> {
        self.held.read().present.clone()
    }

    /// Those of the next generation, once there are any.
    pub fn next(&self) -> Option<Arc<Keys>> {
        self.held.read().next.clone()
    }

    /// Keeps keys for later, durably, in place of any that were kept before.
    ///
    /// # Errors
    /// [`KeyError::File`]; then it is not known what is kept until the next opening.
    pub fn prepare(&self, keys: Keys) -> Result<(), KeyError> {
        private_file::write(&self.root.join(NEXT), &encode(&keys))?;
        self.held.write().next = Some(Arc::new(keys));
        Ok(())
    }

    /// Puts the next keys in force. Without any nothing happens.
    ///
    /// # Errors
    /// [`KeyError::File`]; the next keys may be in force, and the next opening goes on.
    pub fn adopt(&self) -> Result<(), KeyError> {
        let Some(next) = self.next() else { return Ok(()) };
        rename(&self.root.join(NEXT), &self.root.join(NOW))?;
        {
            let mut held = self.held.write();
            held.present = next;
            held.next = None;
        }
        install(&self.root)
    }

    /// Forgets the next keys, which nobody will ask for.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn discard(&self) -> Result<(), KeyError> {
        remove(&self.root.join(NEXT))?;
        self.held.write().next = None;
        Ok(())
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> KeyError + '_ {
    move |source| KeyError::File { path: path.to_owned(), source }
}

fn rename(from: &Path, to: &Path) -> Result<(), KeyError> {
    clawhub_durable::rename(from, to).map_err(at(from))
}

fn remove(path: &Path) -> Result<(), KeyError> {
    clawhub_durable::remove_file(path).map_err(at(path))
}

/// The keys of the four files.
fn present(root: &Path) -> Result<Keys, KeyError> {
    let read = |name: &str| {
        let path = root.join(name);
        std::fs::read(&path).map_err(at(&path))
    };
    let key = NodeKey::load_or_create(&root.join("node.key"))?;
    let certified = Certified { key, cert: read("node.crt")?, ca_cert: read("ca.crt")? };
    Ok(Keys { generation: 0, certified, cluster_key: ClusterKey::load(&root.join("cluster.key"))? })
}

/// Makes the four files hold what `keys.now` holds, if there is one.
fn install(root: &Path) -> Result<(), KeyError> {
    let now = root.join(NOW);
    let Some(bytes) = private_file::read(&now)? else { return Ok(()) };
    let keys = decode(&bytes)?;
    let write = |name: &str, content: &[u8]| private_file::write(&root.join(name), content);
    write("node.key", keys.certified.key.pem().as_bytes())?;
    keys.cluster_key.save(&root.join("cluster.key"))?;
    write("ca.crt", &keys.certified.ca_cert)?;
    write("node.crt", &keys.certified.cert)?;
    remove(&now)
}

fn encode(keys: &Keys) -> Vec<u8> {
    let pem = keys.certified.key.pem();
    let fields: [&[u8]; 4] =
        [keys.cluster_key.expose(), pem.as_bytes(), &keys.certified.cert, &keys.certified.ca_cert];
    let mut out = [MAGIC, &keys.generation.to_be_bytes()].concat();
    for field in fields {
        let length = u32::try_from(field.len()).expect("keys and certificates are short");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Keys, KeyError> {
    let bad = || KeyError::Key("not a file of keys".into());
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(bad)?;
    let generation = u64::from_be_bytes(*take(&mut rest).ok_or_else(bad)?);
    let mut field = || -> Option<Vec<u8>> {
        let length = u32::from_be_bytes(*take(&mut rest)?);
        let (field, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        Some(field.to_vec())
    };
    let cluster = field().ok_or_else(bad)?;
    let pem = field().ok_or_else(bad)?;
    let cert = field().ok_or_else(bad)?;
    let ca_cert = field().ok_or_else(bad)?;
    if !rest.is_empty() {
        return Err(bad());
    }
    let key = NodeKey::from_pem(&pem)?;
    let certified = Certified { key, cert, ca_cert };
    Ok(Keys { generation, certified, cluster_key: ClusterKey::from_bytes(&cluster)? })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(head)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use clawhub_types::{ClusterId, NodeId};

    use super::*;
    use crate::{Ca, Csr};

    const NODE: NodeId = NodeId(3);

    fn keys(generation: u64) -> Keys {
        let ca = Ca::create(ClusterId([1; 16])).unwrap();
        let key = NodeKey::generate().unwrap();
        let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), NODE).unwrap();
        let certified = Certified { key, cert, ca_cert: ca.cert_der().to_vec() };
        Keys { generation, certified, cluster_key: ClusterKey::generate() }
    }

    /// A data directory with keys in force.
    fn member() -> (tempfile::TempDir, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(1);
        fs::write(dir.path().join(NOW), encode(&keys)).unwrap();
        fs::set_permissions(dir.path().join(NOW), fs::Permissions::from_mode(0o600)).unwrap();
        (dir, keys)
    }

    use std::os::unix::fs::PermissionsExt;

    fn same(a: &Keys, b: &Keys) -> bool {
        a.cluster_key == b.cluster_key
            && a.certified.key.spki_sha256() == b.certified.key.spki_sha256()
            && a.certified.cert == b.certified.cert
            && a.certified.ca_cert == b.certified.ca_cert
    }

    #[test]
    fn the_next_keys_are_kept_apart_until_they_are_adopted() {
        let (dir, first) = member();
        let files = KeyFiles::open(dir.path()).unwrap();
        assert!(same(&files.present(), &first) && files.next().is_none());
        let second = keys(2);
        files.prepare(second.clone()).unwrap();
        assert_eq!(fs::metadata(dir.path().join(NEXT)).unwrap().mode() & 0o7777, 0o600);
        for files in [files, KeyFiles::open(dir.path()).unwrap()] {
            let next = files.next().unwrap();
            assert!(same(&files.present(), &first) && same(&next, &second) && next.generation == 2);
        }
        let files = KeyFiles::open(dir.path()).unwrap();
        files.adopt().unwrap();
        for files in [files, KeyFiles::open(dir.path()).unwrap()] {
            assert!(same(&files.present(), &second) && files.next().is_none());
        }
        assert!(!dir.path().join(NOW).exists());
        KeyFiles::open(dir.path()).unwrap().adopt().unwrap();
    }

    #[test]
    fn a_cut_at_any_step_leaves_one_generation_whole() {
        let names = ["node.key", "cluster.key", "ca.crt", "node.crt"];
        // So many of the four files are written after the rename, when the crash comes.
        for written in 0..=names.len() {
            let (dir, first) = member();
            KeyFiles::open(dir.path()).unwrap().prepare(keys(2)).unwrap();
            let second = KeyFiles::open(dir.path()).unwrap().next().unwrap();
            fs::rename(dir.path().join(NEXT), dir.path().join(NOW)).unwrap();
            let other = tempfile::tempdir().unwrap();
            let copy = other.path().join(NOW);
            fs::copy(dir.path().join(NOW), copy).unwrap();
            install(other.path()).unwrap();
            for name in &names[..written] {
                fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
            }
            let files = KeyFiles::open(dir.path()).unwrap();
            assert!(same(&files.present(), &second) && !same(&files.present(), &first), "{written} files");
            assert!(!dir.path().join(NOW).exists() && !dir.path().join(NEXT).exists());
        }
    }

    #[test]
    fn discarded_keys_are_gone_and_damaged_ones_are_an_error() {
        let (dir, first) = member();
        let files = KeyFiles::open(dir.path()).unwrap();
        files.prepare(keys(2)).unwrap();
        files.discard().unwrap();
        files.discard().unwrap();
        assert!(KeyFiles::open(dir.path()).unwrap().next().is_none());
        let good = encode(&first);
        for end in 0..good.len() {
            assert!(decode(&good[..end]).is_err(), "cut at {end}");
        }
        assert!(decode(&[good, vec![0]].concat()).is_err());
        private_file::write(&dir.path().join(NEXT), b"damaged").unwrap();
        assert!(KeyFiles::open(dir.path()).is_err());
    }
}
