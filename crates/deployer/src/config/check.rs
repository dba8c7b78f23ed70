//! The allowed range of each setting.

use std::time::Duration;

use axum::http::HeaderName;
use humantime::format_duration;

use crate::{
    config::{
        file::SettingsError, page::PageSettings, routers::RoutersSettings, settings::Settings,
    },
    store::is_name,
};

/// Rejects settings that are out of range.
pub fn check(settings: &Settings) -> Result<(), SettingsError> {
    counts(settings)?;
    shares(settings)?;
    ratios(settings)?;
    durations(settings)?;
    page(&settings.page)?;
    routers(&settings.routers)?;
    let endpoint = &settings.traces.endpoint;
    ensure(
        endpoint.is_empty() || otlp::check_endpoint(endpoint).is_ok(),
        "traces.endpoint",
        endpoint,
        "a URL such as http://localhost:4318, without a query",
    )
}

fn counts(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        smoke,
        golden,
        shadow,
        bake,
        keep,
        monitor,
        ..
    } = settings;
    for (key, count) in [
        ("probe.max_tokens", u64::from(settings.probe.max_tokens)),
        ("smoke.requests", u64::from(smoke.requests)),
        ("golden.min_inputs", golden.min_inputs as u64),
        ("shadow.min_requests", shadow.min_requests),
        ("bake.min_requests", bake.min_requests),
        ("bake.failures", u64::from(bake.failures)),
        ("keep.reports", keep.reports as u64),
        ("keep.log_megabytes", keep.log_megabytes),
        ("monitor.fall", u64::from(monitor.fall)),
        ("monitor.rise", u64::from(monitor.rise)),
    ] {
        ensure(count > 0, key, count, "at least 1")?;
    }
    let warm = &settings.warm;
    ensure(warm.window >= 5, "warm.window", warm.window, "at least 5")?;
    ensure(
        warm.requests as usize >= 2 * warm.window,
        "warm.requests",
        warm.requests,
        "at least 2 × warm.window",
    )
}

fn shares(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        smoke,
        golden,
        agreement,
        warm,
        load,
        shadow,
        bake,
        ..
    } = settings;
    for (key, rate) in [
        ("smoke.max_error_rate", smoke.max_error_rate),
        ("warm.max_error_rate", warm.max_error_rate),
        ("load.max_error_rate", load.max_error_rate),
        ("shadow.max_error_rate", shadow.max_error_rate),
        ("bake.max_error_rate", bake.max_error_rate),
        ("bake.max_rise", bake.max_rise),
    ] {
        ensure(
            (0.0..1.0).contains(&rate),
            key,
            rate,
            "at least 0 and below 1",
        )?;
    }
    for (key, share) in [
        ("golden.min_accuracy", golden.min_accuracy),
        ("golden.max_drop", golden.max_drop),
        ("agreement.warn_below", agreement.warn_below),
        ("agreement.min_agreement", agreement.min_agreement),
    ] {
        ensure(
            (0.0..=1.0).contains(&share),
            key,
            share,
            "at least 0 and at most 1",
        )?;
    }
    Ok(())
}

fn ratios(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        agreement,
        load,
        comparison,
        headroom,
        shadow,
        bake,
        ..
    } = settings;
    for (key, factor) in [
        ("comparison.max_ratio", comparison.max_ratio),
        ("headroom.factor", headroom.factor),
        ("shadow.max_ratio", shadow.max_ratio),
        ("bake.max_ratio", bake.max_ratio),
        ("bake.max_size_ratio", bake.max_size_ratio),
    ] {
        ensure(
            (1.0..=1e6).contains(&factor),
            key,
            factor,
            "at least 1 and at most 1000000",
        )?;
    }
    for (key, drift) in [
        ("agreement.warn_drift", agreement.warn_drift),
        ("shadow.max_label_drift", shadow.max_label_drift),
        ("bake.max_label_drift", bake.max_label_drift),
    ] {
        ensure(drift > 0.0, key, drift, "above 0")?;
    }
    ensure(
        (0.0..=1e6).contains(&load.rate),
        "load.rate",
        load.rate,
        "at least 0 and at most 1000000",
    )?;
    ensure(
        load.rate <= 0.0 || load.concurrency == 0,
        "load.rate",
        load.rate,
        "0 if load.concurrency is set",
    )
}

