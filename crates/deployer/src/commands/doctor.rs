//! `deployer doctor`

mod color;
mod left_behind;
mod machine;
mod ports;
mod router;
mod time_limits;

use serde_json::json;

use super::Done;
use crate::{
    color::Color,
    config::Settings,
    diagnosis::{self, Finding},
    examples::Examples,
    exit_code,
    ports::{Service, World},
};

pub(super) async fn run(settings: &Settings, world: &World) -> anyhow::Result<Done> {
    let mut findings = world.fleet.diagnose().await;
    for color in Color::BOTH {
        findings.push(color::server(settings, world, color).await);
    }
    findings.extend(router::router(settings, world).await);
    findings.extend(ports::metrics(settings).await);
    for directory in [&settings.state, &settings.router.flags] {
        findings.push(machine::disk(directory, settings.min_free_megabytes));
    }
    findings.extend(time_limits::time_limits(settings, world).await);
    findings.push(inputs(settings));
    findings.extend(left_behind::left_behind(settings));

    let wrong = findings.iter().filter(|it| it.advice.is_some()).count();
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    lines.push(match wrong {
        0 => "\nnothing is wrong".to_owned(),
        1 => "\none thing is wrong".to_owned(),
        wrong => format!("\n{wrong} things are wrong"),
    });
    let code = if wrong == 0 {
        exit_code::FINE
    } else {
        exit_code::UNEXPECTED
    };
    let object = json!({"event": "diagnosis", "findings": findings, "wrong": wrong});
    Ok(Done::with(code, lines.join("\n")).telling(object))
}

fn line(finding: &Finding) -> String {
    let Finding {
        topic,
        text,
        advice,
    } = finding;
    match advice {
        None => format!("ok     {topic:<12} {text}"),
        Some(advice) => format!("WRONG  {topic:<12} {text}\n       {:<12} -> {advice}", ""),
    }
}

fn inputs(settings: &Settings) -> Finding {
    match Examples::read(settings) {
        Ok(examples) => Finding::fine("inputs", format!("{} test inputs", examples.golden.len())),
        Err(error) => Finding::wrong(
            "inputs",
            error.to_string(),
            "set probe.inputs to a JSONL file of test inputs",
        ),
    }
}

/// What a service wrote last, behind a semicolon; nothing when it wrote nothing.
async fn last_words(world: &World, service: Service) -> String {
    diagnosis::last_words(&world.fleet.logs(service, 3).await)
}
