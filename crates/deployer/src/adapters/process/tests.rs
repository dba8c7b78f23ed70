use std::path::Path;

use super::{program::find_program, *};
use crate::ports::FleetDiagnosis as _;

fn fleet(directory: &Path, command: &[&str]) -> ProcessFleet {
    let mut settings = crate::config::load(None, &[]).unwrap();
    settings.state = directory.to_owned();
    // On another machine no port can be taken.
    settings.blue.url = "http://blue:8081".to_owned();
    settings.fleet.process.command = command.iter().map(|word| (*word).to_owned()).collect();
    settings.fleet.process.stop_timeout = Duration::from_secs(5);
    ProcessFleet::new(&settings)
}

const BLUE: Service = Service::Server(Color::Blue);

#[tokio::test]
async fn started_process_runs_until_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["sleep", "60"]);
    assert_eq!(fleet.inspect(BLUE).await.unwrap().1, None);
    fleet.start(Color::Blue, "v7").await.unwrap();
    assert_eq!(
        fleet.inspect(BLUE).await.unwrap(),
        (ServiceState::Running, Some("v7".to_owned()))
    );
    fleet.stop(BLUE).await.unwrap();
    assert!(matches!(
        fleet.inspect(BLUE).await.unwrap().0,
        ServiceState::Stopped(_)
    ));
}

#[tokio::test]
async fn process_of_earlier_deployer_is_found_and_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let command = ["sleep", "60"];
    let earlier = fleet(directory.path(), &command);
    earlier.start(Color::Blue, "v7").await.unwrap();
    let later = fleet(directory.path(), &command);
    assert_eq!(later.inspect(BLUE).await.unwrap().0, ServiceState::Running);
    later.stop(BLUE).await.unwrap();
    assert!(matches!(
        earlier.inspect(BLUE).await.unwrap().0,
        ServiceState::Stopped(_)
    ));
}

#[tokio::test]
async fn exit_status_and_last_log_lines_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(
        directory.path(),
        &["sh", "-c", "echo no model for $MODEL_VERSION; exit 3"],
    );
    fleet.start(Color::Blue, "v7").await.unwrap();
    let record = fleet.record(BLUE).unwrap();
    // `inspect` must find the exit status, so this loop waits without collecting it.
    while record.alive().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        fleet.inspect(BLUE).await.unwrap().0,
        ServiceState::Stopped("exit status: 3".to_owned())
    );
    assert_eq!(fleet.logs(BLUE, 10).await, ["no model for v7"]);
}

#[tokio::test]
async fn exit_status_is_reported_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["sh", "-c", "exit 3"]);
    for _ in 0..100 {
        fleet.start(Color::Blue, "v7").await.unwrap();
        let state = loop {
            match fleet.inspect(BLUE).await.unwrap().0 {
                ServiceState::Running => tokio::task::yield_now().await,
                state => break state,
            }
        };
        assert_eq!(state, ServiceState::Stopped("exit status: 3".to_owned()));
    }
}

#[tokio::test]
async fn process_is_killed_when_it_ignores_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = fleet(
        directory.path(),
        &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
    );
    fleet.settings.stop_timeout = Duration::from_millis(200);
    fleet.start(Color::Blue, "v7").await.unwrap();
    fleet.stop(BLUE).await.unwrap();
    assert!(matches!(
        fleet.inspect(BLUE).await.unwrap().0,
        ServiceState::Stopped(_)
    ));
}

#[tokio::test]
async fn reused_process_id_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["sleep", "60"]);
    let mut unrelated = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let record = Record {
        pid: unrelated.id().cast_signed(),
        started_at_tick: 1,
        version: None,
    };
    fs::create_dir_all(&fleet.directory).unwrap();
    fs::write(
        fleet.record_path(BLUE),
        serde_json::to_string(&record).unwrap(),
    )
    .unwrap();
    fleet.stop(BLUE).await.unwrap();
    assert!(
        unrelated.try_wait().unwrap().is_none(),
        "an unrelated process was killed"
    );
    unrelated.kill().unwrap();
    unrelated.wait().unwrap();
}

#[tokio::test]
async fn missing_program_is_named_in_error() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["no-such-server"]);
    let error = fleet.start(Color::Blue, "v7").await.unwrap_err();
    assert!(matches!(error, PortError::NoProgram(_)), "{error:?}");
    let error = error.to_string();
    assert!(
        error.starts_with("cannot start blue (no-such-server)"),
        "{error}"
    );
}

#[tokio::test]
async fn process_without_record_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["sleep", "60"]);
    // A file cannot replace a directory.
    fs::create_dir_all(fleet.record_path(BLUE).join("occupied")).unwrap();
    let error = fleet
        .start(Color::Blue, "v7")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot write down the process of blue"),
        "{error}"
    );
    let status = async {
        loop {
            if let Some(status) = fleet.exit_status(BLUE) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), status)
        .await
        .unwrap();
    assert_eq!(status, "signal: 9 (SIGKILL)");
}

