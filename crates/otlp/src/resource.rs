//! The resource: what sends the spans.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// The resource attributes: those of OpenTelemetry's environment variables, or the program's own.
#[must_use]
pub fn resource(name: &'static str, version: &'static str) -> Resource {
    let detected = Resource::builder().build();
    let named = |key: &'static str| {
        let value = detected.get(&key.into()).map(|value| value.to_string());
        value.filter(|value| !value.starts_with("unknown_service"))
    };
    let mut own = Vec::new();
    if named("service.name").is_none() {
        own.push(KeyValue::new("service.name", name));
    }
    if named("service.version").is_none() {
        own.push(KeyValue::new("service.version", version));
    }
    Resource::builder().with_attributes(own).build()
}
