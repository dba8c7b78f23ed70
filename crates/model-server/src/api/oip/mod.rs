//! The Open Inference Protocol, version 2, over REST, with its binary tensor extension
//! (<https://github.com/kserve/open-inference-protocol>).
//!
//! A release that reads texts takes either `text` (BYTES) or all inputs of its graph. A release for tensors takes the
//! inputs of its graph.

pub(crate) mod handlers;
pub(crate) mod metadata;
pub(crate) mod model_path;
mod request;
mod response;
mod tensor_binary;
mod tensor_data;
mod tensor_json;
mod types;
