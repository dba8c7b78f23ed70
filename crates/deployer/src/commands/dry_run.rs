//! `deployer deploy [VERSION] --dry-run`

use serde_json::json;

use crate::{
    color::Color,
    commands::{
        deploy::prepare,
        output::{CommandError, CommandOutput},
    },
    config::{ApprovalPoint, GateName, LoadSettings, Settings},
    deployment::{plan::Plan, scope::Scope, windows},
    examples::Examples,
    ports::{Ports, Target},
};

/// Describes the steps of a deployment. Changes nothing.
pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    active_down: bool,
    ports: &Ports,
) -> anyhow::Result<CommandOutput> {
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    let mut steps = Vec::new();
    if let Err(closed) = windows::check(&settings.windows, ports.clock.now()) {
        steps.push(format!("wait: {closed}"));
    }
    steps.extend(unfinished_work(ports).await?);
    let plan = prepare(settings, ports, version, Scope::of_flag(active_down)).await?;
    steps.push(check_active(plan.active, active_down, ports).await?);
    steps.extend(deployment(&plan, settings, &examples));
    steps.extend(hooks(settings));
    let lines: Vec<String> = (1..)
        .zip(&steps)
        .map(|(number, step)| format!("{number:>3}. {step}"))
        .collect();
    let text = format!(
        "nothing was changed; a deployment would:\n{}",
        lines.join("\n")
    );
    Ok(CommandOutput::success(text)
        .with_object(json!({"event": "plan", "plan": plan, "steps": steps})))
}

/// What must end, or be completed, before a deployment begins.
async fn unfinished_work(ports: &Ports) -> anyhow::Result<Vec<String>> {
    let mut steps = Vec::new();
    if let Some(holder) = ports.lock.holder().await {
        steps.push(format!("wait: another deployer holds the lock: {holder}"));
    }
    let entries = ports.journal.read().await?;
    if let Some(last) = entries.unfinished_deployment() {
        let (id, phase) = (&last.plan.id, last.phase);
        steps.push(format!(
            "complete deployment {id}, whose last phase is {phase}"
        ));
    }
    if let Some(pending) = entries.traffic_move {
        steps.push(format!("complete {pending}"));
    }
    Ok(steps)
}

/// Asks the active color whether it is healthy. Fails if a deployment would be refused.
async fn check_active(active: Color, active_down: bool, ports: &Ports) -> anyhow::Result<String> {
    match ports.probe.health(Target::Server(active)).await {
        Ok(_) => Ok(format!("ask whether {active} is healthy: it is now")),
        Err(error) if active_down => Ok(format!(
            "skip the gates that need {active}, which is down: {error}"
        )),
        Err(error) => Err(CommandError::refused(format!(
            "nothing was changed; a deployment would be refused: the active color {active} is not healthy: {error}"
        ))),
    }
}

/// The steps from the start of the candidate to its promotion.
fn deployment(plan: &Plan, settings: &Settings, examples: &Examples) -> Vec<String> {
    let Plan {
        active,
        idle,
        release,
        ..
    } = plan;
    let digest = release
        .digest
        .as_deref()
        .map_or("not checked", |digest| &digest[..12]);
    let mut steps = vec![
        format!(
            "start {} {} on {idle}, and remove its fit flag; its model's digest: {digest}",
            release.model, release.version
        ),
        format!(
            "wait until it is healthy, for at most {}; it is refused after {} without progress",
            humantime::format_duration(settings.health.deadline),
            humantime::format_duration(settings.health.stall)
        ),
    ];
    let mut gates = settings.gates.run.clone();
    gates.sort_unstable();
    gates.dedup();
    for gate in gates {
        steps.push(format!("gate {}", gate_in_words(gate, settings, examples)));
    }
    let bake = &settings.bake;
    steps.extend(approval(settings, ApprovalPoint::Switched));
    steps.extend([
        format!("move all traffic from {active} to {idle}"),
        format!(
            "bake for {}: at most {:.1} % errors, fewer than {} failed checks in a row; otherwise roll back",
            humantime::format_duration(bake.duration),
            bake.max_error_rate * 100.0,
            bake.failures
        ),
    ]);
    steps.extend(approval(settings, ApprovalPoint::Promoted));
    steps.push(format!("keep {active} running as the standby"));
    steps
}

/// The wait for approval at this point, if there is one.
fn approval(settings: &Settings, point: ApprovalPoint) -> Option<String> {
    let approval = &settings.approval;
    let otherwise = match point {
        ApprovalPoint::Switched => "refuse it",
        ApprovalPoint::Promoted => "roll back",
    };
    approval.is_needed(point).then(|| {
        format!(
            "wait for `deployer approve` before {}, and check it meanwhile; without approval in {}, {otherwise}",
            point.phase(),
            humantime::format_duration(approval.expires)
        )
    })
}

/// The hooks that run on the way, before and after each phase.
fn hooks(settings: &Settings) -> Vec<String> {
    let hooks = &settings.hooks;
    let mut steps = Vec::new();
    for (moment, commands) in [("before", &hooks.before), ("after", &hooks.after)] {
        let mut lines: Vec<String> = commands
            .iter()
            .filter_map(|(phase, command)| {
                let program = command.first()?;
                Some(format!("run {program} {moment} the phase {phase}"))
            })
            .collect();
        lines.sort();
        steps.extend(lines);
    }
    steps
}

fn load_in_words(load: &LoadSettings) -> String {
    let how_much = if load.concurrency > 0 {
        format!("{} requests at a time", load.concurrency)
    } else if load.rate > 0.0 {
        format!("{} requests/s", load.rate)
    } else {
        "a little more requests/s than clients sent in their busiest second".to_owned()
    };
    let duration = humantime::format_duration(load.duration);
    format!("load: {how_much} for {duration}")
}

fn gate_in_words(gate: GateName, settings: &Settings, examples: &Examples) -> String {
    let duration = humantime::format_duration;
    match gate {
        GateName::Identity => {
            "identity: it reports the name, version and digest that are wanted".to_owned()
        }
        GateName::Reachable => "reachable: the router reaches it".to_owned(),
        GateName::Smoke => format!("smoke: {} test requests", settings.smoke.requests),
        GateName::Golden => format!(
            "golden: right on {:.1} % of {} labeled inputs, and at most {:.1} points less often than the active release",
            settings.golden.min_accuracy * 100.0,
            examples
                .golden
                .iter()
                .filter(|it| it.expect.is_some())
                .count(),
            settings.golden.max_drop * 100.0
        ),
        GateName::Agreement => format!("agreement: {} inputs to both", examples.agreement.len()),
        GateName::Warm => format!(
            "warm: at most {} requests, for at most {}, until the latency is level",
            settings.warm.requests,
            duration(settings.warm.duration)
        ),
        GateName::Load => load_in_words(&settings.load),
        GateName::Comparison => format!(
            "comparison: at most {} × as long as the active release",
            settings.comparison.max_ratio
        ),
        GateName::Headroom => format!(
            "headroom: {} × the worst latency is below the router's time limit",
            settings.headroom.factor
        ),
        GateName::Shadow => format!(
            "shadow: copies of traffic for {}",
            duration(settings.shadow.duration)
        ),
    }
}