fn durations(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        health,
        probe,
        load,
        comparison,
        shadow,
        bake,
        approval,
        hooks,
        monitor,
        alerts,
        ..
    } = settings;
    for (key, duration) in [
        ("health.interval", health.interval),
        ("health.stall", health.stall),
        ("probe.timeout", probe.timeout),
        ("warm.duration", settings.warm.duration),
        ("probe.stream.max_silence", probe.stream.max_silence),
        ("probe.stream.max_duration", probe.stream.max_duration),
        ("load.duration", load.duration),
        ("load.timeout", load.timeout),
        ("load.max_p99", load.max_p99),
        ("comparison.duration", comparison.duration),
        ("shadow.duration", shadow.duration),
        ("bake.interval", bake.interval),
        ("approval.expires", approval.expires),
        ("approval.fresh", approval.fresh),
        ("hooks.timeout", hooks.timeout),
        ("monitor.interval", monitor.interval),
        ("alerts.give_up_after", alerts.give_up_after),
    ] {
        ensure(
            !duration.is_zero(),
            key,
            format_duration(duration).to_string(),
            "longer than 0s",
        )?;
    }
    ensure(
        health.deadline >= health.stall,
        "health.deadline",
        format_duration(health.deadline),
        "at least health.stall",
    )?;
    for (key, duration) in [
        ("bake.duration", bake.duration),
        ("bake.window", bake.window),
    ] {
        ensure(
            duration >= bake.interval,
            key,
            format_duration(duration).to_string(),
            "at least bake.interval",
        )?;
    }
    Ok(())
}

fn routers(routers: &RoutersSettings) -> Result<(), SettingsError> {
    let RoutersSettings {
        store,
        token_file,
        fence,
    } = routers;
    let is_url = store.starts_with("http://") || store.starts_with("https://");
    let in_cluster = store.strip_prefix("kubernetes:").is_some_and(is_name);
    ensure(
        store.is_empty() || in_cluster || is_url && !store.ends_with('/') && !store.contains('?'),
        "routers.store",
        store,
        "a URL such as http://10.0.0.5:8090, without a trailing slash, kubernetes:NAME for a ConfigMap, or empty for one router",
    )?;
    ensure(
        store.is_empty() || token_file.is_some(),
        "routers.token_file",
        "empty",
        "a file with the token of the store if routers.store is set",
    )?;
    // A shorter fence closes routers when a network is busy; a longer one makes a switch wait for a dead router.
    ensure(
        (Duration::from_millis(100)..=Duration::from_secs(30)).contains(fence),
        "routers.fence",
        format_duration(*fence),
        "from 100ms to 30s",
    )
}

fn page(page: &PageSettings) -> Result<(), SettingsError> {
    let PageSettings {
        session,
        identity_header,
        identity_from,
        ..
    } = page;
    ensure(
        (Duration::from_mins(1)..=Duration::from_hours(24 * 30)).contains(session),
        "page.session",
        format_duration(*session),
        "from 1m to 30d",
    )?;
    let is_name = identity_header.parse::<HeaderName>().is_ok();
    ensure(
        identity_header.is_empty() || is_name,
        "page.identity_header",
        format_args!("{identity_header:?}"),
        "the name of a header, such as x-forwarded-email",
    )?;
    let from = identity_from.map_or_else(|| "empty".to_owned(), |from| from.to_string());
    ensure(
        identity_header.is_empty() == identity_from.is_none(),
        "page.identity_from",
        from,
        "the IP address of the proxy if page.identity_header is set, and empty otherwise",
    )
}

fn ensure(
    holds: bool,
    key: &'static str,
    value: impl std::fmt::Display,
    expected: &'static str,
) -> Result<(), SettingsError> {
    if holds {
        return Ok(());
    }
    Err(SettingsError::OutOfRange {
        key,
        value: value.to_string(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn default_settings_are_within_range() {
        check(&load(None, &[]).unwrap()).unwrap();
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for setting in [
            "health.stall=0s",
            "health.deadline=10s",
            "smoke.requests=0",
            "smoke.max_error_rate=1.0",
            "bake.max_error_rate=nan",
            "golden.min_accuracy=1.1",
            "warm.window=4",
            "warm.requests=19",
            "warm.duration=0s",
            "load.rate=-1.0",
            "load.timeout=0s",
            "comparison.max_ratio=0.9",
            "agreement.warn_drift=0.0",
            "bake.failures=0",
            "bake.duration=0s",
            "bake.window=10ms",
            "page.session=10s",
            "page.session=31d",
            "page.identity_header=a b",
            "page.identity_from=127.0.0.1",
            "approval.expires=0s",
            "approval.fresh=0s",
            "traces.endpoint=localhost:4318",
            "routers.store=10.0.0.5:8090",
            "routers.store=http://10.0.0.5:8090/",
            "routers.fence=99ms",
            "routers.fence=31s",
        ] {
            let settings = load(None, &[setting.to_owned()]).unwrap();
            let error = check(&settings).unwrap_err().to_string();
            let (key, _) = setting.split_once('=').unwrap();
            assert!(error.starts_with(&format!("{key} is ")), "{error}");
        }
    }

    #[test]
    fn store_of_routers_needs_a_token() {
        let store = "routers.store=http://127.0.0.1:1".to_owned();
        let error = check(&load(None, std::slice::from_ref(&store)).unwrap()).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("routers.token_file is empty"), "{error}");
        let with_token = [store, "routers.token_file=token".to_owned()];
        check(&load(None, &with_token).unwrap()).unwrap();
    }

    #[test]
    fn load_with_both_rate_and_concurrency_is_refused() {
        let both = ["load.rate=20.0", "load.concurrency=500"].map(str::to_owned);
        let error = check(&load(None, &both).unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "load.rate is 20, but must be 0 if load.concurrency is set"
        );
    }
}
