//! `deployer validate [VERSION]`

use jiff::Timestamp;
use serde_json::json;

use crate::{
    color::Color,
    commands::{
        deploy::{held_version, wanted},
        output::{CommandError, CommandOutput},
        steps::end_leftovers,
    },
    config::{GateName, Settings},
    deployment::gate_runner::GateRunner,
    event::{Event, Reporter},
    evidence::{sample::TrafficSample, verdict::Conclusion},
    examples::Examples,
    exit_code, gates,
    ports::Ports,
    release::Release,
    report::{GateRecord, Reporters},
    request_reader::RequestReader,
    shutdown::shutdown,
};

/// Runs the gates on the idle color. Changes nothing.
pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    only: &[GateName],
    keep_going: bool,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let mut settings = settings.clone();
    if !only.is_empty() {
        settings.gates.run = only.to_vec();
    }
    let examples = Examples::read(&settings).map_err(CommandError::usage)?;
    end_leftovers(ports, terminal).await;
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let color = active.other();
    let version = match version {
        Some(version) => version,
        None => held_version(ports, &settings, color).await,
    };
    let release = wanted(&settings, version).await?;
    let verdicts = Verdicts::default();
    let reporter = &Reporters(vec![terminal, &verdicts]);
    let requests = RequestReader::new(ports.request_log.as_deref(), reporter);
    let before = recent_traffic(active, &requests, terminal).await;
    let gate_runner = GateRunner {
        settings: &settings,
        color,
        release: &release,
        examples: &examples,
        ports,
        requests: &requests,
        before: &before,
        nothing_to_compare: false,
        golden_labels: gates::GoldenLabels::default(),
        keep_going,
        reporter,
    };
    let passed = tokio::select! {
        passed = gate_runner.run(gates::selected_gates(&settings)) => passed.map(drop),
        () = shutdown() => Err("the deployer received a stop signal".to_owned()),
    };
    // An interrupted gate may have left the copies on.
    ports.flags.set_shadow(false).await?;
    Ok(describe(color, &release, passed, &verdicts.records()))
}

/// The output of the command. `passed` is the end of the gates, whose verdicts are `gates`.
fn describe(
    color: Color,
    release: &Release,
    passed: Result<(), String>,
    gates: &[GateRecord],
) -> CommandOutput {
    let version = &release.version;
    let passed = passed.and_then(|()| proven(gates));
    let (code, text) = match &passed {
        Ok(()) => (exit_code::FINE, format!("passed: {version} on {color}")),
        Err(reason) => (
            exit_code::REFUSED,
            format!("not passed: {version} on {color}: {reason}"),
        ),
    };
    CommandOutput::with(code, text).with_object(json!({
        "event": "validated",
        "color": color,
        "release": release,
        "passed": passed.is_ok(),
        "gates": gates,
    }))
}

/// What clients recently received from the active release. An unreadable log is reported and is neither good nor
/// bad news: the gates that send requests remain.
async fn recent_traffic(
    active: Color,
    requests: &RequestReader<'_>,
    terminal: &dyn Reporter,
) -> TrafficSample {
    let requests = match requests.recent_requests().await {
        Some(Ok(requests)) => requests,
        Some(Err(error)) => {
            let text = error.to_string();
            terminal.report(&Event::Note { text });
            Vec::new()
        }
        None => Vec::new(),
    };
    TrafficSample::recent(active, &requests)
}

/// Fails if every gate was skipped: then nothing is proven.
fn proven(gates: &[GateRecord]) -> Result<(), String> {
    if gates.iter().any(|gate| gate.verdict != Conclusion::Skipped) {
        return Ok(());
    }
    let names: Vec<&str> = gates.iter().map(|gate| gate.gate.as_str()).collect();
    Err(format!("every gate was skipped: {}", names.join(", ")))
}

/// Collects the verdicts of the gates.
#[derive(Default)]
struct Verdicts(std::sync::Mutex<Vec<GateRecord>>);

impl Verdicts {
    fn records(&self) -> Vec<GateRecord> {
        self.0
            .lock()
            .map(|records| records.clone())
            .unwrap_or_default()
    }
}

impl Reporter for Verdicts {
    fn report(&self, event: &Event<'_>) {
        if let Event::GateFinished { gate, verdict } = event
            && let Ok(mut records) = self.0.lock()
        {
            records.push(GateRecord::new(gate, Timestamp::now(), verdict));
        }
    }
}
