//! Standard Webhooks' symmetric signature, version 1: HMAC-SHA256 over `id.timestamp.body`.
//!
//! Source: the specification of the Standard Webhooks project, "Signature scheme".

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use super::SetupError;

/// The least that the specification allows.
const SECRET_BYTES_MIN: usize = 24;
const PREFIX: &str = "whsec_";

/// Signs with one secret.
#[derive(Clone)]
pub struct Signer(SecretSlice<u8>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A secret as it is handed out: base64, usually behind `whsec_`.
    ///
    /// # Errors
    /// When it is not base64, or too short to be a secret.
    pub fn new(secret: &SecretString) -> Result<Self, SetupError> {
        let text = secret.expose_secret();
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        let bytes = STANDARD.decode(text).map_err(|_| SetupError::Secret)?;
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SetupError::Secret);
        }
        Ok(Self(bytes.into()))
    }

    /// The value of `webhook-signature`; `at` is in seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, at: i64, body: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()) else {
            unreachable!("HMAC takes keys of any length");
        };
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_vector() {
        let signer =
            Signer::new(&SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).expect("a secret");
        let signature =
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let plain = Signer::new(&SecretString::from("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).expect("a secret");
        assert_eq!(plain.sign("a", 1, b""), signer.sign("a", 1, b""));
        assert!(!format!("{signer:?}").contains("MfKQ"));
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        for secret in ["", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64 at all, but long enough"] {
            let error = Signer::new(&SecretString::from(secret)).expect_err(secret).to_string();
            assert!(secret.len() < 7 || !error.contains(&secret[6..]), "{error}");
        }
    }
}
