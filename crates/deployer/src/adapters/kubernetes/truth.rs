//! The truth in a ConfigMap, and the routers in another one.
//!
//! A write names the `resourceVersion` that it replaces, and the API server refuses a stale one with 409. A `GET` without a
//! `resourceVersion` is a quorum read. The routers have a ConfigMap of their own, so that a router that registers does not
//! make a write of the truth stale. A merge patch of one key changes no other key.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Api, MERGE_PATCH};
use crate::{
    cluster::Truth,
    color::Color,
    ports::{PortError, RouterEntry, TruthStore, Version, WriteError},
};

/// A truth in a ConfigMap.
pub(in crate::adapters) struct ConfigMapStore {
    api: Api,
    name: String,
}

/// A router in its ConfigMap, below its name.
#[derive(Serialize, Deserialize)]
struct Entry {
    url: String,
    incarnation: u64,
}

impl ConfigMapStore {
    /// The store of this pod's namespace, in the ConfigMap `name`.
    pub(in crate::adapters) fn connect(name: &str, timeout: Duration) -> Result<Self, PortError> {
        Ok(Self::new(Api::of_this_pod(timeout)?, name))
    }

    pub(super) fn new(api: Api, name: &str) -> Self {
        Self {
            api,
            name: name.to_owned(),
        }
    }

    fn path(&self) -> String {
        self.api.core(&format!("configmaps/{}", self.name))
    }

    fn routers_path(&self) -> String {
        self.api.core(&format!("configmaps/{}-routers", self.name))
    }

    /// Changes the entry of one router. The ConfigMap is created if it is missing.
    async fn patch_routers(&self, patch: &Value) -> Result<(), PortError> {
        let routers = self.routers_path();
        for _ in 0..3 {
            let patched = self.api.write(Method::PATCH, &routers, MERGE_PATCH, patch);
            match patched.await {
                Err(PortError::Refused { status: 404, .. }) => {}
                result => return result.map(drop),
            }
            let name = format!("{}-routers", self.name);
            let new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            let created = self.api.core("configmaps");
            let created = self
                .api
                .write(Method::POST, &created, "application/json", &new);
            match created.await {
                // Another router created it.
                Ok(_) | Err(PortError::Refused { status: 409, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(PortError::Other(format!(
            "the ConfigMap {}-routers was deleted again and again",
            self.name
        )))
    }
}

#[async_trait]
impl TruthStore for ConfigMapStore {
    async fn read(&self) -> Result<(Truth, Version), PortError> {
        let create = format!(
            "`kubectl create configmap {} --from-literal=active=blue` creates it, or with green if green has the traffic",
            self.name
        );
        let object = self.api.get(&self.path()).await?.ok_or_else(|| {
            PortError::Invalid(format!("the ConfigMap {} is missing: {create}", self.name))
        })?;
        let data = &object["data"];
        let truth = match (data["truth"].as_str(), data["active"].as_str()) {
            (Some(truth), _) => serde_json::from_str(truth).map_err(|error| {
                PortError::Invalid(format!(
                    "the ConfigMap {} holds a damaged truth: {error}",
                    self.name
                ))
            })?,
            (None, Some(active)) => new_truth(active, &create)?,
            (None, None) => {
                return Err(PortError::Invalid(format!(
                    "the ConfigMap {} holds no truth: delete it; {create}",
                    self.name
                )));
            }
        };
        Ok((truth, version(&object)?))
    }

    async fn replace(&self, version: &Version, truth: &Truth) -> Result<Version, WriteError> {
        let text = serde_json::to_string(truth)
            .map_err(|error| WriteError::NotWritten(PortError::Other(error.to_string())))?;
        let patch = json!({
            "metadata": {"resourceVersion": version.0},
            "data": {"truth": text, "active": truth.flags.active.name()},
        });
        let object = self.path();
        let written = self.api.write(Method::PATCH, &object, MERGE_PATCH, &patch);
        match written.await {
            Ok(object) => super::truth::version(&object).map_err(WriteError::Unknown),
            Err(PortError::Refused { status: 409, .. }) => Err(WriteError::Conflict),
            // With these the API server refuses a request before it writes.
            Err(
                error @ PortError::Refused {
                    status: 400 | 401 | 403 | 404 | 405 | 413 | 415 | 422 | 429,
                    ..
                },
            ) => Err(WriteError::NotWritten(error)),
            Err(error) => Err(WriteError::Unknown(error)),
        }
    }

    async fn routers(&self) -> Result<Vec<RouterEntry>, PortError> {
        let Some(object) = self.api.get(&self.routers_path()).await? else {
            return Ok(Vec::new());
        };
        let data = object["data"].as_object();
        let entry = |(name, value): (&String, &Value)| {
            let Entry { url, incarnation } = parse_entry(name, value)?;
            Ok(RouterEntry {
                name: name.clone(),
                url,
                incarnation,
            })
        };
        data.into_iter().flatten().map(entry).collect()
    }

    async fn register(&self, router: &RouterEntry) -> Result<(), PortError> {
        let RouterEntry {
            name,
            url,
            incarnation,
        } = router;
        let entry = json!({"url": url, "incarnation": incarnation}).to_string();
        self.patch_routers(&json!({"data": {name: entry}})).await
    }

    async fn unregister(&self, name: &str, incarnation: u64) -> Result<(), PortError> {
        let routers = self.routers_path();
        for _ in 0..5 {
            let Some(object) = self.api.get(&routers).await? else {
                return Ok(());
            };
            let value = &object["data"][name];
            if value.is_null() || parse_entry(name, value)?.incarnation != incarnation {
                return Ok(());
            }
            let removal = json!({
                "metadata": {"resourceVersion": version(&object)?.0},
                "data": {name: null},
            });
            let removed = self
                .api
                .write(Method::PATCH, &routers, MERGE_PATCH, &removal);
            match removed.await {
                // Another router registered meanwhile.
                Err(PortError::Refused { status: 409, .. }) => {}
                result => return result.map(drop),
            }
        }
        Err(PortError::Other(format!(
            "router {name} cannot be removed, because other routers register all the time"
        )))
    }
}

/// The truth of a ConfigMap that only names the active color.
fn new_truth(active: &str, create: &str) -> Result<Truth, PortError> {
    let active = Color::BOTH.into_iter().find(|color| color.name() == active);
    let active = active
        .ok_or_else(|| PortError::Invalid(format!("its key `active` names no color; {create}")))?;
    Ok(Truth::of_new_store(active))
}

fn parse_entry(name: &str, value: &Value) -> Result<Entry, PortError> {
    let text = value.as_str().unwrap_or_default();
    serde_json::from_str(text).map_err(|error| {
        PortError::Invalid(format!("the entry of router {name} is damaged: {error}"))
    })
}

fn version(object: &Value) -> Result<Version, PortError> {
    let version = object["metadata"]["resourceVersion"].as_str();
    let version = version.ok_or_else(|| {
        PortError::Invalid("the API server sent a ConfigMap without resourceVersion".to_owned())
    })?;
    Ok(Version(version.to_owned()))
}