#[test]
fn program_is_found_in_sbin_outside_of_path() {
    assert_eq!(
        find_program(Path::new("no-such-program")),
        Path::new("no-such-program")
    );
    assert_eq!(find_program(Path::new("/bin/sh")), Path::new("/bin/sh"));
    assert!(find_program(Path::new("ldconfig")).is_absolute());
}

#[test]
fn color_url_without_port_is_refused() {
    assert_eq!(
        host_and_port("http://127.0.0.1:8081").unwrap(),
        ("127.0.0.1".to_owned(), "8081".to_owned())
    );
    assert!(
        host_and_port("http://blue")
            .unwrap_err()
            .to_string()
            .contains("does not name a port")
    );
}

#[tokio::test]
async fn process_is_found_by_environment_without_record() {
    let directory = tempfile::tempdir().unwrap();
    let command = ["sleep", "60"];
    let earlier = fleet(directory.path(), &command);
    earlier.start(Color::Blue, "v7").await.unwrap();
    fs::remove_file(earlier.record_path(BLUE)).unwrap();
    let later = fleet(directory.path(), &command);
    assert_eq!(
        later.inspect(BLUE).await.unwrap(),
        (ServiceState::Running, Some("v7".to_owned()))
    );
    later.start(Color::Blue, "v8").await.unwrap();
    assert!(
        earlier.exit_status(BLUE).is_some(),
        "the earlier process still runs"
    );
    later.stop(BLUE).await.unwrap();
}

/// A command that starts a child, prints its process ID, and waits for it.
const PARENT: [&str; 3] = ["sh", "-c", "sleep 60 & echo $!; wait"];

/// Waits until the server of blue has printed the process ID of its child.
async fn child_of_blue(fleet: &ProcessFleet) -> Pid {
    let printed = async {
        loop {
            if let [line] = &fleet.logs(BLUE, 1).await[..] {
                return Pid::from_raw(line.parse().unwrap()).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, printed).await.unwrap()
}

/// Whether a process has ended. It may stay a zombie, because the test is not its parent.
fn has_ended(pid: Pid) -> bool {
    let process = procfs::process::Process::new(pid.as_raw_pid());
    let stat = process.and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.state == 'Z') || rustix::process::test_kill_process(pid).is_err()
}

#[tokio::test]
async fn stop_ends_children_of_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &PARENT);
    fleet.start(Color::Blue, "v7").await.unwrap();
    let child = child_of_blue(&fleet).await;
    fleet.stop(BLUE).await.unwrap();
    assert!(has_ended(child), "the child still runs");
}

#[tokio::test]
async fn stop_kills_children_that_ignore_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let stubborn = "sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & echo $!; wait";
    let mut fleet = fleet(directory.path(), &["sh", "-c", stubborn]);
    fleet.settings.stop_timeout = Duration::from_millis(200);
    fleet.start(Color::Blue, "v7").await.unwrap();
    let child = child_of_blue(&fleet).await;
    fleet.stop(BLUE).await.unwrap();
    assert!(has_ended(child), "the child still runs");
}

#[tokio::test]
async fn children_of_a_killed_server_are_named_and_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = fleet(directory.path(), &PARENT);
    earlier.start(Color::Blue, "v7").await.unwrap();
    let child = child_of_blue(&earlier).await;
    let server = earlier.record(BLUE).unwrap().alive().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    while earlier.exit_status(BLUE).is_none() {
        tokio::task::yield_now().await;
    }
    let later = fleet(directory.path(), &PARENT);
    let named = format!(
        "process {0} is gone; what it started still runs: process {1}",
        server.as_raw_pid(),
        child.as_raw_pid()
    );
    assert_eq!(
        later.inspect(BLUE).await.unwrap().0,
        ServiceState::Stopped(named)
    );
    later.stop(BLUE).await.unwrap();
    assert!(has_ended(child), "the child still runs");
}

#[tokio::test]
async fn reused_group_is_left_alone() {
    use std::os::unix::process::CommandExt as _;

    let directory = tempfile::tempdir().unwrap();
    let fleet = fleet(directory.path(), &["sleep", "60"]);
    // A group whose leader has ended, as after the process ID of the record was given to another process.
    let mut leader = std::process::Command::new("sh");
    leader.args(["-c", "sleep 60 >/dev/null & echo $!"]);
    let output = leader
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let group = output.id().cast_signed();
    let printed = output.wait_with_output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let member = Pid::from_raw(printed.trim().parse().unwrap()).unwrap();
    let record = Record {
        pid: group,
        started_at_tick: 1,
        version: None,
    };
    fs::create_dir_all(&fleet.directory).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    fs::write(fleet.record_path(BLUE), text).unwrap();
    fleet.stop(BLUE).await.unwrap();
    assert!(!has_ended(member), "an unrelated process was ended");
    kill_process(member, Signal::KILL).unwrap();
}
