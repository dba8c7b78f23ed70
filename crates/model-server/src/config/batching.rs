use std::num::NonZeroUsize;

use clap::Args;

/// How many texts share a forward pass.
#[derive(Debug, Clone, Copy, Args)]
pub struct Batching {
    /// Most texts of similar length in one forward pass; 1 turns batching off [default: 4; more for a model
    /// that takes microseconds; 1 for a model that quantizes at run time, whose outputs depend on the batch]
    #[arg(
        long = "max-batch-texts",
        env = "MAX_BATCH_TEXTS",
        value_name = "COUNT"
    )]
    pub max_texts: Option<NonZeroUsize>,

    /// Most tokens in a forward pass, padding included; a longer text runs alone
    #[arg(
        long = "max-batch-tokens",
        env = "MAX_BATCH_TOKENS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    pub max_tokens: NonZeroUsize,
}
