//! What the store and its clients say to each other, as JSON over HTTP.
//!
//! | Request | Body | Answer |
//! |---|---|---|
//! | `GET /truth` | | [`Versioned`] |
//! | `PUT /truth` | [`Versioned`]: the new truth, and the version that it replaces | [`Current`]; 409 with [`Conflict`] if the store holds another version |
//! | `GET /routers` | | [`Routers`] |
//! | `PUT /routers` | [`RouterEntry`] | 204 |
//! | `DELETE /routers/NAME/INCARNATION` | | 204, also if there is none |
//!
//! Each request carries `Authorization: Bearer TOKEN`.

use serde::{Deserialize, Serialize};

use crate::{
    cluster::Truth,
    ports::{RouterEntry, Version},
};

/// The truth with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versioned {
    pub(crate) version: Version,
    pub(crate) truth: Truth,
}

/// The version after a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Current {
    pub(crate) version: Version,
}

/// Why a write was refused: the store holds another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conflict {
    pub(crate) error: String,
    pub(crate) version: Version,
}

/// The registered routers, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Routers {
    pub(crate) routers: Vec<RouterEntry>,
}
