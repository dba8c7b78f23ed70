//! `deployer doctor`

use serde_json::json;

use crate::{
    commands::output::CommandOutput,
    config::Settings,
    doctor::{self, finding::Finding},
    exit_code,
    ports::Ports,
};

pub(super) async fn run(
    settings: &Settings,
    offline: bool,
    ports: &Ports,
) -> anyhow::Result<CommandOutput> {
    let findings = if offline {
        doctor::examine_offline(settings, ports).await
    } else {
        doctor::examine(settings, ports).await
    };
    let wrong = findings.iter().filter(|it| it.advice.is_some()).count();
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    lines.push(match wrong {
        0 if offline => {
            "\nnothing is wrong in the files; no engine and no server was asked".to_owned()
        }
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
    Ok(CommandOutput::with(code, lines.join("\n")).with_object(object))
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
