//! The real model server, with a layer that injects the fault of the version.

use std::{
    pin::Pin,
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::IntoResponse as _,
};
use clap::Parser;
use end_to_end::fault::{
    CONCURRENCY_THRESHOLD, FIRST_REQUESTS, Fault, LARGE_ANSWER, LARGE_HEADER, LARGE_MODEL_DELAY,
    LOAD_DELAY, LONG_BODY, LONG_TEXT_DELAY, POISON_HEADER, RARE_INTERVAL, REQUESTS_BEFORE_FAULT,
    REQUESTS_BEFORE_LATE_FAULT, SLOW_DELAY, STALL_DELAY, STATUS_HEADER, TIMEOUT_DELAY,
    VERY_SLOW_DELAY, WARMING_REQUESTS, WARMING_STEP,
};
use http_body_util::{BodyExt as _, Collected};
use hyper::body::Frame;
use model_server::{ServeArguments, logging, run};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Sleep,
};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    serve: ServeArguments,
    #[arg(long, env = "MODEL_VERSION")]
    fault: String,
}

#[derive(Clone)]
struct FaultState {
    fault: Option<Fault>,
    /// The number of predictions.
    predictions: Arc<AtomicU64>,
    /// The number of predictions that came through the router.
    routed: Arc<AtomicU64>,
    /// The number of requests in flight.
    in_flight: Arc<AtomicU64>,
    /// Whether SIGUSR1 has turned [`Fault::SlowAfterSignal`] on.
    slow: Arc<AtomicBool>,
}

/// Counts a request until this is dropped.
struct InFlight(Arc<AtomicU64>);

impl InFlight {
    /// Returns the guard, and the number of requests in flight.
    fn begin(counter: &Arc<AtomicU64>) -> (Self, u64) {
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(Arc::clone(counter)), count)
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
    let _log = logging::start(settings.log.format);
    let state = FaultState {
        fault: Fault::from_version(&fault),
        predictions: Arc::default(),
        routed: Arc::default(),
        in_flight: Arc::default(),
        slow: Arc::default(),
    };
    let mut toggle = signal(SignalKind::user_defined1())?;
    let slow = Arc::clone(&state.slow);
    tokio::spawn(async move {
        while toggle.recv().await.is_some() {
            slow.fetch_not(Ordering::Relaxed);
        }
    });
    let wrap = |router: Router| router.layer(from_fn_with_state(state, inject_fault));
    Ok(run(settings, wrap).await?)
}

