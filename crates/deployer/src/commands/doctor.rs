//! `deployer doctor`

use std::{path::Path, time::Duration};

use jiff::{Timestamp, fmt::rfc2822};
use serde_json::json;

use super::Done;
use crate::{
    adapters::{self, listeners},
    color::Color,
    config::Settings,
    diagnosis::Finding,
    examples::Examples,
    exit_code, history, intent, journal,
    ports::{Service, State, Target, World},
    preflight,
};

pub(super) async fn run(settings: &Settings) -> anyhow::Result<Done> {
    let world = adapters::connect(settings)?;
    let mut findings = world.fleet.diagnose().await;
    for color in Color::BOTH {
        findings.push(server(settings, &world, color).await);
    }
    findings.push(port("port", &settings.router.url, "the router", "clients"));
    findings.push(port(
        "port",
        &settings.router.control,
        "the router",
        "the deployer",
    ));
    findings.extend(router(settings, &world).await);
    findings.push(disk("disk", &settings.state, settings.min_free_megabytes));
    findings.push(disk(
        "disk",
        &settings.router.flags,
        settings.min_free_megabytes,
    ));
    findings.push(clock(settings).await);
    findings.extend(time_limits(settings, &world));
    findings.push(match Examples::read(settings) {
        Ok(examples) => Finding::fine("inputs", format!("{} test inputs", examples.golden.len())),
        Err(error) => Finding::wrong(
            "inputs",
            error.to_string(),
            "set probe.inputs to a JSONL file of test inputs",
        ),
    });
    findings.extend(left_behind(settings));

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

/// Whether a color runs, answers, and is alone on its port.
async fn server(settings: &Settings, world: &World, color: Color) -> Finding {
    let service = Service::Server(color);
    let answer = world.probe.health(Target::Server(color)).await;
    let state = world.fleet.inspect(service).await;
    let url = &settings.color(color).url;
    let problem = match (answer, state) {
        (Ok(health), Ok((State::Stopped(how), _))) => format!(
            "it was stopped ({how}), and yet {} answers at {url}: {}",
            health
                .model_version
                .unwrap_or_else(|| "another release".to_owned()),
            listening(url)
        ),
        (Ok(health), _) => {
            let version = health.model_version.unwrap_or_else(|| "healthy".to_owned());
            return Finding::fine(color.name(), format!("{version} at {url}"));
        }
        (Err(_), Ok((State::Stopped(how), _))) if listeners_at(url).is_empty() => {
            let logs = last_words(world, service).await;
            return Finding::wrong(
                color.name(),
                format!("it does not run: {how}{logs}"),
                format!(
                    "`deployer up` starts it; `deployer deploy` puts another release there, unless {color} is active"
                ),
            );
        }
        (Err(_), Ok((State::Stopped(how), _))) => {
            format!(
                "it does not run ({how}), and its port is taken: {}",
                listening(url)
            )
        }
        (Err(error), _) => {
            let logs = last_words(world, service).await;
            return Finding::wrong(
                color.name(),
                format!("it runs and is not healthy: {error}{logs}"),
                format!(
                    "if {color} is active, `deployer rollback`; otherwise deploy another release there"
                ),
            );
        }
    };
    Finding::wrong(
        color.name(),
        problem,
        format!("end whatever listens at {url}, or give {color} another port"),
    )
}

async fn last_words(world: &World, service: Service) -> String {
    let lines = world.fleet.logs(service, 3).await;
    if lines.is_empty() {
        return String::new();
    }
    format!("; its last words: {}", lines.join(" | "))
}

fn port(topic: &str, url: &str, service: &str, whose: &str) -> Finding {
    if listeners_at(url).is_empty() {
        return Finding::wrong(
            topic,
            format!("nobody listens at {url}, where {whose} ask for {service}"),
            "`deployer up` starts the router; or correct router.url and router.control",
        );
    }
    Finding::fine(topic, format!("{url}: {}", listening(url)))
}

fn listening(url: &str) -> String {
    match &listeners_at(url)[..] {
        [] => "nobody listens there".to_owned(),
        processes => processes.join(", "),
    }
}

/// Who listens on the port of an address of this machine; of another machine, nobody can tell.
fn listeners_at(url: &str) -> Vec<String> {
    let Ok(url) = reqwest::Url::parse(url) else {
        return Vec::new();
    };
    let here = matches!(
        url.host_str(),
        Some("127.0.0.1" | "localhost" | "[::1]" | "0.0.0.0")
    );
    match url.port_or_known_default() {
        Some(port) if here => listeners::on(port),
        _ => vec!["on another machine".to_owned()],
    }
}

/// Whether the router sees the flags, and clients come in through it.
async fn router(settings: &Settings, world: &World) -> Vec<Finding> {
    let seen = match world.router.sees_flags().await {
        Ok(()) => Finding::fine(
            "flags",
            format!("the router sees {}", settings.router.flags.display()),
        ),
        Err(error) => Finding::wrong(
            "flags",
            error.to_string(),
            "start nginx with the directory that router.flags names, and let its workers search it (chmod a+x)",
        ),
    };
    let active = match world.router.active().await {
        Ok(active) => active,
        Err(error) => {
            let advice = "`deployer up` starts the router";
            return vec![seen, Finding::wrong("router", error.to_string(), advice)];
        }
    };
    let public = match preflight::one_router(settings, world, active).await {
        Ok(()) => Finding::fine(
            "router",
            format!("{} goes to {active}", settings.router.url),
        ),
        Err(error) => Finding::wrong(
            "router",
            error,
            "correct router.url and router.control, or see to the active color",
        ),
    };
    vec![seen, public]
}

fn disk(topic: &str, directory: &Path, needed: u64) -> Finding {
    match preflight::room(directory, needed) {
        Ok(()) => {
            let free = preflight::free_megabytes(directory).unwrap_or_default();
            Finding::fine(topic, format!("{free} MB free for {}", directory.display()))
        }
        Err(error) => Finding::wrong(
            topic,
            error,
            "free some space (`docker system df` shows what Docker holds), or correct the path and who may write there",
        ),
    }
}

/// Whether the router's clock and this one agree: the log is read by time.
async fn clock(settings: &Settings) -> Finding {
    const TOLERABLE_SECONDS: i64 = 2;

    match adapters::date_of(&settings.router.control, settings.probe.timeout).await {
        Ok(date) => match rfc2822::parse(&date) {
            Ok(there) => {
                let apart = there.timestamp().as_second() - Timestamp::now().as_second();
                if apart.abs() <= TOLERABLE_SECONDS {
                    return Finding::fine("clock", "the router's and this one agree");
                }
                Finding::wrong(
                    "clock",
                    format!("the router's is {apart} s ahead of this one"),
                    "set both by NTP: what clients saw before and after a switch is told apart by time",
                )
            }
            Err(error) => Finding::wrong(
                "clock",
                format!("the router's date {date:?} is not understood: {error}"),
                "is router.control an nginx?",
            ),
        },
        Err(error) => Finding::wrong("clock", error, "`deployer up` starts the router"),
    }
}

/// Limits that contradict each other.
fn time_limits(settings: &Settings, world: &World) -> Vec<Finding> {
    const TOPIC: &str = "time limits";
    let words = |duration: Duration| humantime::format_duration(duration).to_string();
    let mut findings = Vec::new();
    let mut contradict = |holds: bool, text: String, advice: &str| {
        if !holds {
            findings.push(Finding::wrong(TOPIC, text, advice));
        }
    };
    let (load, watch) = (&settings.load, &settings.watch);
    match world.router.read_timeout() {
        Ok(Some(router)) => {
            contradict(
                load.timeout <= router,
                format!(
                    "load.timeout ({}) is longer than the router waits ({}): the load gate lets through what clients are refused",
                    words(load.timeout),
                    words(router)
                ),
                "set load.timeout to at most nginx's proxy_read_timeout",
            );
            let worst = load.max_p99.mul_f64(settings.headroom.factor);
            contradict(
                worst <= router,
                format!(
                    "load.max_p99 ({}) times headroom.factor ({}) is longer than the router waits ({}): what passes load can be refused by headroom",
                    words(load.max_p99),
                    settings.headroom.factor,
                    words(router)
                ),
                "lower load.max_p99, or raise nginx's proxy_read_timeout",
            );
        }
        Ok(None) => {}
        Err(error) => contradict(false, error.to_string(), "correct router.configuration"),
    }
    contradict(
        load.max_p99 <= load.timeout,
        format!(
            "load.max_p99 ({}) is longer than load.timeout ({}), and can never be exceeded",
            words(load.max_p99),
            words(load.timeout)
        ),
        "lower load.max_p99, or raise load.timeout",
    );
    let found = watch.failures * (watch.interval + settings.probe.timeout);
    contradict(
        found <= watch.duration,
        format!(
            "a release that hangs is found after watch.failures × (watch.interval + probe.timeout) = {}, which is longer than watch.duration ({})",
            words(found),
            words(watch.duration)
        ),
        "watch for longer, or lower watch.failures or probe.timeout",
    );
    if findings.is_empty() {
        findings.push(Finding::fine(TOPIC, "none contradicts another"));
    }
    findings
}

/// What former deployments left.
fn left_behind(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match journal::last_entry(&settings.state) {
        Ok(Some(last)) if !last.phase.is_end() => match journal::at_work(&settings.state) {
            Some(holder) => Finding::fine("deployment", format!("going on: {holder}")),
            None => Finding::wrong(
                "deployment",
                format!("{} was interrupted; last seen {}", last.plan.id, last.phase),
                "`deployer recover` brings it to an end",
            ),
        },
        Ok(Some(last)) => Finding::fine(
            "deployment",
            format!("the last one, {}, is {}", last.plan.id, last.phase),
        ),
        Ok(None) => Finding::fine("deployment", "none yet"),
        Err(error) => Finding::wrong(
            "deployment",
            error.to_string(),
            "see where traffic goes with `deployer status`, then remove that file",
        ),
    });
    let at_work = journal::at_work(&settings.state).is_some();
    if let Some(intent) = intent::read(&settings.state).filter(|_| !at_work) {
        findings.push(Finding::wrong(
            "deployment",
            format!("{} was interrupted", intent.words()),
            "`deployer recover` brings it to an end",
        ));
    }
    if !at_work && settings.router.flags.join("shadow").exists() {
        findings.push(Finding::wrong(
            "shadow",
            "clients' requests are copied to the idle color, and nobody is at work who would want that",
            "`deployer recover` ends it",
        ));
    }
    match history::read(&settings.state) {
        Ok(read) if read.torn.is_empty() => {}
        Ok(read) => findings.push(Finding::wrong(
            "history",
            format!(
                "lines {:?} of {} are torn",
                read.torn,
                history::path(&settings.state).display()
            ),
            "remove them; nothing else depends on them",
        )),
        Err(error) => findings.push(Finding::wrong(
            "history",
            format!("{}: {error}", history::path(&settings.state).display()),
            "see who may read that file",
        )),
    }
    findings
}
