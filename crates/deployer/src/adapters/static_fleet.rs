//! Servers that something else starts and stops.

use async_trait::async_trait;

use crate::{
    color::Color,
    doctor::finding::Finding,
    ports::{Fleet, FleetDiagnosis, PortError, Service, ServiceState},
};

/// Starts and stops nothing.
pub(super) struct StaticFleet;

#[async_trait]
impl Fleet for StaticFleet {
    async fn start_router(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn start(&self, _color: Color, _version: &str) -> Result<(), PortError> {
        Ok(())
    }

    async fn stop(&self, _service: Service) -> Result<(), PortError> {
        Ok(())
    }

    async fn inspect(
        &self,
        _service: Service,
    ) -> Result<(ServiceState, Option<String>), PortError> {
        Ok((ServiceState::Unmanaged, None))
    }

    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl FleetDiagnosis for StaticFleet {
    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn logs(&self, _service: Service, _lines: usize) -> Vec<String> {
        Vec::new()
    }
}
