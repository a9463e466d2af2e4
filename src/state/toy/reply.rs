//! What the domain of bells answers.

use serde::{Deserialize, Serialize};

/// See the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToyReply {
    /// The bell was rung so often by now.
    Rung(u64),
}

/// Why a bell is not rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ToyRejected {
    /// It was rung too often.
    #[error("the bell broke after {0} times")]
    Broken(u64),
}
