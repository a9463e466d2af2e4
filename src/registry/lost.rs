//! Copies here that turned out bad, from the moment a reader meets one until the log knows of it.
//!
//! A reader notes the root and goes on with another copy; a reconciler reports what was noted, many with one entry.
//! In memory only, and only so many. What a crash loses, or there is no room for, is noted by the next reader,
//! or found at the next start, which compares everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use clawhub_state::Command;
use clawhub_state::blob::BlobCmd;
use clawhub_types::Root;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Error;
use crate::core::Core;

/// Roots that wait: 128 KiB of memory.
const WAITING: usize = 4096;
/// Roots reported with one entry: 8 KiB of its 128.
const PAGE: usize = 256;

/// The roots that wait to be reported, each once.
pub struct LostCopies {
    core: Arc<Core>,
    waiting: Mutex<BTreeSet<Root>>,
    noted: Notify,
}

impl LostCopies {
    pub(crate) fn new(core: Arc<Core>) -> LostCopies {
        LostCopies { core, waiting: Mutex::default(), noted: Notify::new() }
    }

    /// Notes a root, if there is room.
    pub(crate) fn note(&self, root: Root) {
        if add(&mut self.waiting.lock(), root) {
            self.noted.notify_one();
        }
    }

    /// Completes when a copy was noted since the last call.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    /// Reports to the log the next copies that were noted, and answers whether there are more.
    ///
    /// # Errors
    /// Unavailable, or a fault of the state: they are kept for the next call.
    pub async fn report(&self) -> Result<bool, Error> {
        let (noted, more) = take(&mut self.waiting.lock());
        let roots: Vec<Root> = noted.into_iter().filter(|root| is_lost(&self.core, root)).collect();
        if roots.is_empty() {
            return Ok(more);
        }
        let cmd = Command::Blob(BlobCmd::Lost { node: self.core.me(), roots: roots.clone() });
        match self.core.propose_system(cmd).await {
            Ok(Ok(_)) => Ok(more),
            Ok(Err(rejected)) => {
                self.wait_again(roots);
                Err(rejected.into())
            }
            Err(error) => {
                self.wait_again(roots);
                Err(error)
            }
        }
    }

    /// Has roots wait again that could not be reported. It wakes nobody: the reconciler knows.
    fn wait_again(&self, roots: Vec<Root>) {
        let mut waiting = self.waiting.lock();
        for root in roots {
            add(&mut waiting, root);
        }
    }
}

/// Adds a root, if there is room; whether it waits now.
fn add(waiting: &mut BTreeSet<Root>, root: Root) -> bool {
    waiting.contains(&root) || (waiting.len() < WAITING && waiting.insert(root))
}

/// Takes the next roots, and says whether there are more.
fn take(waiting: &mut BTreeSet<Root>) -> (Vec<Root>, bool) {
    let mut page = Vec::new();
    while page.len() < PAGE
        && let Some(root) = waiting.pop_first()
    {
        page.push(root);
    }
    (page, !waiting.is_empty())
}

/// Whether there is no copy here, as far as the store can be asked.
pub(crate) fn is_lost(core: &Core, root: &Root) -> bool {
    !core.blobs().is_held_back() && matches!(core.blobs().has(root), Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(number: u64) -> Root {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Root(bytes)
    }

    #[test]
    fn a_root_waits_once_and_only_so_many_do() {
        let mut waiting = BTreeSet::new();
        for number in (0..WAITING as u64).chain(0..10) {
            assert!(add(&mut waiting, root(number)));
        }
        assert!(!add(&mut waiting, root(WAITING as u64)));
        let mut taken = Vec::new();
        loop {
            let (page, more) = take(&mut waiting);
            assert_eq!(page.len(), PAGE);
            taken.extend(page);
            if !more {
                break;
            }
        }
        assert_eq!(taken, (0..WAITING as u64).map(root).collect::<Vec<_>>());
    }
}
