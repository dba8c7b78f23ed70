//! `deployer validate [VERSION]`

use serde_json::json;

use super::{
    Done, Ended,
    deploy::{held_version, wanted},
    stop_leftover_copies, told_to_stop,
};
use crate::{
    config::{GateName, Settings},
    event::{Event, Reporter},
    examples::Examples,
    exit_code, gates,
    ports::World,
    report::{All, Judged},
    rollout::Questions,
    traffic::Seen,
    verdict::Finding,
};

/// Puts the gates to what the idle color runs, and changes nothing.
pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    only: &[GateName],
    keep_going: bool,
    world: &World,
    terminal: &dyn Reporter,
) -> anyhow::Result<Done> {
    let mut settings = settings.clone();
    if !only.is_empty() {
        settings.gates.run = only.to_vec();
    }
    let examples = Examples::read(&settings).map_err(Ended::usage)?;
    stop_leftover_copies(world, terminal);
    let active = world.router.active().await.map_err(Ended::refused)?;
    let color = active.other();
    let version = match version {
        Some(version) => version,
        None => held_version(world, &settings, color).await,
    };
    let release = wanted(&settings, version).map_err(Ended::usage)?;
    // No news, good or bad: the gates that ask the servers go on.
    let requests = world.traffic.as_ref().map(|traffic| traffic.lately());
    let requests = requests.transpose().unwrap_or_else(|error| {
        let text = error.to_string();
        terminal.report(&Event::Note { text });
        None
    });
    let before = Seen::lately(active, &requests.unwrap_or_default());
    let verdicts = Verdicts::default();
    let questions = Questions {
        settings: &settings,
        color,
        release: &release,
        examples: &examples,
        world,
        before: &before,
        active_down: false,
        keep_going,
        reporter: &All(vec![terminal, &verdicts]),
    };
    let passed = tokio::select! {
        passed = questions.ask(gates::before_the_switch(&settings)) => passed,
        () = told_to_stop() => Err("the deployer was told to stop".to_owned()),
    };
    // A gate that was interrupted may have left copies on, or one that could not take them back.
    world.router.set_shadow(false)?;
    let (version, gates) = (&release.version, verdicts.taken());
    let passed = passed.and_then(|()| proven(&gates));
    let (code, text) = match &passed {
        Ok(()) => (exit_code::FINE, format!("passed: {version} on {color}")),
        Err(reason) => (
            exit_code::REFUSED,
            format!("not passed: {version} on {color}: {reason}"),
        ),
    };
    Ok(Done::with(code, text).telling(json!({
        "event": "validated",
        "color": color,
        "release": release,
        "passed": passed.is_ok(),
        "gates": gates,
    })))
}

/// Whether any question was answered: what nobody asked is not proven.
fn proven(gates: &[Judged]) -> Result<(), String> {
    let asked = |judged: &Judged| judged.finding != Finding::Skipped;
    if gates.iter().any(asked) {
        return Ok(());
    }
    let names: Vec<&str> = gates.iter().map(|judged| judged.gate.as_str()).collect();
    Err(format!("every gate was skipped: {}", names.join(", ")))
}

/// Takes down what the gates conclude.
#[derive(Default)]
struct Verdicts(std::sync::Mutex<Vec<Judged>>);

impl Verdicts {
    fn taken(&self) -> Vec<Judged> {
        self.0.lock().map(|taken| taken.clone()).unwrap_or_default()
    }
}

impl Reporter for Verdicts {
    fn report(&self, event: &Event<'_>) {
        if let Event::Judged { gate, verdict } = event
            && let Ok(mut taken) = self.0.lock()
        {
            taken.push(Judged::new(gate, None, verdict));
        }
    }
}
