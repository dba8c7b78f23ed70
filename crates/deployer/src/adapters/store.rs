//! The client of `deployer store`.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use hyper::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;

use crate::{
    adapters::{
        http::{answer, cause, client, refused},
        token_file::TokenFile,
    },
    cluster::Truth,
    ports::{PortError, RouterEntry, TruthStore, Version, WriteError},
    store::message::{Current, Routers, Versioned},
};

/// A store that `deployer store` serves.
pub struct HttpStore {
    client: reqwest::Client,
    url: String,
    token: TokenFile,
}

impl HttpStore {
    /// Creates a client of the store at `url`, whose requests end within `timeout`.
    pub fn new(url: &str, token_file: &Path, timeout: Duration) -> Result<Self, PortError> {
        Ok(Self {
            client: client(timeout)?,
            url: url.trim_end_matches('/').to_owned(),
            token: TokenFile::open(token_file)?,
        })
    }

    /// Returns a request, and how messages name it.
    fn request(&self, method: Method, path: &str) -> Result<(RequestBuilder, String), PortError> {
        let url = format!("{}{path}", self.url);
        let shown = format!("{method} {url}");
        let request = self.client.request(method, url);
        Ok((
            request.header(AUTHORIZATION, self.token.authorization()?),
            shown,
        ))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, PortError> {
        let (request, shown) = self.request(Method::GET, path)?;
        let (status, body) = answer(request, &shown).await.map_err(store_failed)?;
        if status != 200 {
            return Err(store_failed(refused(&shown, status, &body)));
        }
        parse(&shown, &body)
    }

    async fn done(&self, (request, shown): (RequestBuilder, String)) -> Result<(), PortError> {
        let (status, body) = answer(request, &shown).await.map_err(store_failed)?;
        match status {
            204 => Ok(()),
            _ => Err(store_failed(refused(&shown, status, &body))),
        }
    }
}

#[async_trait]
impl TruthStore for HttpStore {
    async fn read(&self) -> Result<(Truth, Version), PortError> {
        let Versioned { version, truth } = self.get("/truth").await?;
        Ok((truth, version))
    }

    async fn replace(&self, version: &Version, truth: &Truth) -> Result<Version, WriteError> {
        let (request, shown) = self
            .request(Method::PUT, "/truth")
            .map_err(WriteError::NotWritten)?;
        let body = Versioned {
            version: version.clone(),
            truth: truth.clone(),
        };
        let response = request.json(&body).send().await.map_err(|error| {
            let message = format!("{shown} failed: {}", cause(&error));
            // Without a connection nothing was sent. Each other error may hide a write that landed.
            if error.is_connect() {
                WriteError::NotWritten(store_failed(PortError::Unreachable(message)))
            } else if error.is_timeout() {
                WriteError::Unknown(store_failed(PortError::TimedOut(message)))
            } else {
                WriteError::Unknown(store_failed(PortError::Unreachable(message)))
            }
        })?;
        let status = response.status().as_u16();
        let body = response.text().await;
        match (status, body) {
            (409, _) => Err(WriteError::Conflict),
            (200, Ok(body)) => match parse::<Current>(&shown, &body) {
                Ok(current) => Ok(current.version),
                Err(error) => Err(WriteError::Unknown(error)),
            },
            (status, body) => {
                let body = body.unwrap_or_default();
                let error = store_failed(refused(&shown, status, &body));
                // With these the store refuses a request before it writes. Another status may come from a proxy, or from a
                // disk that failed.
                Err(match status {
                    400 | 401 | 404 | 405 | 413 => WriteError::NotWritten(error),
                    _ => WriteError::Unknown(error),
                })
            }
        }
    }

    async fn routers(&self) -> Result<Vec<RouterEntry>, PortError> {
        let Routers { routers } = self.get("/routers").await?;
        Ok(routers)
    }

    async fn register(&self, router: &RouterEntry) -> Result<(), PortError> {
        let (request, shown) = self.request(Method::PUT, "/routers")?;
        self.done((request.json(router), shown)).await
    }

    async fn unregister(&self, name: &str, incarnation: u64) -> Result<(), PortError> {
        let path = format!("/routers/{name}/{incarnation}");
        self.done(self.request(Method::DELETE, &path)?).await
    }
}

fn store_failed(error: PortError) -> PortError {
    error.context("the store of the routers")
}

fn parse<T: DeserializeOwned>(shown: &str, body: &str) -> Result<T, PortError> {
    serde_json::from_str(body).map_err(|error| {
        let message = format!("{shown} answered what is no answer of `deployer store`: {error}");
        store_failed(PortError::Invalid(message))
    })
}
