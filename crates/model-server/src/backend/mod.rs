//! The engines that run a graph, behind one trait.

pub(crate) mod engine;
pub(crate) mod onnx_file;
pub(crate) mod onnxruntime;
pub(crate) mod rten;
pub(crate) mod tensor;

#[cfg(test)]
mod tests;
