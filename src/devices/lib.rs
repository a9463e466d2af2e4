//! What the devices of a node say of themselves, and what that means.
//!
//! There are two parts: **metadata** (votes and entries, the state, what the node alone knows; each perhaps on a device
//! of its own) and **blobs**. A look writes a block to each device, fsyncs it, and asks how much room there is. A
//! ballast, a file that is given up when the device of the log runs full, leaves metadata somewhere to go.
//!
//! What follows from a failure is decided above. A crash loses nothing but what was found; the next look finds it
//! again.

mod ballast;
mod condition;
mod devices;
mod look;
mod volume;

pub use condition::{Condition, Part, Seen};
pub use devices::{Devices, Folders};
pub use look::Look;
