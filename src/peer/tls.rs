//! TLS between peers: version 1.3 only, one named provider, both sides certified by a CA of the cluster.
//!
//! The protocol is negotiated by ALPN: a member asks for [`PEER`], and must then show a certificate and
//! say Hello; a node that joins asks for [`JOIN`], and reaches nothing but the join service.

use std::sync::Arc;

use parking_lot::RwLock;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

use crate::identity::{ca_subject, spki_of, subject};
use crate::keyring::{Certified, Keyring};
use crate::shown::Shown;
use crate::trust::{bad, check_issued, provider, roots, verify_chain};
use crate::{Hello, PeerError};

/// gRPC between members, after the Hello.
pub(crate) const PEER: &[u8] = b"clawhub-peer/1";
/// gRPC of the join service.
pub(crate) const JOIN: &[u8] = b"clawhub-join/1";
/// QUIC streams between members.
const STREAMS: &[u8] = b"clawhub-streams/1";

/// Stands where TLS wants a host name. Peers are recognised by certificate, and no name is sent.
pub(crate) const NO_NAME: &str = "peer.invalid";

/// [`NO_NAME`] as TLS wants it.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::try_from(NO_NAME).expect("a constant name is valid")
}

/// The configurations of an endpoint, of one keyring.
pub(crate) struct Tls {
    pub(crate) tcp_server: Arc<ServerConfig>,
    pub(crate) tcp_client: Arc<ClientConfig>,
    pub(crate) quic_server: Arc<QuicServerConfig>,
    pub(crate) quic_client: Arc<QuicClientConfig>,
}

impl Tls {
    /// Checks that a keyring is whole and this node's, and makes the configurations from it.
    pub(crate) fn new(keyring: &Keyring, hello: &Hello) -> Result<Tls, PeerError> {
        for certified in keyring.shown() {
            check(certified, hello)?;
        }
        let believed = keyring.believed();
        let roots = Arc::new(roots(&believed)?);
        let shown = Arc::new(Shown::new(keyring)?);
        let tcp_server = server(&shown, &roots, &[PEER, JOIN])?;
        let quic_server = server(&shown, &roots, &[STREAMS])?;
        let tcp_client = client(&shown, &roots, PEER)?;
        let quic_client = client(&shown, &roots, STREAMS)?;
        Ok(Tls {
            tcp_server: Arc::new(tcp_server),
            tcp_client: Arc::new(tcp_client),
            quic_server: Arc::new(QuicServerConfig::try_from(quic_server).map_err(bad)?),
            quic_client: Arc::new(QuicClientConfig::try_from(quic_client).map_err(bad)?),
        })
    }
}

/// The configurations that hold now, for all that make or take connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CurrentTls(Arc<RwLock<Arc<Tls>>>);

impl CurrentTls {
    pub(crate) fn new(tls: Tls) -> CurrentTls {
        CurrentTls(Arc::new(RwLock::new(Arc::new(tls))))
    }

    pub(crate) fn get(&self) -> Arc<Tls> {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, tls: Arc<Tls>) {
        *self.0.write() = tls;
    }
}

/// A certificate for another key, node or cluster would only be noticed by every peer refusing it.
fn check(certified: &Certified, hello: &Hello) -> Result<(), PeerError> {
    let own = subject(&[CertificateDer::from(certified.cert.as_slice())])?;
    if own.spki != certified.key.spki_sha256() {
        return Err(bad("the certificate is not for this key"));
    }
    if (own.cluster, own.node) != (hello.cluster, hello.node) {
        return Err(bad("the certificate is not for this node of this cluster"));
    }
    let (cluster, _) = ca_subject(&certified.ca_cert).map_err(bad)?;
    if cluster != own.cluster {
        return Err(bad("the CA is another cluster's"));
    }
    check_issued(&certified.cert, &certified.ca_cert).map_err(bad)
}

fn server(shown: &Arc<Shown>, roots: &Arc<RootCertStore>, alpn: &[&[u8]]) -> Result<ServerConfig, PeerError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
    // Whoever may come without a certificate is decided by the protocol it asks for, after TLS.
    let verifier = if alpn.contains(&JOIN) { verifier.allow_unauthenticated() } else { verifier }
        .build()
        .map_err(bad)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(bad)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // Every connection proves itself anew: no tickets, no early data.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client(shown: &Arc<Shown>, roots: &Arc<RootCertStore>, alpn: &[u8]) -> Result<ClientConfig, PeerError> {
    let verifier = Verifier::of(Trust::Roots(roots.clone()));
    let config = client_builder(verifier)?.with_client_cert_resolver(shown.clone());
    Ok(finish_client(config, alpn))
}

/// For a node that joins: it shows no certificate and knows its cluster by a pin.
pub(crate) fn join_client(ca_pin: [u8; 32]) -> Result<Arc<ClientConfig>, PeerError> {
    let config = client_builder(Verifier::of(Trust::Pin(ca_pin)))?.with_no_client_auth();
    Ok(Arc::new(finish_client(config, JOIN)))
}

fn client_builder(
    verifier: Arc<Verifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, PeerError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    Ok(builder.map_err(bad)?.dangerous().with_custom_certificate_verifier(verifier))
}

fn finish_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    config
}

/// Verifies that a server's certificate is signed by the cluster's CA. Which node it is, is for
/// `Authenticator::authenticate` to judge: certificates here hold no host names.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    /// The names of the CAs that are believed, if they are known.
    believed: Option<Vec<DistinguishedName>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// The CA's certificate is known.
    Roots(Arc<RootCertStore>),
    /// SHA-256 of the CA's SubjectPublicKeyInfo is known; the server sends the certificate.
    Pin([u8; 32]),
}

impl Verifier {
    fn of(trust: Trust) -> Arc<Verifier> {
        let believed = match &trust {
            Trust::Roots(roots) => Some(roots.subjects()),
            Trust::Pin(_) => None,
        };
        Arc::new(Verifier { trust, believed, provider: provider() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Roots(roots) => verify_chain(end_entity, roots, now)?,
            Trust::Pin(pin) => {
                let pinned = |cert: &&CertificateDer<'_>| spki_of(cert).is_ok_and(|spki| spki == *pin);
                let ca = intermediates.iter().find(pinned).ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned())?;
                verify_chain(end_entity, &roots, now)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.believed.as_deref()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
