//! The HTTP edge that every protocol shares: the listener, its limits and its drain, request bodies
//! as streams, the access log.
//!
//! Owns connections and nothing durable: a crash loses the requests in flight, and a body that broke
//! off is the registry's to resume. Protocols mount here as axum routers, each with a [`Protocol`] that says
//! which paths are its own and how the listener refuses a request in its name; none of them sees a socket, and
//! nothing here knows any of them.
//!
//! What a client may take, all in [`Limits`]: connections, header bytes and how long they may take,
//! how long a body may stand still, how long a drain waits.

mod app;
mod body;
mod connection;
mod io;
mod log;
mod protocol;
mod sendfile;
mod server;

pub use body::{TooLarge, body_stream, read_whole};
pub use log::{Partial, RequestId};
pub use protocol::{Protocol, Refusal, Site};
pub use sendfile::file_body;
pub use server::{Drained, Limits, serve};
