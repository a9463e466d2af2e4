//! The administration service: what operators of this machine may ask of the node, over a Unix socket
//! that only the node's own user can open. It is there from the node's first moment, since it is how the
//! node becomes a member.

mod service;
mod socket;
mod view;

pub(crate) use socket::{AdminSocket, serve};
