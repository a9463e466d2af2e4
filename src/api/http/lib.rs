//! The HTTP edge that every protocol shares: the listener, its limits and its drain, request bodies
//! as streams, the access log.
//!
//! Owns connections and nothing durable: a crash loses the requests in flight, and a body that broke
//! off is the registry's to resume. Protocols mount here as axum routers, each with a [`Protocol`] that says
//! which paths are its own and how the listener refuses a request in its name; none of them sees a socket, and
//! nothing here knows any of them.
//!
//! What a client may take is in [`Limits`]: connections, header bytes and how long they may take, how slow a body may
//! be, how long a drain waits. Who has a connection and who gives way is `places`, who waits for one `waiting`, how slow
//! a client may be `pace`, and what whole bodies take together `memory`, in the `lane`s of which networks have shares.

mod app;
mod body;
mod connection;
mod flight;
mod io;
mod lane;
mod limits;
mod log;
mod memory;
mod pace;
mod places;
mod protocol;
mod sendfile;
mod server;
mod traffic;
mod vouching;
mod waiting;

pub use body::{NotRead, body_stream, read_whole};
pub use connection::{H1_MEMORY, H2_MEMORY};
pub use limits::Limits;
pub use log::{Partial, RequestId};
pub use memory::{BODY_MEMORY, BodyMemory, Share};
pub use protocol::{Protocol, Refusal, Site};
pub use sendfile::file_body;
pub use server::{Drained, serve};
pub use waiting::WAITING_MEMORY;
