//! Locks by root. In memory, and for as long as somebody holds one.

use clawhub_types::Root;
use tokio::sync::{Mutex, MutexGuard};

/// One lock per root, striped: making, confirming and deleting a replica exclude each other.
pub(crate) struct RootLocks(Vec<Mutex<()>>);

impl Default for RootLocks {
    fn default() -> Self {
        RootLocks((0..256).map(|_| Mutex::default()).collect())
    }
}

impl RootLocks {
    pub(crate) async fn lock(&self, root: &Root) -> MutexGuard<'_, ()> {
        self.0[usize::from(root.0[0])].lock().await
    }
}
