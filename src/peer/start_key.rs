//! The key of one start of a node: secrets are sealed to it in the log, and only that process opens them.
//!
//! It is in memory and nowhere else, so that neither a copy of the node's disk nor a later copy of the log is worth
//! anything. A crash loses it, and what was sealed to it is sealed again to the next start.

use std::fmt;

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};

use crate::{ClusterKey, KeyError};

/// RFC 9180, base mode.
const SUITE: &dyn Hpke = DH_KEM_P256_HKDF_SHA256_AES_256;
/// What is sealed.
const PURPOSE: &[u8] = b"clawhub cluster key v1";
/// The length of an encapsulated secret of this suite, bytes.
const SECRET: usize = 65;

/// What one start of a node opens what is sealed to it with.
pub struct StartKey {
    public: Vec<u8>,
    private: HpkePrivateKey,
}

impl StartKey {
    /// Draws one.
    ///
    /// # Errors
    /// [`KeyError::Key`] if the crypto library fails.
    pub fn generate() -> Result<StartKey, KeyError> {
        let pair = SUITE.generate_key_pair().map_err(|e| KeyError::Key(e.to_string()))?;
        let (public, private) = pair;
        Ok(StartKey { public: public.0, private })
    }

    /// The public half, for the log.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Opens a cluster key that was sealed to this start in the same context.
    ///
    /// # Errors
    /// [`KeyError::Sealed`] if it was sealed to another start or in another context, or was changed;
    /// [`KeyError::Key`] if what is in it is no cluster key.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<ClusterKey, KeyError> {
        let (secret, body) = sealed.split_at_checked(SECRET).ok_or(KeyError::Sealed)?;
        let secret = EncapsulatedSecret(secret.to_vec());
        let opened = SUITE.open(&secret, PURPOSE, context, body, &self.private);
        ClusterKey::from_bytes(&opened.map_err(|_| KeyError::Sealed)?)
    }
}

impl fmt::Debug for StartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StartKey(..)")
    }
}

impl ClusterKey {
    /// Seals this key to the start of a node that has this public half. Only the same context opens it.
    ///
    /// # Errors
    /// [`KeyError::Key`] if that is no such key.
    pub fn seal_to(&self, start_key: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        let public = HpkePublicKey(start_key.to_vec());
        let sealed = SUITE.seal(PURPOSE, context, self.expose(), &public);
        let (secret, body) = sealed.map_err(|e| KeyError::Key(e.to_string()))?;
        Ok([secret.0, body].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_that_it_was_sealed_to_opens_it_and_in_its_context() {
        let (start, other) = (StartKey::generate().unwrap(), StartKey::generate().unwrap());
        let key = ClusterKey::generate();
        let sealed = key.seal_to(start.public(), b"here").unwrap();
        assert_eq!(sealed.len(), SECRET + 32 + 16);
        assert!(start.open(b"here", &sealed).unwrap() == key);
        assert!(start.open(b"there", &sealed).is_err());
        assert!(other.open(b"here", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(start.open(b"here", &changed).is_err(), "byte {at}");
            assert!(start.open(b"here", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(key.seal_to(b"", b"here").is_err());
        assert!(!format!("{start:?}").contains(&format!("{:?}", start.public())));
    }
}
