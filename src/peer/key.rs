//! The two secrets of a node: its own key, which proves who it is, and the cluster key, under which
//! secrets lie sealed in the replicated state.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, hmac, rand};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{KeyError, private_file};

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Fills an array from the system's random generator.
///
/// # Panics
/// If the system has no randomness to give: no key made then could be trusted.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::fill(&mut out).expect("the system random generator works");
    out
}

/// A node's own key, ECDSA P-256. It never leaves the node; losing it means joining anew. Cheap to clone.
#[derive(Clone)]
pub struct NodeKey(Arc<KeyPair>);

impl NodeKey {
    /// Makes a key that is kept nowhere.
    ///
    /// # Errors
    /// [`KeyError::Key`] if the crypto library fails.
    pub fn generate() -> Result<NodeKey, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| KeyError::Key(e.to_string()))?;
        Ok(NodeKey(Arc::new(key)))
    }

    /// Reads the key from `path` (PKCS #8 in PEM, 0600), or makes one and writes it there durably.
    ///
    /// # Errors
    /// [`KeyError`] if the file cannot be read or written, lets others in, or holds no such key.
    pub fn load_or_create(path: &Path) -> Result<NodeKey, KeyError> {
        if let Some(content) = private_file::read(path)? {
            let wrong = |e: KeyError| KeyError::Key(format!("{}: {e}", path.display()));
            return NodeKey::from_pem(&content).map_err(wrong);
        }
        let key = NodeKey::generate()?;
        private_file::write(path, key.pem().as_bytes())?;
        Ok(key)
    }

    /// Reads PKCS #8 in PEM.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<NodeKey, KeyError> {
        let wrong = |e: &dyn fmt::Display| KeyError::Key(e.to_string());
        let text = std::str::from_utf8(pem).map_err(|e| wrong(&e))?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(text, &PKCS_ECDSA_P256_SHA256);
        key.map(|key| NodeKey(Arc::new(key))).map_err(|e| wrong(&e))
    }

    /// The key as PKCS #8 in PEM, for its file.
    pub(crate) fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.0.subject_public_key_info())
    }

    /// A PKCS #10 certification request, DER: the public key, signed by itself.
    ///
    /// # Errors
    /// [`KeyError::Key`] if the crypto library fails.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let request = CertificateParams::default().serialize_request(&*self.0);
        request.map(|r| r.der().to_vec()).map_err(|e| KeyError::Key(e.to_string()))
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// A key for another purpose, the same after every restart.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.serialized_der());
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        out
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// The form of a sealed value: this byte, the nonce, ciphertext and tag.
const SEALED_V1: u8 = 1;

/// The key that seals the CA key and other secrets in the replicated state. Every node keeps it beside
/// the state, in a file of mode 0600, and hands it to the nodes it admits; a copy of the state alone
/// reveals no secret. Never blank.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// Makes a key that is kept nowhere yet.
    pub fn generate() -> ClusterKey {
        ClusterKey(random())
    }

    /// A key received from a member.
    ///
    /// # Errors
    /// [`KeyError::Key`] unless it is 32 bytes and not blank.
    pub fn from_bytes(bytes: &[u8]) -> Result<ClusterKey, KeyError> {
        let key: [u8; 32] =
            bytes.try_into().map_err(|_| KeyError::Key("a cluster key has 32 bytes".into()))?;
        if is_blank(&key) {
            return Err(KeyError::Key("the cluster key is blank".into()));
        }
        Ok(ClusterKey(key))
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    /// [`KeyError`] if the file is missing or unreadable, lets others in, or holds no such key.
    pub fn load(path: &Path) -> Result<ClusterKey, KeyError> {
        let missing =
            || KeyError::File { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
        ClusterKey::from_bytes(&private_file::read(path)?.ok_or_else(missing)?)
    }

    /// Writes the key to its file, durably, mode 0600.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        private_file::write(path, &self.0)
    }

    /// The key itself, to hand to a node that joins. For nothing else.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals a secret with AES-256-GCM under a random nonce. Only the same purpose opens it.
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Vec<u8> {
        let mut body = secret.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut body)
            .expect("a short secret is within the cipher's limits");
        let mut out = Vec::with_capacity(1 + NONCE_LEN + body.len());
        out.push(SEALED_V1);
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(&body);
        out
    }

    /// Opens what [`seal`](Self::seal) made for the same purpose.
    ///
    /// # Errors
    /// [`KeyError::Sealed`] for another key or purpose, or if a bit was changed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let Some((&SEALED_V1, rest)) = sealed.split_first() else { return Err(KeyError::Sealed) };
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(KeyError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyError::Sealed)?;
        let mut body = body.to_vec();
        let plain = self
            .cipher()
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| KeyError::Sealed)?;
        Ok(plain.to_vec())
    }

    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).expect("the key has the cipher's length")
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A secret of one repeated byte was never made by a random generator: something forgot to fill it.
pub(crate) fn is_blank(secret: &[u8]) -> bool {
    secret.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_key_survives_and_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = NodeKey::load_or_create(&path).unwrap();
        let read = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(made.spki_sha256(), read.spki_sha256());
        assert_eq!(made.derive("a"), read.derive("a"));
        assert_ne!(made.derive("a"), read.derive("b"));
        assert_ne!(made.spki_sha256(), NodeKey::generate().unwrap().spki_sha256());
    }

    #[test]
    fn a_damaged_node_key_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        for bad in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            private_file::write(&path, bad.as_bytes()).unwrap();
            assert!(matches!(NodeKey::load_or_create(&path), Err(KeyError::Key(_))), "{bad}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_cluster_key_is_never_blank_or_short() {
        for bad in [&[][..], &[1; 31], &[1; 33], &[0; 32], &[255; 32]] {
            assert!(ClusterKey::from_bytes(bad).is_err());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        assert!(ClusterKey::load(&path).is_err());
        private_file::write(&path, &[0; 32]).unwrap();
        assert!(ClusterKey::load(&path).is_err());
        let key = ClusterKey::generate();
        key.save(&path).unwrap();
        assert!(ClusterKey::load(&path).unwrap() == key);
    }

    #[test]
    fn sealed_values_open_only_unchanged_with_the_same_key_and_purpose() {
        let key = ClusterKey::generate();
        let sealed = key.seal("ca", b"secret");
        assert_eq!(key.open("ca", &sealed).unwrap(), b"secret");
        assert_ne!(key.seal("ca", b"secret"), sealed);
        assert!(key.open("tokens", &sealed).is_err());
        assert!(ClusterKey::generate().open("ca", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("ca", &changed).is_err(), "byte {at}");
            assert!(key.open("ca", &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
