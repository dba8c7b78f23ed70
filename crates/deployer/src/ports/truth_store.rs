//! The store with compare-and-swap that holds the truth of several routers.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{cluster::Truth, ports::error::PortError};

/// Names a state of the store. Only the store knows what it means.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

/// A router in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterEntry {
    /// The router's name, unique in the store.
    pub name: String,
    /// The URL of its agent, without a trailing slash.
    pub url: String,
    /// The number of this start of the agent.
    pub incarnation: u64,
}

/// Why a write to the store had no answer that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The store holds another version: nothing was written.
    #[error("the store was changed by another writer")]
    Conflict,
    /// The write was refused or never sent: nothing was written.
    #[error("{0}")]
    NotWritten(PortError),
    /// Nothing is known: the write may have landed, or may still land.
    #[error("{0}")]
    Unknown(PortError),
}

/// Holds the truth and the list of routers. Every read is linearizable: it returns what was written last before the read
/// began, or later. Every call is bounded in time.
#[async_trait]
pub trait TruthStore: Send + Sync {
    /// Returns the truth and its version. A new store holds [`Truth::default`].
    async fn read(&self) -> Result<(Truth, Version), PortError>;

    /// Replaces the truth if the store still holds `version`. Returns the new version.
    async fn replace(&self, version: &Version, truth: &Truth) -> Result<Version, WriteError>;

    /// Returns the registered routers.
    async fn routers(&self) -> Result<Vec<RouterEntry>, PortError>;

    /// Registers a router, or replaces its entry of the same name.
    async fn register(&self, router: &RouterEntry) -> Result<(), PortError>;

    /// Removes the router of this name and incarnation, if it is registered.
    async fn unregister(&self, name: &str, incarnation: u64) -> Result<(), PortError>;
}
