//! A plain HTTP client of the page: what a browser never sends, and many viewers at once.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc};

type Result<T = ()> = anyhow::Result<T>;

/// A client with or without a session.
#[derive(Debug, Clone)]
pub(crate) struct PlainClient {
    address: SocketAddr,
    cookie: String,
}

/// The status of an answer, and its body.
pub(crate) type Answer = (u16, String);

impl PlainClient {
    /// A client that is not signed in.
    pub(crate) fn nobody(address: SocketAddr) -> Self {
        Self {
            address,
            cookie: String::new(),
        }
    }

    pub(crate) async fn sign_in(address: SocketAddr, key: &str) -> Result<Self> {
        let nobody = Self::nobody(address);
        let origin = format!("http://{address}");
        let body = format!("key={key}");
        let response = nobody.send("POST", "/sign-in", &origin, body).await?;
        let cookie = response.headers().get(SET_COOKIE);
        let cookie = cookie.with_context(|| format!("no cookie: {response:?}"))?;
        let cookie = cookie.to_str()?.split(';').next().unwrap_or_default();
        Ok(Self {
            address,
            cookie: cookie.to_owned(),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.send("GET", path, "", String::new()).await?).await
    }

    /// Sends a form as a page of `origin` would.
    pub(crate) async fn post_from(&self, origin: &str, path: &str, form: &str) -> Result<Answer> {
        answer(self.send("POST", path, origin, form.to_owned()).await?).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        origin: &str,
        body: String,
    ) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the response.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(COOKIE, &self.cookie)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !origin.is_empty() {
            request = request.header(ORIGIN, origin);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        Ok(sender.send_request(request).await?)
    }

    /// Follows the page's events after `last`. Passes each to `events`, until that is closed.
    pub(crate) async fn follow(
        &self,
        last: Option<&str>,
        events: mpsc::UnboundedSender<PageEvent>,
    ) -> Result {
        let path = format!("/stream?last={}", last.unwrap_or_default());
        let response = self.send("GET", &path, "", String::new()).await?;
        ensure!(response.status() == 200, "{response:?}");
        let mut body = response.into_body();
        let mut unread = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            unread.extend_from_slice(&data);
            while let Some(end) = unread.windows(2).position(|it| it == b"\n\n") {
                let event: Vec<u8> = unread.drain(..end + 2).collect();
                let event = PageEvent::parse(std::str::from_utf8(&event)?);
                if event.is_some_and(|event| events.send(event).is_err()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

async fn answer(response: Response<Incoming>) -> Result<Answer> {
    let status = response.status().as_u16();
    let to = response.headers().get(LOCATION);
    let to = to.map(|to| format!("to {}", to.to_str().unwrap_or_default()));
    let body = response.into_body().collect().await?.to_bytes();
    let body = String::from_utf8(body.to_vec())?;
    Ok((status, to.unwrap_or(body)))
}

/// One message of the page.
#[derive(Debug, Clone)]
pub(crate) struct PageEvent {
    /// What a viewer who connects again says to go on after this message.
    pub(crate) id: String,
    /// The position in the live file, in bytes, up to which the viewer now sees it.
    pub(crate) position: u64,
    /// The sections that changed.
    pub(crate) sections: Vec<(String, String)>,
    pub(crate) received: Instant,
}

impl PageEvent {
    /// Reads a message; `None` for a comment, which keeps the connection alive.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let id = field("id: ")?;
        let (position, _) = id.split_once('@')?;
        Some(Self {
            id: id.to_owned(),
            position: position.parse().ok()?,
            sections: serde_json::from_str(field("data: ")?).ok()?,
            received: Instant::now(),
        })
    }
}
