//! The address of the collector.

use hyper::Uri;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};

/// Checks that `endpoint` is a URL to which `/v1/traces` can be appended.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let uri: Uri = endpoint.parse().map_err(|error| format!("{error}"))?;
    let scheme = uri.scheme_str();
    if !matches!(scheme, Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err("not a URL with http or https and a host".to_owned());
    }
    if uri.query().is_some() {
        return Err("/v1/traces is added to it, so it cannot have a query".to_owned());
    }
    Ok(())
}

/// Creates an exporter that sends protocol buffers over HTTP to `/v1/traces` of `endpoint`. Returns its URL too.
pub fn span_exporter(endpoint: &str) -> Result<(SpanExporter, String), String> {
    check_endpoint(endpoint)?;
    // The exporter needs a TLS provider even for plain HTTP. Another one may be installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&url)
        .build()
        .map_err(|error| error.to_string())?;
    Ok((exporter, url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_endpoint_accepts_only_base_urls() {
        for good in ["http://localhost:4318", "https://otel.example/base/"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost:4318",
            "/v1",
            "grpc://a:4317",
            "http://",
            "http://a/?b=c",
            "not one",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }
}
