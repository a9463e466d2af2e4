//! Which CAs are believed, and what it means that one of them issued a certificate.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DistinguishedName, Error, RootCertStore};

use crate::key::sha256;
use crate::keyring::Keyring;
use crate::{KeyError, PeerError};

/// The certificates of the CAs that are believed now, DER: the present one first, then those that are to follow it.
pub(crate) struct Believed(RwLock<Vec<Vec<u8>>>);

impl Believed {
    pub(crate) fn new(keyring: &Keyring) -> Believed {
        let believed = Believed(RwLock::default());
        believed.set(keyring);
        believed
    }

    pub(crate) fn set(&self, keyring: &Keyring) {
        *self.0.write() = keyring.believed().into_iter().map(<[u8]>::to_vec).collect();
    }

    /// Which of them issued a certificate, and which one follows it: SHA-256 of the CAs' certificates.
    pub(crate) fn issuer(&self, cert: &CertificateDer<'_>) -> Option<([u8; 32], Option<[u8; 32]>)> {
        let believed = self.0.read();
        let at = believed.iter().position(|ca| check_issued(cert, ca).is_ok())?;
        Some((sha256(&believed[at]), believed.get(at + 1).map(|next| sha256(next))))
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(crate) fn bad(e: impl fmt::Display) -> PeerError {
    PeerError::Identity(e.to_string())
}

/// Checks that a CA signed a certificate.
pub(crate) fn check_issued(cert: &[u8], ca_cert: &[u8]) -> Result<(), KeyError> {
    let failed = |e: Error| KeyError::Certificate(e.to_string());
    let cert = CertificateDer::from(cert);
    let ca = CertificateDer::from(ca_cert);
    let mut roots = RootCertStore::empty();
    roots.add(ca.into_owned()).map_err(failed)?;
    verify_chain(&cert, &roots, UnixTime::now()).map_err(failed)
}

pub(crate) fn roots(cas: &[&[u8]]) -> Result<RootCertStore, PeerError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(CertificateDer::from(*ca).into_owned()).map_err(bad)?;
    }
    Ok(roots)
}

/// The names of CAs, as TLS tells them.
pub(crate) fn subjects(cas: &[&[u8]]) -> Result<Vec<DistinguishedName>, PeerError> {
    Ok(roots(cas)?.subjects())
}

/// The certificate is signed by a root directly: the CA has no intermediates.
pub(crate) fn verify_chain(
    cert: &CertificateDer<'_>,
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(cert)?,
        roots,
        &[],
        now,
        algorithms,
    )
}
