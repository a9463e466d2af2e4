//! Which certificate is shown at a handshake: one whose CA the other side says that it believes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, SignatureScheme};

use crate::PeerError;
use crate::keyring::Keyring;
use crate::trust::{bad, provider, subjects};

/// A peer that believes none of them tries again and again; one line in this time tells of it.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The certificates of a node, the preferred one first.
#[derive(Debug)]
pub(crate) struct Shown {
    certificates: Vec<(DistinguishedName, Arc<CertifiedKey>)>,
    /// For those who do not say whom they believe: they know the pin of the present CA.
    strangers: Arc<CertifiedKey>,
    warned: Mutex<Option<Instant>>,
}

impl Shown {
    pub(crate) fn new(keyring: &Keyring) -> Result<Shown, PeerError> {
        let mut certificates = Vec::new();
        for certified in keyring.shown() {
            let subject = subjects(&[&certified.ca_cert])?.into_iter().next();
            let subject = subject.ok_or_else(|| bad("the CA has no name"))?;
            certificates.push((subject, key(certified)?));
        }
        Ok(Shown { certificates, strangers: key(&keyring.present)?, warned: Mutex::new(None) })
    }

    /// For a peer that believes these CAs. One that believes none of ours hears it from its own TLS.
    fn for_peer(&self, believes: impl Fn(&[u8]) -> bool) -> Option<Arc<CertifiedKey>> {
        let found = self.certificates.iter().find(|(ca, _)| believes(ca.as_ref()));
        if found.is_none() {
            self.warn();
        }
        found.or(self.certificates.first()).map(|(_, certified)| certified.clone())
    }

    fn warn(&self) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(
                "a peer believes no CA that this node has a certificate of: one of the two was away while the \
                 cluster's keys were replaced. `status` of the others names who was left behind and comes back as a \
                 new node"
            );
        }
    }
}

fn key(certified: &crate::Certified) -> Result<Arc<CertifiedKey>, PeerError> {
    let key = provider().key_provider.load_private_key(certified.key.private_der()).map_err(bad)?;
    Ok(Arc::new(CertifiedKey::new(certified.chain(), key)))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.certificate_authorities() {
            Some(cas) => self.for_peer(|ca| cas.iter().any(|believed| believed.as_ref() == ca)),
            None => Some(self.strangers.clone()),
        }
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, cas: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.for_peer(|ca| cas.is_empty() || cas.contains(&ca))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
