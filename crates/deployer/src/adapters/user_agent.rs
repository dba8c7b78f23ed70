//! The user agent of the deployer.

/// The router's log tells the deployer's requests from those of clients by it.
pub(super) const USER_AGENT: &str = concat!("deployer/", env!("CARGO_PKG_VERSION"));
