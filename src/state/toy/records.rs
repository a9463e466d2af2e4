//! Records of the domain of bells.

use serde::{Deserialize, Serialize};

use crate::record::record;

/// A bell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BellRecord {
    /// How often it was rung.
    pub rung: u64,
}
record!(BellRecord, 0x7e00, "bell");
