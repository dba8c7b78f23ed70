//! The real model server with a layer around it that misbehaves as the version says.

use std::{
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::IntoResponse as _,
};
use clap::Parser;
use end_to_end::fault::{ENOUGH, Fault};
use http_body_util::BodyExt as _;
use model_server::{ServeArguments, logging, run};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let CommandLine { serve, fault } = CommandLine::parse();
    let settings = serve.resolve()?;
    let _log = logging::start(settings.log_format);
    let misbehavior = Misbehavior {
        fault: Fault::of(&fault),
        predictions: Arc::default(),
    };
    let wrap = |router: Router| router.layer(from_fn_with_state(misbehavior, misbehave));
    Ok(run(settings, wrap).await?)
}

async fn misbehave(
    State(state): State<Misbehavior>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let predicting = request.uri().path() == "/predict";
    let number = if predicting {
        state.predictions.fetch_add(1, Ordering::Relaxed) + 1
    } else {
        state.predictions.load(Ordering::Relaxed)
    };
    let later = number > ENOUGH;
    match state.fault {
        Some(Fault::NeverHealthy) if !predicting => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Fault::OtherVersion) => with_another_version(next.run(request).await).await,
        Some(Fault::EveryTenth) if predicting && number.is_multiple_of(10) => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Some(Fault::FailsLater) if predicting && later => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Some(Fault::ExitsLater) if predicting && later => exit(3),
        Some(Fault::HangsLater) if later => std::future::pending().await,
        Some(Fault::StopsPredicting) if predicting && later => std::future::pending().await,
        _ => next.run(request).await,
    }
}

async fn with_another_version(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let text = String::from_utf8_lossy(&body.to_bytes()).replace("\"other-version\"", "\"stale\"");
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}
