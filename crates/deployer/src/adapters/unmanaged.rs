//! Servers that something else starts and stops; the deployer only asks and switches.

use async_trait::async_trait;

use crate::{
    color::Color,
    diagnosis::Finding,
    ports::{Fleet, Service, State, WorldError},
};

/// Leaves every service alone.
pub(super) struct UnmanagedFleet;

#[async_trait]
impl Fleet for UnmanagedFleet {
    async fn start_router(&self) -> Result<(), WorldError> {
        Ok(())
    }

    async fn start(&self, _color: Color, _version: &str) -> Result<(), WorldError> {
        Ok(())
    }

    async fn stop(&self, _service: Service) -> Result<(), WorldError> {
        Ok(())
    }

    async fn inspect(&self, _service: Service) -> Result<(State, Option<String>), WorldError> {
        Ok((State::Unmanaged, None))
    }

    async fn prune(&self, _keep: usize) -> Result<(), WorldError> {
        Ok(())
    }

    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn logs(&self, _service: Service, _lines: usize) -> Vec<String> {
        Vec::new()
    }
}
