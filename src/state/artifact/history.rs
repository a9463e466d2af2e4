//! What a tag named before: one row a change, the newest kept.
//!
//! The rows outlive the tag. They are a ring: each change takes the next number and deletes the one that falls out.

use clawhub_types::{Digest, Tag};

use super::keys;
use super::records::TagChange;
use crate::fault::Fault;
use crate::project::RepoRef;
use crate::tx::{ApplyContext, Tx};

/// Changes kept of each tag.
pub const KEPT: u64 = 100;

/// Notes that a tag names something else from now on; `None` if it is gone.
pub(super) fn note(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    at: RepoRef,
    tag: &Tag,
    digest: Option<&Digest>,
) -> Result<(), Fault> {
    let newest = tx.view().read().last(&keys::changes(at, tag.as_str()))?;
    let n = match newest {
        Some(row) => row.parts()?.number()?.saturating_add(1),
        None => 0,
    };
    let change = TagChange {
        index: cx.index,
        digest: digest.cloned(),
        tick: cx.tick,
        at: cx.at,
        actor: cx.actor.clone(),
    };
    tx.put(keys::change(at, tag.as_str(), n), &change);
    if let Some(oldest) = n.checked_sub(KEPT) {
        tx.delete(keys::change(at, tag.as_str(), oldest));
    }
    Ok(())
}
