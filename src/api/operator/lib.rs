//! The administration service: what operators of this machine may ask of the node, over a Unix socket
//! that only the node's own user can open. It is there from the node's first moment, since it is how the
//! node becomes a member.
//!
//! Each request is parsed, answered by one call of `cluster` or `registry`, and rendered. There is no state that a
//! crash could lose but the socket's file, which the next start replaces.

mod node_handle;
mod service;
mod socket;
mod view;

pub use node_handle::{Health, Member, NodeHandle};
pub use socket::{AdminSocket, serve};
