//! Requests to the API server.

use std::{env, fs, path::PathBuf, time::Duration};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate, Method};
use serde_json::Value;

use crate::{
    adapters::http::{answer, client_with_root, refused},
    ports::PortError,
};

/// Where the kubelet puts what a pod needs to reach the API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A patch that replaces the named fields only, and lists as a whole (RFC 7396).
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
/// Server-side apply: the deployer owns the fields that it names, and no others.
pub(super) const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The API server, for objects of one namespace.
#[derive(Clone)]
pub(super) struct Api {
    client: reqwest::Client,
    url: String,
    pub(super) namespace: String,
    /// The kubelet replaces the token before it expires, so each request reads it.
    token: PathBuf,
}

impl Api {
    /// Connects with the service account of this pod. Each request ends within `timeout`.
    pub(super) fn of_this_pod(timeout: Duration) -> Result<Self, PortError> {
        let directory = PathBuf::from(SERVICE_ACCOUNT);
        let host = env::var("KUBERNETES_SERVICE_HOST").map_err(|_| {
            PortError::Invalid(
                "the deployer does not run in a pod (KUBERNETES_SERVICE_HOST is not set): run the deployer in the cluster, as docs/cluster.md says".to_owned(),
            )
        })?;
        let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        // An IPv6 address stands in brackets in a URL.
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|error| {
                let message = format!(
                    "cannot read {}: {error}; the pod needs a service account with automountServiceAccountToken",
                    path.display()
                );
                PortError::of_file(&error, message)
            })
        };
        let root = Certificate::from_pem(read("ca.crt")?.as_bytes()).map_err(|error| {
            PortError::Invalid(format!(
                "{SERVICE_ACCOUNT}/ca.crt is not a certificate: {error}"
            ))
        })?;
        Ok(Self {
            client: client_with_root(timeout, root)?,
            url: format!("https://{host}:{port}"),
            namespace: read("namespace")?.trim().to_owned(),
            token: directory.join("token"),
        })
    }

    /// An API server at `url`, for tests.
    #[cfg(test)]
    pub(super) fn at(url: String, token: PathBuf) -> Self {
        Self {
            client: crate::adapters::http::client(Duration::from_secs(5)).unwrap(),
            url,
            namespace: "models".to_owned(),
            token,
        }
    }

    /// The path of an object of the core API, such as `configmaps/truth`.
    pub(super) fn core(&self, object: &str) -> String {
        format!("/api/v1/namespaces/{}/{object}", self.namespace)
    }

    /// The path of a Deployment.
    pub(super) fn deployment(&self, name: &str) -> String {
        let namespace = &self.namespace;
        format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    }

    /// Returns an object; `None` if no object has this name.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, PortError> {
        let (shown, status, body) = self.send(Method::GET, path, None).await?;
        match status {
            200 => parse(&shown, &body).map(Some),
            404 => Ok(None),
            _ => Err(explain(&shown, status, &body)),
        }
    }

    /// Returns a text, such as a log.
    pub(super) async fn text(&self, path: &str) -> Result<String, PortError> {
        let (shown, status, body) = self.send(Method::GET, path, None).await?;
        match status {
            200 => Ok(body),
            _ => Err(explain(&shown, status, &body)),
        }
    }

    /// Sends a change, and returns the object as it is then. A status other than 200 and 201 is an error of the kind
    /// [`PortError::Refused`], which has the status.
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, PortError> {
        let body = Some((content_type, body));
        let (shown, status, body) = self.send(method, path, body).await?;
        match status {
            200 | 201 => parse(&shown, &body),
            _ => Err(explain(&shown, status, &body)),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<(String, u16, String), PortError> {
        let token = fs::read_to_string(&self.token).map_err(|error| {
            let message = format!("cannot read {}: {error}", self.token.display());
            PortError::of_file(&error, message)
        })?;
        let shown = format!("the API server: {method} {path}");
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        let request = match body {
            Some((content_type, body)) => request
                .header(CONTENT_TYPE, content_type)
                .body(body.to_string()),
            None => request,
        };
        let (status, body) = answer(request, &shown).await?;
        Ok((shown, status, body))
    }
}

fn parse(shown: &str, body: &str) -> Result<Value, PortError> {
    serde_json::from_str(body)
        .map_err(|error| PortError::Invalid(format!("{shown} answered no JSON: {error}")))
}

/// The API server explains a refusal in the field `message` of a `Status`.
fn explain(shown: &str, status: u16, body: &str) -> PortError {
    let object: Option<Value> = serde_json::from_str(body).ok();
    let message = object.as_ref().and_then(|it| it["message"].as_str());
    refused(shown, status, message.unwrap_or(body))
}