async fn inject_fault(
    State(state): State<FaultState>,
    request: Request,
    next: Next,
) -> Response<Body> {
    /// The router sets this header.
    const ROUTER_HEADER: &str = "x-real-ip";

    if let Some(status) = header_of(&request, STATUS_HEADER) {
        let status = status.parse().unwrap_or(StatusCode::BAD_REQUEST);
        return status.into_response();
    }
    if header_of(&request, POISON_HEADER).is_some() {
        exit(3);
    }
    if header_of(&request, LARGE_HEADER).is_some() {
        return slow_large_answer(next.run(request).await).await;
    }
    let Some(fault) = state.fault else {
        return next.run(request).await;
    };
    let is_prediction = request.uri().path() == "/predict";
    let (increment, routed) = (
        u64::from(is_prediction),
        request.headers().contains_key(ROUTER_HEADER),
    );
    let number = state.predictions.fetch_add(increment, Ordering::Relaxed) + increment;
    let routed_increment = increment * u64::from(routed);
    let routed_count =
        state.routed.fetch_add(routed_increment, Ordering::Relaxed) + routed_increment;
    let fault_has_begun = routed_count > REQUESTS_BEFORE_FAULT;
    let late_fault_has_begun = routed_count > REQUESTS_BEFORE_LATE_FAULT;
    let (_in_flight, in_flight_count) = InFlight::begin(&state.in_flight);
    let under_load = in_flight_count > CONCURRENCY_THRESHOLD;
    let failure = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
    match fault {
        Fault::NeverHealthy if !is_prediction => StatusCode::SERVICE_UNAVAILABLE.into_response(),
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
        Fault::FailsEarly
            if is_prediction && number <= FIRST_REQUESTS && number.is_multiple_of(10) =>
        {
            failure()
        }
        Fault::EveryEighthWrong if is_prediction && number.is_multiple_of(8) => {
            with_opposite_label(next.run(request).await).await
        }
        Fault::RarelySlow if is_prediction && !routed && number.is_multiple_of(RARE_INTERVAL) => {
            tokio::time::sleep(VERY_SLOW_DELAY).await;
            next.run(request).await
        }
        Fault::SlowUnderLoad if under_load && number.is_multiple_of(RARE_INTERVAL) => {
            tokio::time::sleep(LOAD_DELAY).await;
            next.run(request).await
        }
        Fault::PartlyFailsLate
            if is_prediction && routed && late_fault_has_begun && number.is_multiple_of(4) =>
        {
            failure()
        }
        Fault::Restarts if !is_prediction && fault_has_begun => {
            with_body(next.run(request).await, with_zero_uptime).await
        }
        Fault::FailsEveryTenth if is_prediction && number.is_multiple_of(10) => failure(),
        Fault::Biased if is_prediction => with_negative_label(next.run(request).await).await,
        Fault::Slow if is_prediction => {
            tokio::time::sleep(SLOW_DELAY).await;
            next.run(request).await
        }
        Fault::LargeModel if is_prediction => {
            tokio::time::sleep(LARGE_MODEL_DELAY).await;
            next.run(request).await
        }
        Fault::WarmsUp if is_prediction => {
            warm_up(number).await;
            next.run(request).await
        }
        Fault::ThreeTimesAsSlow if is_prediction => three_times_as_slow(request, next).await,
        Fault::BreaksUnderLoad if under_load && number.is_multiple_of(10) => failure(),
        Fault::StallsUnderLoad if under_load && number.is_multiple_of(500) => {
            tokio::time::sleep(STALL_DELAY).await;
            next.run(request).await
        }
        Fault::FailsLater if is_prediction && fault_has_begun => failure(),
        Fault::ExitsLater if is_prediction && fault_has_begun => exit(3),
        Fault::HangsLater if fault_has_begun => std::future::pending().await,
        Fault::StopsPredicting if is_prediction && fault_has_begun => std::future::pending().await,
        Fault::SlowAfterSignal if is_prediction && state.slow.load(Ordering::Relaxed) => {
            tokio::time::sleep(TIMEOUT_DELAY).await;
            next.run(request).await
        }
        _ if is_prediction && routed => harm_client(fault, routed_count, request, next).await,
        _ => next.run(request).await,
    }
}

/// Takes as long as the prediction with this number takes longer.
async fn warm_up(number: u64) {
    let answered = u32::try_from(number).unwrap_or(u32::MAX);
    let left = WARMING_REQUESTS.saturating_sub(answered);
    tokio::time::sleep(WARMING_STEP * left).await;
}

async fn three_times_as_slow(request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    tokio::time::sleep(LARGE_MODEL_DELAY).await;
    let answer = next.run(request).await;
    tokio::time::sleep(2 * began.elapsed()).await;
    answer
}

