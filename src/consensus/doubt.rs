//! What a node does when its own state may be damaged: it reads all of it, and stops if it is.
//!
//! In memory only. A state that is damaged is found again, by whoever is next sent a snapshot of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawhub_durable as durable;
use openraft::async_runtime::AsyncRuntime;

use crate::core::Core;
use crate::fatal::Failure;
use crate::files;
use crate::install::{Unsound, check};
use crate::snapshot::Snapshots;
use crate::store::StateStore;
use crate::tables::Known;

/// A state that was found to be sound is not read again within this, milliseconds: what is found wrong with it then is
/// its finder's own fault, or will be found again.
const SETTLED_FOR: u64 = 2 * 60 * 1000;

/// When a state that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(30);

/// Whether somebody has reason to doubt this node's state.
#[derive(Default)]
pub(crate) struct Doubt {
    raised: AtomicBool,
    /// When it was last found to be sound, Unix milliseconds.
    settled: AtomicU64,
}

impl Doubt {
    pub(crate) fn raise(&self) {
        let since = durable::now_millis().checked_sub(self.settled.load(Ordering::Relaxed));
        if since.is_none_or(|since| since >= SETTLED_FOR) && !self.raised.swap(true, Ordering::Relaxed) {
            tracing::error!("this node's state may be damaged: all of it is read now");
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    fn settle(&self) {
        self.settled.store(durable::now_millis(), Ordering::Relaxed);
        self.raised.store(false, Ordering::Relaxed);
    }
}

/// Settles doubts.
pub(crate) struct Examiner<R: AsyncRuntime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) doubt: Arc<Doubt>,
    pub(crate) store: StateStore,
    pub(crate) snapshots: Arc<Snapshots>,
}

impl<R: AsyncRuntime> Examiner<R> {
    /// Reads the whole state if there is a doubt about it. A sound one gets a new snapshot, since the last may be what
    /// is damaged; one that is not ends this node's part.
    pub(crate) async fn settle(&self) {
        if !self.doubt.is_raised() {
            return;
        }
        let store = self.store.clone();
        let snapshots = Arc::clone(&self.snapshots);
        let examined = move || Ok(examine(&store, &snapshots));
        let examined = files::blocking::<R, _>(self.core.settings.execution, examined).await;
        let (reason, corrupt) = match examined.unwrap_or_else(|e| Err(e.into())) {
            Ok(()) => {
                tracing::warn!("the state here was read whole and is sound; snapshots are sent of it anew");
                return self.doubt.settle();
            }
            Err(Unsound::Unclear(what)) => {
                tracing::error!(what, "the state here cannot be read for now; the doubt stays");
                return R::sleep(AGAIN).await;
            }
            Err(Unsound::Damaged(what)) => {
                (format!("the applied state of this node is damaged: {what}"), true)
            }
            Err(Unsound::Io(e)) => (format!("the applied state of this node cannot be read: {e}"), false),
        };
        self.core.give_up(Failure { reason, corrupt, device: !corrupt }).await;
    }
}

/// Reads the live state past every cache, and makes it the current snapshot.
fn examine(store: &StateStore, snapshots: &Snapshots) -> Result<(), Unsound> {
    let staged = snapshots.stage(&*store.kv(), None, None)?;
    let position = check(store, &staged.data()?)?;
    let data = staged.data()?;
    // What was known of the tables is in doubt, too.
    let sealed = snapshots.seal(staged.at(position), Some(Known::nothing(&data)))?;
    snapshots.publish(sealed, true)?;
    Ok(())
}
