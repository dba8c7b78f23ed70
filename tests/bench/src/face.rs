//! What the server's HTTP face costs: beside a bare axum handler, with no model in either.

use axum::{Json, Router, http::StatusCode, routing};
use end_to_end::PortBlock;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{
    contender::RTEN,
    models::{Model, ROUNDS, SECONDS, WARM_UP_SECONDS},
    progress,
    statistics::median,
    wrk::{Bodies, Sample},
};

pub(crate) const CONNECTIONS: usize = 128;
/// Read, parsed, refused and counted; no worker ever sees it.
pub(crate) const BODY: &str = r#"{"text":""}"#;

/// Rounds of both.
#[derive(Debug, Default)]
pub(crate) struct Face {
    bare: Vec<Sample>,
    own: Vec<Sample>,
}

impl Face {
    /// Requests a second, the median of the rounds: of the bare handler, and of this server.
    pub(crate) fn per_second(&self) -> [f64; 2] {
        [&self.bare, &self.own].map(|samples| median(samples.iter().map(|it| it.per_second)))
    }
}

/// Posts to both in turn what they refuse.
pub(crate) async fn measure() -> anyhow::Result<Face> {
    let scratch = tempfile::tempdir()?;
    let bodies = Bodies::write(&scratch.path().join("face.lua"), &[BODY.to_owned()])?;
    let ports = PortBlock::take()?;
    let own = RTEN
        .start(&Model::Small.directory(), ports.router(), &[])
        .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bare = listener.local_addr()?;
    let router = Router::new().route("/predict", routing::post(refuse));
    let serving = tokio::spawn(async { axum::serve(listener, router).await });
    let _end = EndOnDrop(serving.abort_handle());
    let mut face = Face::default();
    for round in 0..=ROUNDS {
        progress(&format!("HTTP alone, round {round} of {ROUNDS}"));
        let seconds = if round == 0 { WARM_UP_SECONDS } else { SECONDS };
        let of_bare = bodies.post(bare, "/predict", CONNECTIONS, seconds).await?;
        let of_own = bodies
            .post(own.address, "/predict", CONNECTIONS, seconds)
            .await?;
        if round > 0 {
            face.bare.push(of_bare);
            face.own.push(of_own);
        }
    }
    own.stop().await;
    Ok(face)
}

#[derive(Deserialize)]
struct Asked {
    text: String,
}

#[derive(Serialize)]
struct Refusal {
    error: &'static str,
    field: &'static str,
}

/// Parses the body and answers as the server does.
async fn refuse(Json(asked): Json<Asked>) -> (StatusCode, Json<Refusal>) {
    let refusal = Refusal {
        error: if asked.text.trim().is_empty() {
            "text is blank; expected some words"
        } else {
            "this handler refuses whatever it is asked"
        },
        field: "text",
    };
    (StatusCode::BAD_REQUEST, Json(refusal))
}

struct EndOnDrop(AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
