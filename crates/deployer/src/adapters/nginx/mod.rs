//! nginx: flag files and control port, configuration, and request log.

pub(super) mod configuration;
pub(crate) mod flags;
pub(super) mod request_log;
pub(crate) mod router;
