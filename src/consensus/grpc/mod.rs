//! [`Transport`](crate::transport::Transport) over gRPC, and the service that answers it. The only part
//! of this crate that knows tonic, and through it tokio.
//!
//! It owns nothing. Each kind of traffic has a connection of its own; who a caller is was checked when the connection
//! was made, and a vote is accepted only from the node it names.

mod client;
mod convert;
mod server;

pub use client::{Channels, GrpcTransport};
pub use server::{Service, service};
