//! The commands of the guide for virtual machines.

use std::fs;

use anyhow::Context as _;
use end_to_end::repository;

use crate::Result;

/// The commands below this heading, for the service `blue-green`.
pub(crate) fn commands(heading: &str) -> Result<String> {
    let guide = fs::read_to_string(repository().join("docs/virtual-machine.md"))?;
    let commands = guide
        .split_once(&format!("**{heading}**"))
        .and_then(|(_, rest)| rest.split_once("\n```sh\n"))
        .and_then(|(_, rest)| rest.split_once("\n```\n"))
        .with_context(|| format!("the guide has no commands for {heading:?}"))?
        .0;
    Ok(commands.replace("NAME", "blue-green"))
}
