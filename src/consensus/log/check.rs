//! Reads the whole log when it is opened.

use std::io;

use clawhub_kv::Kv;

use super::{ENTRIES_END, Ends, damaged, index, key};
use crate::record;

/// Entries that the check at opening holds in memory at once; each is at most 128 KiB and a little.
const SCAN_PAGE: usize = 64;

/// Checks every entry, its position and its check sum, that none is missing, and finds the last.
pub(super) fn entries(kv: &dyn Kv, ends: &mut Ends) -> Result<(), io::Error> {
    let mut next = ends.first_index();
    loop {
        let page = kv.scan(&key(next), ENTRIES_END, SCAN_PAGE).map_err(io::Error::from)?;
        for (key, value) in &page {
            let at = index(key)?;
            if at != next {
                return Err(damaged(format!("the log has a hole: entry {next} is missing before {at}")));
            }
            let id = record::decode_entry(at, value)?.log_id;
            if ends.last.is_some_and(|last| last.leader_id > id.leader_id) {
                return Err(damaged(format!("entry {id} follows one of a later term")));
            }
            ends.last = Some(id);
            next += 1;
        }
        if page.len() < SCAN_PAGE {
            return Ok(());
        }
    }
}
