//! The cluster's certificate authority. Its certificate lies in the replicated state, its key beside it,
//! sealed under the cluster key: any node can admit another.

use std::fmt;

use clawhub_types::{ClusterId, NodeId};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey,
    PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::identity::{ca_subject, ca_uri, node_uri};
use crate::key::{random, sha256};
use crate::{ClusterKey, KeyError};

/// What the CA's key is sealed for.
const PURPOSE: &str = "clawhub ca key v1";

/// A certification request larger than this is refused unread, bytes.
const CSR_LIMIT: usize = 16 << 10;

fn failed(e: rcgen::Error) -> KeyError {
    KeyError::Certificate(e.to_string())
}

/// A certification request whose signature was checked: whoever made it owns the key.
pub struct Csr(PublicKey);

impl Csr {
    /// Checks a PKCS #10 request, DER. Of its content only the public key is used.
    ///
    /// # Errors
    /// [`KeyError::Certificate`] if it is malformed, not signed by its own key, or of another kind of key.
    pub fn parse(der: &[u8]) -> Result<Csr, KeyError> {
        if der.len() > CSR_LIMIT {
            return Err(KeyError::Certificate("the request is too long".into()));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(failed)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(KeyError::Certificate("the key is not ECDSA P-256".into()));
        }
        Ok(Csr(request.public_key))
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.0.subject_public_key_info())
    }
}

/// The certificate authority of one cluster.
pub struct Ca {
    cluster: ClusterId,
    spki: [u8; 32],
    cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// [`KeyError`] if the crypto library fails.
    pub fn create(cluster: ClusterId) -> Result<Ca, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // By the name TLS tells one generation's from another's.
        let [a, b, c, d, ..] = sha256(&key.subject_public_key_info());
        let name = format!("ClawHub {cluster} {:08x}", u32::from_be_bytes([a, b, c, d]));
        let mut params = params(&name, ca_uri(cluster))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params.self_signed(&key).map_err(failed)?;
        Ca::assemble(cert.der().clone(), key)
    }

    /// The authority from the replicated state.
    ///
    /// # Errors
    /// [`KeyError`] if the key does not open, or does not belong to the certificate.
    pub fn open(cert_der: &[u8], sealed_key: &[u8], cluster_key: &ClusterKey) -> Result<Ca, KeyError> {
        let key = cluster_key.open(PURPOSE, sealed_key)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key.into(), &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| KeyError::Key(e.to_string()))?;
        Ca::assemble(CertificateDer::from(cert_der).into_owned(), key)
    }

    fn assemble(cert: CertificateDer<'static>, key: KeyPair) -> Result<Ca, KeyError> {
        let (cluster, spki) = ca_subject(&cert)?;
        if spki != sha256(&key.subject_public_key_info()) {
            return Err(KeyError::Key("it is not the key of the CA's certificate".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key).map_err(failed)?;
        Ok(Ca { cluster, spki, cert, issuer })
    }

    /// Issues a node's certificate, DER, without an end: membership ends by the log, not by a date. The
    /// node proves with it who it is, as a client and as a server.
    ///
    /// # Errors
    /// [`KeyError::Certificate`] if the crypto library fails.
    pub fn issue(&self, csr: Csr, node: NodeId) -> Result<Vec<u8>, KeyError> {
        let mut params = params(&format!("node {node}"), node_uri(self.cluster, node))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        // Nothing of the request but its key: an applicant does not choose its name.
        let request = CertificateSigningRequestParams { params, public_key: csr.0 };
        request.signed_by(&self.issuer).map(|cert| cert.der().to_vec()).map_err(failed)
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificate, DER.
    pub fn cert_der(&self) -> &[u8] {
        &self.cert
    }

    /// SHA-256 of the certificate's SubjectPublicKeyInfo: what join tokens pin.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki
    }

    /// The private key, sealed for the replicated state.
    pub fn seal_key(&self, cluster_key: &ClusterKey) -> Vec<u8> {
        cluster_key.seal(PURPOSE, self.issuer.key().serialized_der())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn params(name: &str, uri: String) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).map_err(failed)?)];
    // Clocks of machines that lost their battery begin in 1970; 9999 is RFC 5280's "no end" (4.1.2.5).
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    // Random, so that two certificates for one key differ; the top bit clear keeps it positive.
    let mut serial = random::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeKey;
    use crate::identity::subject;

    #[test]
    fn the_authority_survives_in_sealed_form_only() {
        let key = ClusterKey::generate();
        let cluster = ClusterId([3; 16]);
        let ca = Ca::create(cluster).unwrap();
        let sealed = ca.seal_key(&key);
        let again = Ca::open(ca.cert_der(), &sealed, &key).unwrap();
        assert_eq!((again.cluster(), again.spki_sha256()), (cluster, ca.spki_sha256()));
        assert!(Ca::open(ca.cert_der(), &sealed, &ClusterKey::generate()).is_err());
        let other = Ca::create(cluster).unwrap();
        assert!(matches!(Ca::open(other.cert_der(), &sealed, &key), Err(KeyError::Key(_))));
    }

    #[test]
    fn a_certificate_names_the_node_that_the_authority_says() {
        let ca = Ca::create(ClusterId([3; 16])).unwrap();
        let key = NodeKey::generate().unwrap();
        let issue = |n| ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), NodeId(n)).unwrap();
        let who = subject(&[issue(9).into()]).unwrap();
        assert_eq!((who.cluster, who.node, who.spki), (ca.cluster(), NodeId(9), key.spki_sha256()));
        assert_eq!(subject(&[issue(u64::MAX).into()]).unwrap().node, NodeId(u64::MAX));
        assert!(subject(&[]).is_err());
        assert!(subject(&[ca.cert_der().to_vec().into()]).is_err(), "a CA is not a node");
        assert!(ca_subject(&issue(9)).is_err(), "a node is not a CA");
    }

    #[test]
    fn a_request_must_be_signed_by_its_own_key() {
        let key = NodeKey::generate().unwrap();
        let good = key.csr().unwrap();
        assert_eq!(Csr::parse(&good).unwrap().spki_sha256(), key.spki_sha256());
        for at in [good.len() - 1, good.len() / 2] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(Csr::parse(&changed).is_err(), "byte {at}");
        }
        assert!(Csr::parse(&[]).is_err());
        assert!(Csr::parse(&vec![0x30; CSR_LIMIT + 1]).is_err());
    }
}
