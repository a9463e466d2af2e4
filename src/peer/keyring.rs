//! What a node shows and believes at new connections. While the keys of the cluster are replaced there are two of each.
//!
//! Both sides of a connection say which CAs they believe (RFC 8446, 4.2.4), and are shown a certificate of one of them:
//! two nodes that are at different steps understand each other as long as they believe one CA in common.

use rustls::pki_types::CertificateDer;

use crate::NodeKey;

/// A node's own key, and the certificate that a CA issued for it.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The key.
    pub key: NodeKey,
    /// The certificate, DER.
    pub cert: Vec<u8>,
    /// The certificate of the CA, DER.
    pub ca_cert: Vec<u8>,
}

impl Certified {
    /// What a node shows: its certificate, and the CA's for a caller that so far only knows its pin.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        [&self.cert, &self.ca_cert].map(|der| CertificateDer::from(der.clone())).to_vec()
    }
}

/// What a node shows and believes.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// Of the generation in force: what strangers are shown, too, whose tokens pin its CA.
    pub present: Certified,
    /// Of the next generation, once the node has it.
    pub next: Option<Certified>,
    /// The certificate of the next CA, DER: it is believed beside the present one.
    pub next_ca: Option<Vec<u8>>,
    /// Show the next certificate to those who believe either CA.
    pub prefer_next: bool,
}

impl Keyring {
    /// Of one generation.
    pub fn of(present: Certified) -> Keyring {
        Keyring { present, next: None, next_ca: None, prefer_next: false }
    }

    /// The certificates of the CAs that are believed.
    pub(crate) fn believed(&self) -> Vec<&[u8]> {
        let next = self.next.as_ref().map(|next| &next.ca_cert);
        let mut all: Vec<&[u8]> = vec![&self.present.ca_cert];
        for ca in [next, self.next_ca.as_ref()].into_iter().flatten() {
            if !all.contains(&ca.as_slice()) {
                all.push(ca);
            }
        }
        all
    }

    /// What is shown, by preference.
    pub(crate) fn shown(&self) -> Vec<&Certified> {
        let mut shown: Vec<&Certified> =
            [Some(&self.present), self.next.as_ref()].into_iter().flatten().collect();
        if self.prefer_next {
            shown.reverse();
        }
        shown
    }
}