/// Injects the faults that harm predictions through the router, and that no gate sees. `number` counts them from 1.
async fn harm_client(fault: Fault, number: u64, request: Request, next: Next) -> Response<Body> {
    match fault {
        Fault::FailsClients => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Fault::TimesOutForSome if number.is_multiple_of(10) => {
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Fault::RefusesClients if number.is_multiple_of(2) => {
            StatusCode::UNPROCESSABLE_ENTITY.into_response()
        }
        Fault::LocksClientsOut if number.is_multiple_of(2) => {
            StatusCode::UNAUTHORIZED.into_response()
        }
        Fault::AnswersNothing if number.is_multiple_of(2) => StatusCode::OK.into_response(),
        Fault::AnswersConstant if number.is_multiple_of(2) => "{\"status\":\"ok\"}".into_response(),
        Fault::BiasedForClients => with_negative_label(next.run(request).await).await,
        Fault::SlowForClients => {
            tokio::time::sleep(VERY_SLOW_DELAY).await;
            next.run(request).await
        }
        Fault::SlowForLongTexts if body_length(&request) > LONG_BODY => {
            tokio::time::sleep(LONG_TEXT_DELAY).await;
            next.run(request).await
        }
        Fault::HangsForSome if fastrand::u8(..10) == 0 => std::future::pending().await,
        Fault::MixesReleases if number.is_multiple_of(10) => {
            let mut response = next.run(request).await;
            let other = HeaderValue::from_static("another-release");
            response.headers_mut().insert("x-model-version", other);
            response
        }
        Fault::CutsByLength if number.is_multiple_of(5) => {
            cut_answer(next.run(request).await, true).await
        }
        Fault::CutsChunks if number.is_multiple_of(5) => {
            cut_answer(next.run(request).await, false).await
        }
        _ => next.run(request).await,
    }
}

fn header_of<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Returns the length of a request's body; 0 if the request does not say it.
fn body_length(request: &Request) -> u64 {
    let length = header_of(request, header::CONTENT_LENGTH.as_str());
    length.and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// Sends most of a large answer, and breaks off the connection. The answer announces its whole length or is chunked.
async fn cut_answer(response: Response<Body>, with_length: bool) -> Response<Body> {
    let (mut parts, bytes) = enlarged(response).await;
    parts.headers.remove(header::CONTENT_LENGTH);
    if with_length {
        let length = HeaderValue::from(bytes.len());
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    let rest = Err("this release breaks off its answer");
    let sent = bytes.slice(..LARGE_ANSWER);
    Response::from_parts(parts, Body::new(PausingBody::new(sent, rest)))
}

/// Makes an answer large, and pauses in the middle of it, so that a client can leave then.
async fn slow_large_answer(response: Response<Body>) -> Response<Body> {
    let (mut parts, bytes) = enlarged(response).await;
    parts.headers.remove(header::CONTENT_LENGTH);
    let (first, rest) = (bytes.slice(..LARGE_ANSWER), bytes.slice(LARGE_ANSWER..));
    Response::from_parts(parts, Body::new(PausingBody::new(first, Ok(rest))))
}

/// Lengthens the JSON of a response by [`LARGE_ANSWER`] spaces at its beginning.
async fn enlarged(response: Response<Body>) -> (axum::http::response::Parts, Bytes) {
    let response = with_body(response, |text| {
        format!("{}{text}", " ".repeat(LARGE_ANSWER))
    })
    .await;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map(Collected::to_bytes);
    (parts, bytes.unwrap_or_default())
}

/// A body that pauses after its first part, so that the first part is sent before the rest or the error.
struct PausingBody {
    first: Option<Bytes>,
    pause: Pin<Box<Sleep>>,
    rest: Option<Result<Bytes, &'static str>>,
}

impl PausingBody {
    fn new(first: Bytes, rest: Result<Bytes, &'static str>) -> Self {
        Self {
            first: Some(first),
            pause: Box::pin(tokio::time::sleep(Duration::from_millis(100))),
            rest: Some(rest),
        }
    }
}

impl hyper::body::Body for PausingBody {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        ready!(self.pause.as_mut().poll(context));
        Poll::Ready(self.rest.take().map(|rest| rest.map(Frame::data)))
    }
}

/// Replaces the label in the response by `negative`.
async fn with_negative_label(mut response: Response<Body>) -> Response<Body> {
    let label = HeaderValue::from_static("negative");
    response.headers_mut().insert("x-predicted-label", label);
    with_body(response, |text| {
        text.replace("\"prediction\":\"positive\"", "\"prediction\":\"negative\"")
    })
    .await
}

/// Replaces the label in the response by the opposite one.
async fn with_opposite_label(mut response: Response<Body>) -> Response<Body> {
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

/// Sets the uptime in a health response to zero.
fn with_zero_uptime(health: &str) -> String {
    const FIELD: &str = "\"uptime_seconds\":";
    let Some((before, rest)) = health.split_once(FIELD) else {
        return health.to_owned();
    };
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    format!("{before}{FIELD}0.0{}", &rest[end..])
}

/// Replaces the body of a response by `replace` of its text.
async fn with_body(
    response: Response<Body>,
    replace: impl FnOnce(&str) -> String,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let text = replace(&String::from_utf8_lossy(&body.to_bytes()));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}
