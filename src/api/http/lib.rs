//! The HTTP edge that every protocol shares: the listener, its limits and its drain, request bodies
//! as streams, errors as JSON, the access log.
//!
//! Owns connections and nothing durable: a crash loses the requests in flight, and a body that broke
//! off is the registry's to resume. Protocols mount here as axum routers (`api/oci` and later ones);
//! none of them sees a socket.
//!
//! What a client may take, all in [`Limits`]: connections, header bytes and how long they may take,
//! how long a body may stand still, how long a drain waits.

mod app;
mod body;
mod connection;
mod error;
mod io;
mod log;
mod sendfile;
mod server;

pub use app::compose;
pub use body::{TooLarge, body_stream, read_whole};
pub use error::ApiError;
pub use log::{Partial, RequestId};
pub use sendfile::file_body;
pub use server::{Drained, Limits, serve};
