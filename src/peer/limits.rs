//! Every bound on what peers and strangers can make a node hold or wait for.

use std::time::Duration;

/// From the first packet of a connection, in or out, to its admission: TCP connect, TLS and Hello
/// together.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long [`open`](crate::Endpoint::open) waits for the peer to allow another stream.
pub const OPEN: Duration = Duration::from_secs(10);

/// Handshakes under way at once, TCP and QUIC each. What comes on top is dropped at once.
pub const HANDSHAKES: usize = 256;

/// Handshakes beside those, from addresses where members were last, TCP and QUIC each: strangers cannot keep members
/// from coming back.
pub const MEMBERS_HANDSHAKES: usize = 64;

/// What a handshake takes in memory, about: the state of TLS, and of a QUIC connection that begins.
pub const HANDSHAKE_BYTES: usize = 64 << 10;

/// Bytes of packets kept for all QUIC connections that are not accepted yet.
pub const QUIC_PENDING_BYTES: u64 = 4 << 20;

/// Addresses of members that are remembered.
pub const MEMBERS_ADDRESSES: usize = 1024;

/// Live connections with one peer, both directions, TCP and QUIC together. The cluster needs twelve.
pub const CONNECTIONS_PER_PEER: usize = 64;

/// Connections without a client certificate at once.
pub const STRANGERS: usize = 16;

/// How long a connection without a client certificate may live.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(60);

/// Bytes that a connection without a client certificate may send over its whole life.
pub const STRANGER_BYTES: usize = 128 << 10;

/// Bytes of one gRPC message that is received.
pub const MESSAGE: usize = clawhub_wire::MESSAGE_LIMIT;

/// Requests under way at once on one gRPC connection.
pub const REQUESTS: u32 = 256;

/// HTTP/2 receive window of a gRPC stream, bytes.
pub const GRPC_STREAM_WINDOW: u32 = 4 << 20;

/// HTTP/2 receive window of a gRPC connection, bytes.
pub const GRPC_WINDOW: u32 = 8 << 20;

/// Silence on a gRPC connection before it is probed.
pub const GRPC_KEEPALIVE: Duration = Duration::from_secs(3);

/// How long the probe may go without an answer before the connection is closed.
pub const GRPC_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same where much may be on its way before the probe: connections for entries and snapshots. A dead member is found
/// earlier, by its connection for control.
pub const GRPC_BULK_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes that the kernel takes for a TCP connection and has not sent.
pub const UNSENT: u32 = 128 << 10;

/// Receive window of a QUIC stream, bytes.
pub const QUIC_STREAM_WINDOW: u32 = 16 << 20;

/// Receive window of a QUIC connection, bytes.
pub const QUIC_WINDOW: u32 = 64 << 20;

/// Bytes sent and not acknowledged on a QUIC connection.
pub const QUIC_SEND_WINDOW: u64 = 32 << 20;

/// QUIC streams open at once that one connection may start: room for what is read beside all the uploads that
/// one node may mirror on another.
pub const STREAMS_PER_CONNECTION: u32 = 1024;

/// QUIC streams served at once over all connections, beside each one's own; the rest waits, unread, at its
/// sender.
pub const STREAMS: usize = 1024;

/// QUIC streams that are served at once over each connection whatever the others do, so that a ping never waits
/// behind bulk.
pub const STREAMS_OWN: usize = 16;

/// Silence before QUIC sends a packet to keep the connection alive.
pub const QUIC_KEEPALIVE: Duration = Duration::from_secs(5);

/// Silence after which a QUIC connection counts as dead.
pub const QUIC_IDLE: Duration = Duration::from_secs(15);

/// The largest UDP payload that is probed for and received, for networks with jumbo frames. quinn hands
/// the kernel ten packets in one datagram to be cut up, and one that is longer than UDP allows is
/// dropped without an error: ten of these must fit.
pub const UDP_PAYLOAD: u16 = 6500;
const _: () = assert!(10 * UDP_PAYLOAD as usize <= 65_507);

/// Socket buffer asked for, each direction, bytes.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// How long a stopping endpoint waits for calls and streams under way.
pub const DRAIN: Duration = Duration::from_secs(2);

/// How long a failed attempt to reach a peer counts against it.
pub const SUSPICION: Duration = Duration::from_secs(5);

/// How long streams may go on over a connection that was made with keys which have been replaced since.
pub const LINGER: Duration = Duration::from_secs(600);
