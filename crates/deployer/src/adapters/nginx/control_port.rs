//! Questions to the control port of one nginx.

use std::time::Duration;

use crate::{
    adapters::{
        http::{answer, client},
        nginx::router::{active_color, other_requests},
    },
    color::Color,
    ports::PortError,
};

/// The control port of the nginx beside this process.
pub(crate) struct ControlPort {
    client: reqwest::Client,
    url: String,
}

impl ControlPort {
    /// Creates a client of the control port at `url`. Each question ends within `timeout`.
    pub(crate) fn new(url: &str, timeout: Duration) -> Result<Self, PortError> {
        Ok(Self {
            client: client(timeout)?,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Returns the color that nginx names as active.
    pub(crate) async fn active(&self) -> Result<Color, PortError> {
        let (shown, status, text) = self.get("/active").await?;
        active_color(&shown, status, text.trim())
    }

    /// Returns how many requests nginx works on.
    pub(crate) async fn in_flight(&self) -> Result<u64, PortError> {
        let (shown, status, text) = self.get("/in-flight").await?;
        other_requests(&shown, status, text.trim())
    }

    /// Returns whether a server of `color` answers nginx, with any status of its own.
    pub(crate) async fn reaches(&self, color: Color) -> bool {
        let answer = self.get(&format!("/{color}/health")).await;
        // nginx answers these itself if no server does.
        answer.is_ok_and(|(_, status, _)| !matches!(status, 502 | 504))
    }

    async fn get(&self, path: &str) -> Result<(String, u16, String), PortError> {
        let url = format!("{}{path}", self.url);
        let shown = format!("GET {url}");
        let (status, text) = answer(self.client.get(&url), &shown).await?;
        Ok((shown, status, text))
    }
}
