//! A person who uses the page.

use crate::monitor::page::{keys::Role, token::SecretDigest};

/// A person, and what that person may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// The name of the key, `user@host` of who made the link, or the value of the identity header.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) signed_in: SignedIn,
}

/// How the page knows the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignedIn {
    /// By a session, whose identifier has this digest.
    Session(SecretDigest),
    /// By the header of the proxy.
    Proxy,
}

impl Person {
    /// The person as the history, reports, and notifications name him or her.
    pub(crate) fn by(&self) -> String {
        format!("{} (page)", self.name)
    }

    pub(crate) fn may_act(&self) -> bool {
        self.role == Role::Act
    }
}
