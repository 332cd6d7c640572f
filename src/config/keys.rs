//! API keys: from the environment or a file, never from TOML, never printed.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::env::Lookup;

/// Where a key is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The provider takes none.
    NotNeeded,
    /// An environment variable.
    Env(String),
    /// A file that holds nothing else.
    File(PathBuf),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => f.write_str("not needed"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A provider's key, as far as there is one.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Where it is to be found.
    pub source: KeySource,
    secret: Option<SecretString>,
}

impl ApiKey {
    /// Looks the key up now. One that is not there is no error yet: a dry run needs none.
    pub(super) fn find(source: KeySource, env: Lookup<'_>) -> Self {
        let text = match &source {
            KeySource::NotNeeded => None,
            KeySource::Env(name) => env(name),
            KeySource::File(path) => std::fs::read_to_string(path).ok(),
        };
        let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Self { source, secret: text.map(SecretString::from) }
    }

    /// Whether a call can be made.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.secret.is_some() || self.source == KeySource::NotNeeded
    }

    /// The key for a call; `None` where the provider takes none.
    ///
    /// # Errors
    /// When the provider needs one and it is not set; says where to put it.
    pub fn require(&self) -> Result<Option<&SecretString>, String> {
        match (&self.secret, &self.source) {
            (Some(secret), _) => Ok(Some(secret)),
            (None, KeySource::NotNeeded) => Ok(None),
            (None, KeySource::Env(name)) => Err(format!("no API key: set the environment variable {name}")),
            (None, KeySource::File(path)) => {
                Err(format!("no API key: put it into {}, readable for outlay", path.display()))
            }
        }
    }
}

impl fmt::Display for ApiKey {
    /// `set` or `not set`, and where it is looked for; never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.secret) {
            (KeySource::NotNeeded, _) => f.write_str("not needed"),
            (source, Some(_)) => write!(f, "set ({source})"),
            (source, None) => write!(f, "not set ({source})"),
        }
    }
}

/// A path as configuration gives it: relative to the configuration file's folder.
pub(super) fn beside(folder: Option<&Path>, path: &str) -> PathBuf {
    folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}
