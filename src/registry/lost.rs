//! Copies here that turned out bad, from the moment a reader meets one until the log knows of it.
//!
//! A reader notes the root and goes on with another copy; a reconciler reports what was noted, many with one entry.
//! In memory only, and only so many. What a crash loses, or there is no room for, is noted by the next reader,
//! or found at the next start, which compares everything.

use std::collections::BTreeSet;

use clawhub_state::Command;
use clawhub_state::blob::BlobCmd;
use clawhub_types::Root;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::Core;
use crate::{Error, Registry};

/// Roots that wait: 128 KiB of memory.
const WAITING: usize = 4096;
/// Roots reported with one entry: 8 KiB of its 128.
const PAGE: usize = 256;

/// The roots that wait to be reported, each once.
#[derive(Default)]
pub(crate) struct LostCopies {
    roots: Mutex<BTreeSet<Root>>,
    noted: Notify,
}

impl LostCopies {
    /// Notes a root, if there is room.
    pub(crate) fn note(&self, root: Root) {
        let mut roots = self.roots.lock();
        if roots.len() < WAITING || roots.contains(&root) {
            roots.insert(root);
            drop(roots);
            self.noted.notify_one();
        }
    }

    /// Takes the next roots, and says whether there are more.
    fn take(&self) -> (Vec<Root>, bool) {
        let mut roots = self.roots.lock();
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some(root) = roots.pop_first()
        {
            page.push(root);
        }
        (page, !roots.is_empty())
    }

    /// Has roots wait again that could not be reported. It wakes nobody: the reconciler knows.
    fn put_back(&self, roots: Vec<Root>) {
        let mut waiting = self.roots.lock();
        let room = WAITING.saturating_sub(waiting.len());
        waiting.extend(roots.into_iter().take(room));
    }
}

impl Registry {
    /// Completes when a copy was noted since the last call.
    pub async fn lost_copy_noted(&self) {
        self.inner.parts.lost.noted.notified().await;
    }

    /// Has the log know of the next copies that were noted, and answers whether there are more.
    ///
    /// # Errors
    /// 503, or a fault of the state: they are kept for the next call.
    pub async fn report_lost_copies(&self) -> Result<bool, Error> {
        let (noted, more) = self.inner.parts.lost.take();
        let roots: Vec<Root> = noted.into_iter().filter(|root| is_lost(self.core(), root)).collect();
        if roots.is_empty() {
            return Ok(more);
        }
        let cmd = BlobCmd::Lost { node: self.me(), roots: roots.clone() };
        if let Err(error) = self.propose_system(Command::Blob(cmd)).await {
            self.inner.parts.lost.put_back(roots);
            return Err(error);
        }
        Ok(more)
    }
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
        let lost = LostCopies::default();
        for number in (0..WAITING as u64).chain(0..10) {
            lost.note(root(number));
        }
        lost.note(root(WAITING as u64));
        let mut taken = Vec::new();
        loop {
            let (page, more) = lost.take();
            assert_eq!(page.len(), PAGE);
            taken.extend(page);
            if !more {
                break;
            }
        }
        assert_eq!(taken, (0..WAITING as u64).map(root).collect::<Vec<_>>());
    }
}
