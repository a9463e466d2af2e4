//! Apply of the domain of bells.

use super::{ToyCmd, ToyEvent, ToyRejected, ToyReply, ToyView, keys};
use crate::outbox;
use crate::project::ensure_repo;
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// A bell breaks after so many times.
const TIMES: u64 = 3;

impl ToyCmd {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>, cx: &mut ApplyContext) -> Result<Reply, Stop> {
        let ToyCmd::Ring { repo } = self;
        let at = ensure_repo(tx, cx, repo)?;
        let mut bell = ToyView::from(tx.view().read()).bell(&at)?;
        if bell.rung == TIMES {
            return Err(ToyRejected::Broken(TIMES).into());
        }
        bell.rung += 1;
        tx.put(keys::bell(at), &bell);
        outbox::emit(tx, cx, ToyEvent::Rung { repo: repo.clone() })?;
        Ok(ToyReply::Rung(bell.rung).into())
    }
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
