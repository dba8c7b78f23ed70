use std::path::PathBuf;

use clap::Args;

/// Which release to serve.
#[derive(Debug, Clone, Args)]
pub struct ModelSettings {
    /// Model to serve: a directory in the model root
    #[arg(
        long = "model-name",
        env = "MODEL_NAME",
        default_value = "sentiment",
        value_name = "NAME"
    )]
    pub name: String,

    /// Release to serve: a directory of the model, such as v1 (required)
    // The ID `version` belongs to clap's own flag.
    #[arg(
        id = "model_version",
        long = "model-version",
        env = "MODEL_VERSION",
        default_value = "",
        hide_default_value = true,
        value_name = "VERSION"
    )]
    pub version: String,

    /// Directory of models: ROOT/NAME/VERSION/{model.onnx, tokenizer.json, config.json}
    #[arg(
        long = "model-root",
        env = "MODEL_ROOT",
        default_value = "models",
        value_name = "ROOT"
    )]
    pub root: PathBuf,
}
