//! Where the page of the running monitor is, for commands on the same machine.

use std::{fs, io, net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    config::{PageSettings, Settings},
    monitor::page::page_directory,
    state::atomic_file,
};

#[derive(Debug, Serialize, Deserialize)]
struct Served {
    url: String,
}

/// Returns the address under which people reach a page that listens on `own`.
pub(crate) fn url_of(settings: &PageSettings, own: SocketAddr) -> String {
    if let Some(url) = &settings.url {
        return url.origin.clone();
    }
    let mut own = own;
    if own.ip().is_unspecified() {
        own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{own}")
}

/// Records where the page is. A killed monitor leaves the record; then nothing answers there.
pub(crate) fn record(state: &Path, url: &str) -> io::Result<()> {
    let served = Served {
        url: url.to_owned(),
    };
    atomic_file::replace_private(&path(state), &serde_json::to_string(&served)?)
}

/// Returns where the page of the last monitor that had one is; `None` if there was none.
pub(crate) fn recorded(state: &Path) -> Option<String> {
    let served: Served = serde_json::from_slice(&fs::read(path(state)).ok()?).ok()?;
    Some(served.url)
}

/// Returns where people reach the page; `None` if there is none.
pub(crate) fn of(settings: &Settings) -> Option<String> {
    let url = settings.page.url.as_ref().map(|url| url.origin.clone());
    url.or_else(|| recorded(&settings.state))
}

/// Removes the record: the monitor ends, or has no page.
pub(crate) fn forget(state: &Path) {
    // Without it there is nothing to remove.
    let _ = fs::remove_file(path(state));
}

fn path(state: &Path) -> std::path::PathBuf {
    page_directory(state).join("address.json")
}
