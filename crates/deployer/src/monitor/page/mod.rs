//! The page of `deployer monitor`: who may see and do what, and how it is served.

mod access;
mod actions;
pub(crate) mod address;
mod attempts;
mod extractors;
pub(crate) mod feed;
mod figures;
mod form;
mod guards;
pub mod keys;
pub(crate) mod links;
mod notes;
mod notices;
mod person;
mod possible;
mod recent;
pub(crate) mod render;
mod render_actions;
mod render_colors;
mod render_compare;
mod render_history;
mod render_status;
mod router;
#[cfg(test)]
mod samples;
mod security_headers;
pub(crate) mod server;
mod sessions;
pub(crate) mod stream;
pub(crate) mod token;
pub(crate) mod traffic;
pub(crate) mod view;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::{
    config::Settings,
    monitor::{
        page::{
            access::Access, actions::Actions, guards::Hosts, notes::Notes, router::Page,
            stream::Live,
        },
        page_actions::{self, PageInbox},
    },
    ports::Ports,
    report::Reports,
};

/// The files of the page in the state directory.
fn page_directory(state: &Path) -> PathBuf {
    state.join("page")
}

/// The page, ready to be served.
pub(crate) struct PageServer {
    listener: TcpListener,
    page: Arc<Page>,
    pub(crate) live: Arc<Live>,
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
        let live = Arc::new(Live::new(&settings.state));
        let actions = Actions::new(&settings.state, sender);
        let reports = Reports::of(&settings.state);
        let server = Self {
            url: address::url_of(&settings.page, own),
            page: Arc::new(Page::new(access, actions, Arc::clone(&live), reports)),
            live,
            listener,
        };
        let inbox = PageInbox {
            notes: received,
            requests,
        };
        Ok((server, inbox))
    }
}

/// Serves the page, and follows the deployments that it shows. Never resolves; without a page it does nothing.
pub(crate) async fn serve(server: Option<&PageServer>, ports: &Ports) {
    let Some(PageServer {
        listener,
        page,
        live,
        ..
    }) = server
    else {
        return std::future::pending().await;
    };
    let router = router::router(Arc::clone(page));
    tokio::join!(server::serve(listener, &router), live.follow(ports));
}
