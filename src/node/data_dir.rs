//! The data directory: whose it is, which format it has, and that only one process uses it.
//!
//! Owns `FORMAT` (which cluster and node the data belongs to, written once), the node's certificate
//! `node.crt` and its CA's `ca.crt` (DER, written before), and `LOCK` (held by flock while the process
//! lives). Every other entry belongs to the module that is handed its path. A
//! directory that is not ours to use — a newer format, another cluster, somebody's files — is refused
//! before a byte in it changes. Files are replaced atomically: a crash leaves the old or the new one.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clawhub_cluster::Owner;
use clawhub_types::NodeId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The format this build reads and writes.
const FORMAT_VERSION: u32 = 1;
/// Says why the directory must not be used any more.
const QUARANTINE: &str = "QUARANTINE";
/// In the folder of a store: that it is the one whose content the others rely on.
const MARK: &str = "MARK";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It holds things, and no `FORMAT`.
    #[error("{0} is not empty and not a ClawHub data directory (it has no FORMAT file); nothing was changed")]
    Foreign(PathBuf),
    /// A later release wrote it.
    #[error(
        "{path} has format {found}, this release knows formats up to {FORMAT_VERSION}; nothing was changed"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// `FORMAT` is not what any release writes.
    #[error("{path}: not a FORMAT file: {reason}; nothing was changed")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `FORMAT` and the certificate come from different data.
    #[error("{path}: FORMAT says {found}, and node.crt is not that node's certificate; nothing was changed")]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// What `FORMAT` says.
        found: Owner,
    },
    /// The data is another cluster's, or another node's.
    #[error("{path} belongs to {found}, not to {wanted}; nothing was changed")]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Who asked.
        wanted: Owner,
    },
    /// Its databases were found damaged at an earlier start.
    #[error(
        "{path} is in quarantine: {reason}. Its votes may be gone with it, so the node comes back as a new \
         one. With the data folder of a member that lives as DATA: `clawhub cluster drain {id} --data DATA`; \
         set this folder aside and start with an empty one; `clawhub cluster token --data DATA | clawhub \
         cluster join --peer ADDRESS --data {path}` with that member's address for peers; `clawhub cluster \
         drain {id} --data DATA --wait`; `clawhub cluster remove {id} --data DATA`"
    )]
    Quarantined {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// The member's id, or what stands for it.
        id: String,
    },
    /// A store's folder is not the one that was used before.
    #[error(
        "{0} is not the folder that this node has used: is its device mounted? The node does not start \
         without what it has promised there"
    )]
    Unmarked(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// `FORMAT` as it stands in the file. Cluster and node are set together, once.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    format: u32,
    cluster: Option<String>,
    node: Option<u64>,
}

/// What a readable `FORMAT` says: whose the data is, if it is anybody's yet.
struct Bound(Option<Owner>);

/// Read before anything else, so that a newer format is told from a damaged file.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

/// An open, locked data directory.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    owner: Option<Owner>,
    /// Held, never read: the lock goes with this, or with the process.
    _lock: File,
}

