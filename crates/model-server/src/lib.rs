//! Serves one release of a text classifier over HTTP.
