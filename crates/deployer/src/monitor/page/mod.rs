//! The page of `deployer monitor`: who may see and do what, and how it is served.

mod access;
mod actions;
pub(crate) mod address;
mod attempts;
mod form;
mod guards;
pub mod keys;
pub(crate) mod links;
mod notes;
mod notices;
mod person;
mod router;
mod server;
mod sessions;
mod token;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::{
    config::Settings,
    monitor::{
        page::{access::Access, actions::Actions, guards::Hosts, notes::Notes, router::Page},
        page_actions::{self, PageInbox},
    },
};

/// The files of the page in the state directory.
fn page_directory(state: &Path) -> PathBuf {
    state.join("page")
}

/// The page, ready to be served.
pub(crate) struct PageServer {
    listener: TcpListener,
    page: Arc<Page>,
    pub(crate) url: String,
}

impl PageServer {
    /// Returns the page, and what the monitor receives from it.
    pub(crate) fn new(
        settings: &Settings,
        listener: TcpListener,
    ) -> anyhow::Result<(Self, PageInbox)> {
        let own = listener.local_addr()?;
        let hosts = Hosts {
            own,
            url: settings.page.url.clone(),
        };
        let (notes, received) = Notes::channel();
        let access = Access::new(&settings.page, &settings.state, hosts, notes)
            .context("the page cannot have sessions")?;
        let (sender, requests) = page_actions::channel();
        let server = Self {
            url: address::url_of(&settings.page, own),
            page: Arc::new(Page::new(access, Actions::new(&settings.state, sender))),
            listener,
        };
        let inbox = PageInbox {
            notes: received,
            requests,
        };
        Ok((server, inbox))
    }
}

/// Serves the page. Never resolves; without a page it does nothing.
pub(crate) async fn serve(server: Option<&PageServer>) {
    let Some(PageServer { listener, page, .. }) = server else {
        return std::future::pending().await;
    };
    server::serve(listener, &router::router(Arc::clone(page))).await;
}
