//! Reads commands from `docs/virtual-machine.md`, so that the tests run what the guide says.

use std::fs;

use anyhow::Context as _;
use end_to_end::repository;

use crate::Result;

/// Returns the commands below this bold heading, for the service `blue-green`.
pub(crate) fn commands(heading: &str) -> Result<String> {
    let guide = fs::read_to_string(repository().join("docs/virtual-machine.md"))?;
    let commands = guide
        .split_once(&format!("**{heading}**"))
        .and_then(|(_, rest)| rest.split_once("\n```sh\n"))
        .and_then(|(_, rest)| rest.split_once("\n```\n"))
        .with_context(|| format!("docs/virtual-machine.md has no commands below {heading:?}"))?
        .0;
    Ok(commands.replace("NAME", "blue-green"))
}
