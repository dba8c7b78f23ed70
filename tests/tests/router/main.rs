//! nginx with the shipped files, before servers that are not ours.

mod heads_and_bodies;
mod permissions;
mod repeating;
mod toy_server;

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use deployer::{
    adapters::connect,
    config,
    ports::{Ports, Repeat},
};
use end_to_end::{BakeDuration, Stack};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use toy_server::ToyServer;

type Result<T = ()> = anyhow::Result<T>;

/// A router before two toy servers. Blue is active.
struct Toys {
    stack: Stack,
    blue: ToyServer,
    green: ToyServer,
    ports: Ports,
}

impl Toys {
    /// Starts the router with the files for this choice.
    async fn start(repeat: Repeat) -> Result<Self> {
        let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(1)))?;
        choose(repeat, &stack)?;
        let process = ["fleet.kind=process".to_owned()];
        let settings = config::load(Some(&stack.path("deployer.toml")), &process)?;
        let ports = connect(&settings)?;
        ports.fleet.start_router().await?;
        let answers = async {
            while ports.router.active().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answers)
            .await
            .context("the router does not answer within 30 s")?;
        Ok(Self {
            blue: ToyServer::start(stack.ports().blue())?,
            green: ToyServer::start(stack.ports().green())?,
            stack,
            ports,
        })
    }

    /// Sends a request, whose head may be invalid. Returns the answer with its head.
    async fn send(&self, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.stack.router_address()).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(30), read).await??;
        Ok(answer)
    }

    /// Sends a request without a body. The headers are whole lines.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> Result<String> {
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: test:1234\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await
    }

    /// Sets a flag of the router.
    fn set_flag(&self, name: &str) -> Result {
        Ok(fs::write(self.stack.path("run/flags").join(name), "")?)
    }
}

/// Gives the router the file for this choice. The stack has the one for `always`.
fn choose(repeat: Repeat, stack: &Stack) -> Result {
    if repeat == Repeat::UnlessSent {
        let (from, to) = ("nginx/repeat.unless_sent.conf", "nginx/repeat.conf");
        fs::copy(stack.path(from), stack.path(to))?;
    }
    Ok(())
}

/// Fails unless an answer has this status and is the router's own error.
fn ensure_own_error(answer: &str, status: u16) -> Result {
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "expected {status}: {answer}"
    );
    ensure!(
        head.contains("\r\nContent-Type: application/json\r\n"),
        "{answer}"
    );
    let error: serde_json::Value = serde_json::from_str(body).with_context(|| answer.to_owned())?;
    ensure!(error["error"].is_string(), "{answer}");
    Ok(())
}
