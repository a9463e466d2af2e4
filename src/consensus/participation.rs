//! Whether this node takes part, and whether it campaigns.
//!
//! Owns nothing; a node that starts again takes part and campaigns until it is told otherwise.

use std::sync::atomic::Ordering;

use openraft::async_runtime::{AsyncRuntime, WatchReceiver};

use crate::{Consensus, Unavailable};

impl<R: AsyncRuntime> Consensus<R> {
    /// Whether the node takes part: it has not stopped, for whatever reason, and is not stopping. That may take
    /// for ever where a device does not answer.
    ///
    /// # Errors
    /// [`Unavailable`], at once: there is nothing to wait for.
    pub(crate) fn takes_part(&self) -> Result<(), Unavailable> {
        let runs = self.shared.raft.metrics().borrow_watched().running_state.is_ok();
        if runs && !self.shared.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.unavailable("this node takes no part in the cluster for now".to_owned()))
    }

    /// Whether this node campaigns when nobody leads. It votes and follows all the same.
    pub fn campaign(&self, on: bool) {
        self.shared.raft.runtime_config().elect(on);
    }
}
