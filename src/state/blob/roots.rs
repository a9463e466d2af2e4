//! The record of a root, and the rows that follow from it.
//!
//! A root that is linked and lacks copies has a row among those under target, one that nobody links has one
//! among the unlinked. [`store`] moves both with the record, whatever changed it. Whether copies lack is
//! [judged](judge) when holders or links change. A change of the layout or of a policy cannot touch every root
//! in one entry: until [`review`] has come by, their rows say what was right before.

use clawhub_policy::{Layout, complete};
use clawhub_types::Root;

use super::records::RootRecord;
use super::{BlobReply, REVIEW, keys};
use crate::fault::Fault;
use crate::key::Key;
use crate::reply::Reply;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// The record of a root that something refers to.
pub(crate) fn known(tx: &Tx<'_>, root: &Root) -> Result<RootRecord, Fault> {
    tx.view().blob().root(root)?.ok_or_else(|| Fault::Corrupt {
        what: "root",
        why: format!("{root} is linked or held, but has no record"),
    })
}

/// Writes a root's record, and the rows of the indices that it stands in.
pub(super) fn store(tx: &mut Tx<'_>, root: &Root, record: &RootRecord) -> Result<(), Fault> {
    let before = tx.view().blob().root(root)?;
    let old = before.as_ref().map_or([None, None], |before| rows(root, before));
    let new = rows(root, record);
    for (old, new) in old.into_iter().zip(new) {
        if old == new {
            continue;
        }
        if let Some(key) = old {
            tx.delete(key);
        }
        if let Some(key) = new {
            tx.put_raw(key, Vec::new());
        }
    }
    tx.put(keys::root(root), record);
    Ok(())
}

/// The rows that a root stands in: under target, unlinked.
fn rows(root: &Root, record: &RootRecord) -> [Option<Key>; 2] {
    let copies = u8::try_from(record.holders.len()).unwrap_or(u8::MAX);
    [
        record.short_since.map(|since| keys::under_target(copies, since, root)),
        record.unlinked_since.map(|since| keys::unlinked(since, root)),
    ]
}

/// Marks a root as short of copies, or as not. One that stays short is so since it was.
pub(super) fn mark(record: &mut RootRecord, cx: &ApplyContext, short: bool) {
    record.short_since = short.then(|| record.short_since.unwrap_or(cx.tick));
}

/// Marks a root by what the projects that link it ask for.
pub(super) fn judge(
    tx: &Tx<'_>,
    cx: &ApplyContext,
    layout: &Layout,
    root: &Root,
    record: &mut RootRecord,
) -> Result<(), Fault> {
    let short = record.links > 0 && !complete(&tx.view().blob().policies(root)?, layout, &record.holders);
    mark(record, cx, short);
    Ok(())
}

pub(super) fn review(tx: &mut Tx<'_>, cx: &ApplyContext, roots: &[Root]) -> Result<Reply, Stop> {
    let layout = tx.view().cluster().layout()?;
    let mut changed = 0;
    for root in roots.iter().take(REVIEW) {
        let Some(mut record) = tx.view().blob().root(root)? else { continue };
        let before = record.short_since;
        judge(tx, cx, &layout, root, &mut record)?;
        if record.short_since != before {
            store(tx, root, &record)?;
            changed += 1;
        }
    }
    Ok(BlobReply::Count(changed).into())
}

#[cfg(test)]
#[path = "roots_test.rs"]
mod tests;
