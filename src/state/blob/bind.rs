//! From receipts to a root's record: which receipts count, and what the root's holders are by them.

use clawhub_mutant::Mutant;
use clawhub_types::{Digests, Receipt, Root};

use super::records::{DigestRecord, RootRecord};
use super::roots::{judge, store};
use super::{BlobRejected, keys};
use crate::fault::Fault;
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

/// Records what receipts prove about a root: its digests and these nodes as holders. A new root starts
/// at generation 1.
///
/// `BlobRejected::BadReceipt` if the receipts disagree with each other, with the record or with the nodes'
/// epochs, or if there are none for a root that is not known.
pub(crate) fn bind(
    tx: &mut Tx<'_>,
    cx: &ApplyContext,
    root: Root,
    receipts: &[Receipt],
) -> Result<RootRecord, Stop> {
    let known = tx.view().blob().root(&root)?;
    let mut record = match (known, receipts.first()) {
        (Some(record), _) => record,
        (None, Some(first)) => RootRecord {
            size: first.size,
            generation: 1,
            digests: first.digests.clone(),
            holders: Vec::new(),
            projects: 0,
            links: 0,
            unlinked_since: Some(cx.tick),
            short_since: None,
        },
        (None, None) => return Err(BlobRejected::BadReceipt.into()),
    };
    for receipt in receipts {
        if receipt.root != root || !add(tx, &mut record, receipt)? {
            return Err(BlobRejected::BadReceipt.into());
        }
    }
    // More copies make no root short that was not.
    if record.short_since.is_some() {
        let layout = tx.view().cluster().layout()?;
        judge(tx, cx, &layout, &root, &mut record)?;
    }
    store(tx, &root, &record)?;
    Ok(record)
}

/// Adds one receipt's holder and digests to a root's record, which the caller stores. `false`, and
/// nothing is written, if the receipt is void or contradicts what is known.
pub(super) fn add(tx: &mut Tx<'_>, record: &mut RootRecord, receipt: &Receipt) -> Result<bool, Fault> {
    let node = tx.view().cluster().node(receipt.node)?;
    let mut of_holder = false;
    let mut current = false;
    if let Some(node) = node {
        of_holder = !node.removed && node.spec.roles.storage;
        current = receipt.epoch >= node.epoch || Mutant::IgnoredEpoch.breaks();
    }
    let agrees = receipt.generation == record.generation
        && receipt.size == record.size
        && agree(&record.digests, &receipt.digests);
    let counts = of_holder && agrees || Mutant::UncheckedReceipts.breaks();
    if !counts || !current {
        return Ok(false);
    }
    let mut unnamed = Vec::new();
    for digest in receipt.digests.iter() {
        match tx.view().blob().root_of(&digest)? {
            // The same digest over other bytes.
            Some(named) if named != receipt.root => return Ok(false),
            Some(_) => {}
            None => unnamed.push(digest),
        }
    }
    for digest in unnamed {
        tx.put(keys::digest(&digest), &DigestRecord(receipt.root));
    }
    record.digests.sha512 = record.digests.sha512.or(receipt.digests.sha512);
    if let Err(place) = record.holders.binary_search(&receipt.node) {
        record.holders.insert(place, receipt.node);
        tx.put_raw(keys::holder(receipt.node, &receipt.root), Vec::new());
    }
    Ok(true)
}

/// Whether two nodes' digests may be of the same bytes.
fn agree(a: &Digests, b: &Digests) -> bool {
    let sha512 = match (&a.sha512, &b.sha512) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    a.sha256 == b.sha256 && sha512
}
