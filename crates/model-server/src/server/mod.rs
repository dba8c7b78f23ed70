//! The server around the handlers: routes, layers, connections, and the lifecycle.

mod auth;
mod client_disconnect;
pub(crate) mod decompress;
mod half_close;
mod layers;
pub(crate) mod lifecycle;
mod listener;
mod observe;
mod request_id;
mod request_log;
pub(crate) mod router;
mod signals;
