//! `deployer page-link`

use jiff::Timestamp;
use serde_json::json;

use crate::{
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    monitor::page::{address, links::Links},
    state::lock_holder::current_user,
};

pub(super) fn run(settings: &Settings) -> anyhow::Result<CommandOutput> {
    let url = address::recorded(&settings.state).ok_or_else(|| {
        CommandError::usage(
            "no monitor serves the page: with Compose run `docker compose up --detach monitor`; otherwise set monitor.page, such as \"127.0.0.1:9110\", and start `deployer monitor`",
        )
    })?;
    let made = Links::of(&settings.state).make(&current_user(), Timestamp::now());
    let token = made
        .map_err(|error| CommandError::usage(format!("cannot make a link to the page: {error}")))?;
    let link = format!("{url}/link/{token}");
    let text = format!("{link}\n\nIt signs you in once, within 5 min.");
    let object = json!({"event": "page_link", "link": link});
    Ok(CommandOutput::success(text).with_object(object))
}
