//! Join tokens: one line of text that lets one node in, once, and tells it which cluster it is talking to.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::key::{is_blank, random, sha256};

const PREFIX: &str = "chj_";
const SECRET: usize = 32;
const PIN: usize = 32;
/// Enough to tell a typing or copying mistake from a token that was used; no protection against anybody.
const CHECKSUM: usize = 4;
const TOTAL: usize = SECRET + PIN + CHECKSUM;

/// Not a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin with the prefix, or holds other characters or another length.
    #[error("a join token is 'chj_' and 91 letters, digits, '-' or '_'")]
    Form,
    /// The checksum does not match.
    #[error("the join token was not copied whole: its checksum does not match")]
    Checksum,
    /// The secret is blank or of the wrong length. Such a token was never given out.
    #[error("the join token holds no secret")]
    Blank,
}

/// The secret part of a token: 32 random bytes. There is no way to have a blank or a short one.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; SECRET]);

impl JoinSecret {
    /// Takes a secret off the wire.
    ///
    /// # Errors
    /// [`TokenError::Blank`] unless it is 32 bytes that differ.
    pub fn from_bytes(bytes: &[u8]) -> Result<JoinSecret, TokenError> {
        let secret: [u8; SECRET] = bytes.try_into().map_err(|_| TokenError::Blank)?;
        if is_blank(&secret) { Err(TokenError::Blank) } else { Ok(JoinSecret(secret)) }
    }

    /// SHA-256 of the secret: what the replicated state knows a token by.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    pub(crate) fn expose(&self) -> &[u8; SECRET] {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// A token: the secret and the pin of the cluster's CA. Its [`Display`](fmt::Display) form is the text
/// given to people, and a secret; its `Debug` form is not.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: JoinSecret,
    ca: [u8; PIN],
}

impl JoinToken {
    /// Makes a token for the cluster whose CA has this SHA-256 of its SubjectPublicKeyInfo.
    pub fn generate(ca: [u8; 32]) -> JoinToken {
        JoinToken { secret: JoinSecret(random()), ca }
    }

    /// The secret.
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo.
    pub fn ca(&self) -> &[u8; 32] {
        &self.ca
    }

    /// SHA-256 of the secret.
    pub fn hash(&self) -> [u8; 32] {
        self.secret.hash()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = sha256(body);
    [a, b, c, d]
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = Vec::with_capacity(TOTAL);
        body.extend_from_slice(&self.secret.0);
        body.extend_from_slice(&self.ca);
        body.extend_from_slice(&checksum(&body));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(body))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads the text form; white space around it is ignored.
    fn from_str(s: &str) -> Result<JoinToken, TokenError> {
        let text = s.trim().strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Form)?;
        if bytes.len() != TOTAL {
            return Err(TokenError::Form);
        }
        let (body, sum) = bytes.split_at(SECRET + PIN);
        if checksum(body) != sum {
            return Err(TokenError::Checksum);
        }
        let (secret, pin) = body.split_at(SECRET);
        let mut ca = [0; PIN];
        ca.copy_from_slice(pin);
        Ok(JoinToken { secret: JoinSecret::from_bytes(secret)?, ca })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secret: [u8; 32], ca: [u8; 32]) -> String {
        JoinToken { secret: JoinSecret(secret), ca }.to_string()
    }

    #[test]
    fn tokens_round_trip_as_text() {
        let token = JoinToken::generate([7; 32]);
        let text = token.to_string();
        assert_eq!(text.len(), 4 + 91);
        assert!(text.parse::<JoinToken>().unwrap() == token);
        assert!(format!(" {text}\n").parse::<JoinToken>().unwrap() == token);
        assert_ne!(token.hash(), JoinToken::generate([7; 32]).hash());
        assert!(!format!("{token:?} {:?}", token.secret()).contains(&text[4..20]));
    }

    #[test]
    fn a_blank_or_short_secret_is_never_accepted() {
        for blank in [[0; 32], [255; 32], [b'a'; 32]] {
            assert_eq!(text(blank, [7; 32]).parse::<JoinToken>(), Err(TokenError::Blank));
            assert_eq!(JoinSecret::from_bytes(&blank), Err(TokenError::Blank));
        }
        for short in [&[][..], &[1], &[1, 2, 3], &[9; 31], &[9; 33]] {
            assert_eq!(JoinSecret::from_bytes(short), Err(TokenError::Blank));
        }
        for not in ["", "chj_", "chj_AAAA", " ", "token"] {
            assert_eq!(not.parse::<JoinToken>(), Err(TokenError::Form), "{not:?}");
        }
    }

    #[test]
    fn a_mistyped_token_says_so() {
        let good = JoinToken::generate([7; 32]).to_string();
        for at in 4..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bytes).unwrap();
            assert!(bad.parse::<JoinToken>().is_err(), "character {at}");
        }
        assert_eq!(good[..good.len() - 1].parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!(format!("{good}A").parse::<JoinToken>(), Err(TokenError::Form));
    }
}
