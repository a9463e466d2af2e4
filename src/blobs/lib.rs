//! The local content store: upload sessions, hashing, durable replicas, checked reads, and fetches that
//! are read while they are written.
//!
//! Owns `blobs/`, `uploads/`, `partial/` and `quarantine/` of the data directory, and the rows in the
//! node's `local` store that say what of it counts (module `index`). Files are named by BLAKE3 root and never
//! change; beside each of more than 64 KiB lies its group list, a BLAKE3 chaining value per 64 KiB
//! (ADR 2).
//!
//! A replica comes about in this order, and each step waits for the one before: data and list fsynced →
//! renamed into `blobs/` → directory fsynced → row written and synced → receipt. So a receipt is never
//! ahead of the disk, and module `recover` can tell from what it finds how far a crash let the order come.
//!
//! A crash loses: bytes of an upload after the last `flush`; sessions without a byte; sessions never flushed, if the
//! machine went down; up to 64 MiB of a fetch. It never loses what a receipt was given for.
//!
//! Nothing read from disk leaves before its group was compared with the root since the file was opened, and lately
//! ([`StoreConfig::checks_good_for`]).

mod bits;
mod blob;
mod buffers;
mod cache;
mod cache_usage;
mod cached;
mod checked;
mod checks;
mod error;
mod fetch;
mod finished;
mod finished_upload;
mod hashes;
mod idle;
mod index;
mod ingest;
mod lifecycle;
mod locks;
mod open_files;
mod orphaned;
mod partial;
mod partials;
mod paths;
mod progress;
mod recover;
mod replicas;
mod room;
mod serial;
mod session;
mod sessions;
mod space;
mod store;
mod tree;
mod uploads;
mod uptime;
mod writer;

pub use blob::Blob;
pub use cache::Cache;
pub use cache_usage::{CacheLimit, CacheUsage};
pub use cached::CACHE_MEMORY;
pub use checked::DataFile;
pub use error::BlobError;
pub use finished_upload::FinishedUpload;
pub use ingest::Sealed;
pub use open_files::READ_MEMORY;
pub use orphaned::Orphaned;
pub use partial::Partial;
pub use partials::Partials;
pub use replicas::Replicas;
pub use room::UPLOAD_MEMORY;
pub use session::UploadStatus;
pub use sessions::SESSION_MEMORY;
pub use store::{BlobStore, CHECKS_GOOD_FOR, StoreConfig};
pub use tree::{GROUP, GROUP_VALUE, Groups, list_len, root_of};
pub use uploads::Uploads;
