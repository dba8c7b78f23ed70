//! The engines that run a model's graph, behind one trait.

mod rten;

use thiserror::Error;

pub use self::rten::GraphError;
pub(crate) use self::rten::{RtenEngine, RtenModel};
use crate::text::TokenIds;

/// A forward pass that failed.
#[derive(Debug, Error)]
#[error("the forward pass failed: {0}")]
pub(crate) struct EngineError(pub(crate) String);

/// Runs forward passes for one worker thread. Each worker has its own.
pub(crate) trait Engine: Send + 'static {
    /// The logits of one text, one per label.
    fn infer(&mut self, tokens: TokenIds) -> Result<Vec<f32>, EngineError>;

    /// Runs `work` where calls of [`Engine::infer`] are cheapest: some engines have threads of
    /// their own, and a call from outside pays for the way there.
    fn enter<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        work(self)
    }
}
