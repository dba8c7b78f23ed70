//! Settings that may be empty strings.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize as _, Deserializer};

/// Reads an address with a port; an empty string means none.
pub(super) fn empty_is_no_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not an IP address with a port, such as 127.0.0.1:9109"
        ))
    })?;
    Ok(Some(address))
}

/// Reads a path; an empty string means none.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// Reads a text; an empty string means none.
pub(super) fn empty_is_no_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then_some(text))
}
