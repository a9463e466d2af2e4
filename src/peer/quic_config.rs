//! How QUIC is set up: windows, limits, and what an endpoint derives from its key.

use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;

use crate::limits::{
    HANDSHAKES, MEMBERS_HANDSHAKES, QUIC_IDLE, QUIC_KEEPALIVE, QUIC_PENDING_BYTES, QUIC_SEND_WINDOW,
    QUIC_STREAM_WINDOW, QUIC_WINDOW, STREAMS_PER_CONNECTION, UDP_PAYLOAD,
};
use crate::tls::Tls;
use crate::{NodeKey, PeerError};

/// Bytes of packets kept for one connection that is not accepted yet.
const PENDING_BYTES_EACH: u64 = 64 << 10;

/// How connections are taken, and made.
pub(crate) fn configs(tls: &Tls) -> Result<(quinn::ServerConfig, quinn::ClientConfig), PeerError> {
    let mut server = quinn::ServerConfig::with_crypto(tls.quic_server.clone());
    server
        .transport_config(Arc::new(transport(STREAMS_PER_CONNECTION)?))
        .migration(false)
        .max_incoming(HANDSHAKES + MEMBERS_HANDSHAKES)
        .incoming_buffer_size(PENDING_BYTES_EACH)
        .incoming_buffer_size_total(QUIC_PENDING_BYTES);
    let mut client = quinn::ClientConfig::new(tls.quic_client.clone());
    client.transport_config(Arc::new(transport(0)?));
    Ok((server, client))
}

fn transport(streams: u32) -> Result<TransportConfig, PeerError> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(QUIC_STREAM_WINDOW.into())
        .receive_window(QUIC_WINDOW.into())
        .send_window(QUIC_SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(QUIC_KEEPALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(QUIC_IDLE).map_err(failed)?))
        .mtu_discovery_config(Some(mtu));
    Ok(config)
}

/// What this endpoint derives from its key is the same after a restart, so that a peer whose connection
/// died with the process is told at its next packet and need not wait for silence.
pub(crate) fn endpoint_config(key: &NodeKey) -> Result<quinn::EndpointConfig, PeerError> {
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &key.derive("clawhub quic stateless reset v1"));
    let [a, b, c, d, e, f, g, h, ..] = key.derive("clawhub quic connection ids v1");
    let ids = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.max_udp_payload_size(UDP_PAYLOAD).map_err(failed)?;
    Ok(config)
}

pub(crate) fn failed(e: impl std::fmt::Display) -> PeerError {
    PeerError::Quic(e.to_string())
}
