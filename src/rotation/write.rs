//! What rotation writes: one object a write, with the version it was planned on. No I/O.

use std::fmt;

use super::state::Hook;
use crate::pki::{KeyPem, Pem};

/// One write and its precondition.
#[derive(Debug, Clone)]
pub enum Write {
    /// Make the Secret. A conflict if another made it with other contents meanwhile.
    Create(Pem),
    /// Change parts of the Secret, and leave alone what else is in it.
    Change {
        /// The version it must still have.
        version: String,
        /// What changes.
        change: Change,
    },
    /// Write these caBundles, and nothing else.
    Bundles {
        /// The version the configuration must still have.
        version: String,
        /// The webhooks, with the caBundles they shall have.
        hooks: Vec<Hook>,
    },
}

/// Changes to the Secret. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// `tls.crt` and `tls.key`.
    pub pair: Option<KeyPem>,
    /// `next.crt` and `next.key`.
    pub next: Option<Next>,
    /// `ca.crt`.
    pub ca: Option<String>,
    /// The annotation that says which request was carried out.
    pub answered: Option<String>,
}

/// What becomes of the staged pair.
#[derive(Debug, Clone)]
pub enum Next {
    /// This one is staged.
    Set(KeyPem),
    /// None is.
    Clear,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else was first: look again.
    Conflict(String),
    /// It failed, and may have been done all the same.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(why) => write!(f, "somebody else was first: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}
