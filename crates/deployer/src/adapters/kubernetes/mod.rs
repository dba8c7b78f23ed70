//! Kubernetes: the truth in a ConfigMap, and a Deployment for each color.
//!
//! The few requests are plain JSON to the API server, from inside the cluster, with the service account of the pod
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/>). ADR 21 says why there is no client library.

mod api;
mod fleet;
mod rollout;
#[cfg(test)]
mod tests;
mod truth;

pub(super) use self::{fleet::KubernetesFleet, truth::ConfigMapStore};
