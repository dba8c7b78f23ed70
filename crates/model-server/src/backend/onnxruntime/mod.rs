//! ONNX Runtime, a library that is loaded at the start.

pub(crate) mod library;
mod malloc;
pub(crate) mod session;
mod tensors;
