//! `deployer page-key NAME --role see|act`

use serde_json::json;

use crate::{
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    monitor::page::keys::{Role, add_key},
};

pub(super) fn run(settings: &Settings, name: &str, role: Role) -> anyhow::Result<CommandOutput> {
    let path = &settings.page.keys;
    let key = add_key(path, name, role).map_err(CommandError::usage)?;
    let text = format!(
        "{key}\n\nThis is the key of {name}. It is shown once: {} has only its digest.",
        path.display()
    );
    let object = json!({"event": "page_key", "name": name, "key": key});
    Ok(CommandOutput::success(text).with_object(object))
}
