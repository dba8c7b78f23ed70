//! Files and programs of this workspace.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

/// Returns the golden set as request bodies.
pub fn golden_bodies() -> anyhow::Result<Vec<String>> {
    let golden = fs::read_to_string(repository().join("models/sentiment/golden.jsonl"))?;
    golden
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["input"].to_string()))
        .collect()
}

/// Returns the root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory
        .parent()
        .unwrap_or(crate_directory)
        .to_owned()
}

/// Returns the path of a program of this workspace, in the build directory of the running program.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let current = std::env::current_exe()?;
    current
        .ancestors()
        .skip(1)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{name} is not built: run `cargo build --locked --all-targets` first")
        })
}