impl DataDir {
    /// Opens the directory, creating it (0700) where there is none or an empty one.
    ///
    /// # Errors
    /// [`DataDirError`]; a directory that is refused stays as it was.
    pub fn open(root: &Path) -> Result<DataDir, DataDirError> {
        if read_format(root)?.is_none() && !is_fresh(root)? {
            return Err(DataDirError::Foreign(root.into()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| at(root, e))?;
        let lock = lock(root)?;
        std::fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(|e| at(root, e))?;
        // Again, under the lock: another process may have claimed it in between.
        let Bound(owner) = match read_format(root)? {
            Some(bound) => bound,
            None => {
                write_format(root, None)?;
                Bound(None)
            }
        };
        if let Some(reason) = quarantined(root)? {
            let id = owner.map_or_else(|| "ID".to_owned(), |owner| owner.node.to_string());
            return Err(DataDirError::Quarantined { path: root.into(), reason, id });
        }
        Ok(DataDir { root: root.into(), owner, _lock: lock })
    }

    /// Marks the folders of the log and the state, durably, as this node's.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn mark(&self, mark: u64) -> Result<(), DataDirError> {
        for folder in [self.raft(), self.state()] {
            replace(&folder, MARK, format!("{mark:016x}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Makes sure that the folders are the ones that were marked so.
    ///
    /// # Errors
    /// [`DataDirError::Unmarked`], [`DataDirError::Io`].
    pub fn check_marks(&self, mark: u64) -> Result<(), DataDirError> {
        for folder in [self.raft(), self.state()] {
            let path = folder.join(MARK);
            match std::fs::read_to_string(&path) {
                Ok(found) if found.trim() == format!("{mark:016x}") => (),
                Ok(_) => return Err(DataDirError::Unmarked(folder)),
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(DataDirError::Unmarked(folder)),
                Err(e) => return Err(at(&path, e)),
            }
        }
        Ok(())
    }

    /// Has every further opening of the directory refused: what is in its databases cannot be trusted, even
    /// where it can be read again. Nothing else in it is changed, and blobs can be copied out by hand.
    ///
    /// # Errors
    /// [`DataDirError::Io`] if that cannot be kept.
    pub fn quarantine(root: &Path, reason: &str) -> Result<(), DataDirError> {
        replace(root, QUARANTINE, reason.as_bytes())
    }

    /// Whose data this is; `None` before the node was initialised or joined.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Keeps the certificates of the node and its CA, durably; before [`claim`](Self::claim), which they
    /// are checked against from then on.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn save_certificates(&self, node: &[u8], ca: &[u8]) -> Result<(), DataDirError> {
        replace(&self.root, "ca.crt", ca)?;
        replace(&self.root, "node.crt", node)
    }

    /// Binds the directory to a node for ever.
    ///
    /// # Errors
    /// [`DataDirError::OtherOwner`] if it is bound to another one.
    pub fn claim(&mut self, wanted: Owner) -> Result<(), DataDirError> {
        match self.owner {
            Some(found) if found == wanted => Ok(()),
            Some(found) => Err(DataDirError::OtherOwner { path: self.root.clone(), found, wanted }),
            None => {
                write_format(&self.root, Some(wanted))?;
                self.owner = Some(wanted);
                Ok(())
            }
        }
    }

    /// The directory itself; the blob folders lie directly in it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store of votes and log entries.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The folder of state stores, `<n>/` and `CURRENT`.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The store of what this node alone knows.
    pub fn local(&self) -> PathBuf {
        self.root.join("local")
    }

    /// The node's private key.
    pub fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The key that seals secrets in the state.
    pub fn cluster_key(&self) -> PathBuf {
        self.root.join("cluster.key")
    }

    /// The socket of operators on this machine.
    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }
}

fn at(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { path: path.into(), source }
}

/// Whether there is nothing in `root` but what a file system or an interrupted first start leaves.
fn is_fresh(root: &Path) -> Result<bool, DataDirError> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(at(root, e)),
    };
    for entry in entries {
        let name = entry.map_err(|e| at(root, e))?.file_name();
        let fresh = match name.to_str() {
            Some("LOCK" | "FORMAT.tmp" | "lost+found") => true,
            // Mounted there beforehand, to be a device of its own.
            Some(own @ ("raft" | "state" | "local")) => is_bare(&root.join(own))?,
            _ => false,
        };
        if !fresh {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there is nothing in a folder but what a file system brings.
fn is_bare(dir: &Path) -> Result<bool, DataDirError> {
    for entry in std::fs::read_dir(dir).map_err(|e| at(dir, e))? {
        if entry.map_err(|e| at(dir, e))?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why the directory is in quarantine, if it is.
fn quarantined(root: &Path) -> Result<Option<String>, DataDirError> {
    let path = root.join(QUARANTINE);
    match std::fs::read(&path) {
        // The sentence goes on after it.
        Ok(reason) => Ok(Some(String::from_utf8_lossy(&reason).trim_end_matches(['.', '\n']).to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(&path, e)),
    }
}

/// How long a process that was killed may take to let go of the folder: whoever restarts it need not wait for that.
const PREDECESSOR: Duration = Duration::from_secs(5);

fn lock(root: &Path) -> Result<File, DataDirError> {
    let until = Instant::now() + PREDECESSOR;
    let path = root.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|e| at(&path, e))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::Locked(root.into())),
            Err(e) => return Err(at(&path, e.into())),
        }
    }
}

/// Reads and checks the whole of `FORMAT`, changing nothing; `None` if there is none.
fn read_format(root: &Path) -> Result<Option<Bound>, DataDirError> {
    let path = root.join("FORMAT");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(&path, e)),
    };
    let unreadable = |reason: String| DataDirError::Unreadable { path: path.clone(), reason };
    let version: Version = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
    if version.format > u64::from(FORMAT_VERSION) {
        return Err(DataDirError::Newer { path: root.into(), found: version.format });
    }
    let format: Format = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
    match (format.cluster, format.node) {
        (None, None) => Ok(Some(Bound(None))),
        (Some(cluster), Some(node)) if node > 0 => {
            let cluster = cluster.parse().map_err(|_| unreadable("cluster is not an id".into()))?;
            let owner = Owner { cluster, node: NodeId(node) };
            check_certificate(root, owner)?;
            Ok(Some(Bound(Some(owner))))
        }
        _ => Err(unreadable("cluster and node go together".into())),
    }
}

/// Tells data put together from two nodes before anything is opened. What the certificate is worth, the
/// peer layer checks; here it is enough that its one name, which lies in it as plain text, is the owner's.
fn check_certificate(root: &Path, owner: Owner) -> Result<(), DataDirError> {
    let path = root.join("node.crt");
    let certificate = match std::fs::read(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(at(&path, e)),
        read => read.unwrap_or_default(),
    };
    let name = format!("clawhub://{}/node/{}", owner.cluster, owner.node);
    // As it lies in the certificate: an alternative name that is a URI (RFC 5280, 4.2.1.6), its length.
    let length = u8::try_from(name.len()).expect("an id and a number are short");
    let entry = [&[0x86, length], name.as_bytes()].concat();
    let named = certificate.windows(entry.len()).any(|bytes| bytes == entry);
    if named { Ok(()) } else { Err(DataDirError::Mixed { path: root.into(), found: owner }) }
}

fn write_format(root: &Path, owner: Option<Owner>) -> Result<(), DataDirError> {
    let format = Format {
        format: FORMAT_VERSION,
        cluster: owner.map(|o| o.cluster.to_string()),
        node: owner.map(|o| o.node.0),
    };
    let mut text = serde_json::to_vec_pretty(&format).expect("numbers and hex are JSON");
    text.push(b'\n');
    replace(root, "FORMAT", &text)
}

/// Replaces a file in one step, durably.
fn replace(folder: &Path, name: &str, content: &[u8]) -> Result<(), DataDirError> {
    let path = folder.join(name);
    clawhub_durable::replace(&path, content).map_err(|e| at(&path, e))
}

#[cfg(test)]
#[path = "data_dir_test.rs"]
mod tests;
