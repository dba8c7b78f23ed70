//! The real model server behind a layer that misbehaves as the version says.

use std::{
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::IntoResponse as _,
};
use clap::Parser;
use end_to_end::fault::{
    CROWD, ENOUGH, FAR_SLOWER, FIRST, Fault, MANY, NEVER_IN_TIME, SELDOM, SLOWER, STALL, VERY_LONG,
};
use http_body_util::BodyExt as _;
use model_server::{ServeArguments, logging, run};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    serve: ServeArguments,
    #[arg(long, env = "MODEL_VERSION")]
    fault: String,
}

#[derive(Clone)]
struct Misbehavior {
    fault: Option<Fault>,
    predictions: Arc<AtomicU64>,
    /// The requests through the router.
    routed: Arc<AtomicU64>,
    in_flight: Arc<AtomicU64>,
    /// Whether it is slow after SIGUSR1.
    slow: Arc<AtomicBool>,
}

/// Counts a request while it is in flight.
struct InFlight(Arc<AtomicU64>);

impl InFlight {
    fn begin(counter: &Arc<AtomicU64>) -> (Self, u64) {
        let now = counter.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(Arc::clone(counter)), now)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let CommandLine { serve, fault } = CommandLine::parse();
    let settings = serve.resolve()?;
    let _log = logging::start(settings.log_format);
    let misbehavior = Misbehavior {
        fault: Fault::of(&fault),
        predictions: Arc::default(),
        routed: Arc::default(),
        in_flight: Arc::default(),
        slow: Arc::default(),
    };
    let mut told = signal(SignalKind::user_defined1())?;
    let slow = Arc::clone(&misbehavior.slow);
    tokio::spawn(async move {
        while told.recv().await.is_some() {
            slow.fetch_not(Ordering::Relaxed);
        }
    });
    let wrap = |router: Router| router.layer(from_fn_with_state(misbehavior, misbehave));
    Ok(run(settings, wrap).await?)
}

async fn misbehave(
    State(state): State<Misbehavior>,
    request: Request,
    next: Next,
) -> Response<Body> {
    const ROUTED: &str = "x-real-ip";

    let Some(fault) = state.fault else {
        return next.run(request).await;
    };
    let predicting = request.uri().path() == "/predict";
    let (counted, routed) = (
        u64::from(predicting),
        request.headers().contains_key(ROUTED),
    );
    let number = state.predictions.fetch_add(counted, Ordering::Relaxed) + counted;
    let routed_now = counted * u64::from(routed);
    let routed_until_now = state.routed.fetch_add(routed_now, Ordering::Relaxed) + routed_now;
    let (later, at_last) = (routed_until_now > ENOUGH, routed_until_now > MANY);
    let (_in_flight, at_a_time) = InFlight::begin(&state.in_flight);
    let crowded = at_a_time > CROWD;
    let fails = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
    match fault {
        Fault::NeverHealthy if !predicting => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Fault::OtherVersion => {
            with_body(next.run(request).await, |text| {
                text.replace("\"other-version\"", "\"stale\"")
            })
            .await
        }
        Fault::OtherDigest => {
            with_body(next.run(request).await, |text| {
                text.replace("\"model_digest\":\"", "\"model_digest\":\"0")
            })
            .await
        }
        Fault::FailsAtFirst if predicting && number <= FIRST && number.is_multiple_of(10) => {
            fails()
        }
        Fault::EveryEighthWrong if predicting && number.is_multiple_of(8) => {
            reversed(next.run(request).await).await
        }
        Fault::SlowAtTimes if predicting && !routed && number.is_multiple_of(SELDOM) => {
            tokio::time::sleep(FAR_SLOWER).await;
            next.run(request).await
        }
        Fault::SlowUnderLoad if crowded && number.is_multiple_of(SELDOM) => {
            tokio::time::sleep(VERY_LONG).await;
            next.run(request).await
        }
        Fault::FailsAtLast if predicting && routed && at_last && number.is_multiple_of(4) => {
            fails()
        }
        Fault::Restarts if !predicting && later => {
            with_body(next.run(request).await, just_started).await
        }
        Fault::EveryTenth if predicting && number.is_multiple_of(10) => fails(),
        Fault::Biased if predicting => negative(next.run(request).await).await,
        Fault::BiasedForClients if predicting && routed => negative(next.run(request).await).await,
        Fault::Slow if predicting => {
            tokio::time::sleep(SLOWER).await;
            next.run(request).await
        }
        Fault::SlowForClients if predicting && routed => {
            tokio::time::sleep(FAR_SLOWER).await;
            next.run(request).await
        }
        Fault::BreaksUnderLoad if crowded && number.is_multiple_of(10) => fails(),
        Fault::StallsUnderLoad if crowded && number.is_multiple_of(500) => {
            tokio::time::sleep(STALL).await;
            next.run(request).await
        }
        Fault::FailsClients if predicting && routed => fails(),
        Fault::FailsLater if predicting && later => fails(),
        Fault::ExitsLater if predicting && later => exit(3),
        Fault::HangsLater if later => std::future::pending().await,
        Fault::StopsPredicting if predicting && later => std::future::pending().await,
        Fault::SlowWhenTold if predicting && state.slow.load(Ordering::Relaxed) => {
            tokio::time::sleep(NEVER_IN_TIME).await;
            next.run(request).await
        }
        _ => next.run(request).await,
    }
}

/// The response with another label.
async fn negative(mut response: Response<Body>) -> Response<Body> {
    let label = HeaderValue::from_static("negative");
    response.headers_mut().insert("x-predicted-label", label);
    with_body(response, |text| {
        text.replace("\"prediction\":\"positive\"", "\"prediction\":\"negative\"")
    })
    .await
}

/// The response with the opposite label.
async fn reversed(mut response: Response<Body>) -> Response<Body> {
    const LABEL: &str = "x-predicted-label";
    let positive = response
        .headers()
        .get(LABEL)
        .is_some_and(|label| label == "positive");
    let [label, other] = if positive {
        ["positive", "negative"]
    } else {
        ["negative", "positive"]
    };
    let header = HeaderValue::from_static(other);
    response.headers_mut().insert(LABEL, header);
    let field = |label: &str| format!("\"prediction\":\"{label}\"");
    with_body(response, |text| text.replace(&field(label), &field(other))).await
}

/// The health response with an uptime of zero.
fn just_started(health: &str) -> String {
    const FIELD: &str = "\"uptime_seconds\":";
    let Some((before, rest)) = health.split_once(FIELD) else {
        return health.to_owned();
    };
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    format!("{before}{FIELD}0.0{}", &rest[end..])
}

async fn with_body(
    response: Response<Body>,
    change: impl FnOnce(&str) -> String,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let text = change(&String::from_utf8_lossy(&body.to_bytes()));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}
