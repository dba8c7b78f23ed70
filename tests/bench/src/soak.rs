//! Whether memory grows: both engines under texts of mixed lengths, minute by minute.

use std::{pin::pin, time::Duration};

use anyhow::Context as _;
use end_to_end::PortBlock;

use crate::{
    contender::{ONNXRUNTIME, RTEN},
    models::Model,
    progress,
    statistics::median,
    table::Table,
    texts::Mix,
    wrk::Bodies,
};

const CONNECTIONS: usize = 8;
const SECONDS: u64 = 60;
/// A single reading tells more of the texts that are at work than of the server, so the median of each
/// minute is what counts.
const READ_EVERY: Duration = Duration::from_secs(2);
/// How much more than in the first minute may be held in the last one.
const GROWTH: f64 = 1.05;

/// Loads both servers for so many minutes; fails when one of them has grown, or has failed a request.
pub(crate) async fn run(minutes: u32) -> anyhow::Result<(String, anyhow::Result<()>)> {
    let scratch = tempfile::tempdir()?;
    let ports = PortBlock::take()?;
    let mut servers = Vec::new();
    for (contender, port) in [ONNXRUNTIME, RTEN].into_iter().zip(ports.all()) {
        servers.push(
            contender
                .start(&Model::MiniLm.directory(), port, &[])
                .await?,
        );
    }
    let texts = Mix::Mixed.texts()?;
    let bodies: Vec<String> = texts.iter().map(|text| RTEN.body(text)).collect();
    let bodies = Bodies::write(&scratch.path().join("soak.lua"), &bodies)?;
    let mut table = Table::new(&["minute", ONNXRUNTIME.name, RTEN.name]);
    let mut held = Vec::new();
    let mut failed = 0;
    for minute in 1..=minutes {
        let loads = servers
            .iter()
            .map(|server| bodies.post(server.address, "/predict", CONNECTIONS, SECONDS));
        let mut loads = pin!(futures_util::future::try_join_all(loads));
        let mut readings = vec![Vec::new(); servers.len()];
        let samples = loop {
            tokio::select! {
                samples = &mut loads => break samples?,
                () = tokio::time::sleep(READ_EVERY) => {
                    for (server, readings) in servers.iter().zip(&mut readings) {
                        readings.push(server.memory()?);
                    }
                }
            }
        };
        anyhow::ensure!(
            readings.iter().all(|readings| !readings.is_empty()),
            "minute {minute} was too short for a reading"
        );
        failed += samples.iter().map(|sample| sample.failed).sum::<u64>();
        let memory: Vec<f64> = readings.into_iter().map(median).collect();
        let cells: Vec<String> = memory.iter().map(|it| format!("{it:.1} MB")).collect();
        progress(&format!(
            "soak: minute {minute} of {minutes}: {}",
            cells.join(", ")
        ));
        table.row([vec![minute.to_string()], cells].concat());
        held.push(memory);
    }
    for server in servers {
        server.stop().await;
    }
    let first = held.first().context("at least one minute")?;
    let last = held.last().context("at least one minute")?;
    let grown = first
        .iter()
        .zip(last)
        .any(|(first, last)| *last > first * GROWTH);
    let judged = if grown {
        Err(anyhow::anyhow!(
            "memory grew by more than 5 %: {first:?} to {last:?} MB"
        ))
    } else if failed > 0 {
        Err(anyhow::anyhow!("{failed} requests failed"))
    } else {
        Ok(())
    };
    Ok((table.render(), judged))
}
