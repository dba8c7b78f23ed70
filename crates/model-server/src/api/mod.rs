//! The handlers, one file for each route, and the steps that they share.

pub(crate) mod body;
pub(crate) mod deadline;
pub(crate) mod error;
pub(crate) mod fallback;
pub(crate) mod health;
mod json;
pub(crate) mod metrics;
pub(crate) mod oip;
pub(crate) mod openapi;
pub(crate) mod predict;
mod predict_request;
mod submit;
