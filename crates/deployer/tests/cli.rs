//! Runs the `deployer` program without a router: help, arguments, settings, lock, and state files.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use deployer::{
    adapters::StateDirectory,
    color::Color,
    config,
    ports::{JournalStore as _, Lock as _, LockGuard},
    state::{action::Action, history::HistoryEntry},
};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tempfile::TempDir;

/// Holds the lock of this state directory, as `deployer deploy v7` would.
fn hold_lock(state: &Path) -> LockGuard {
    let acquired = StateDirectory::new(state)
        .acquire("deploy v7")
        .now_or_never();
    acquired
        .expect("a free lock is not waited for")
        .expect("a lock")
}

/// Runs the deployer in `directory`, without the `DEPLOYER_` variables of the caller.
fn deployer(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deployer"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEPLOYER_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .current_dir(directory)
        .env("COLUMNS", "200")
        .output()
        .expect("the deployer can be run")
}

/// Runs a command that must succeed. Returns its standard output.
fn stdout_of(arguments: &[&str]) -> String {
    let output = deployer(Path::new("."), arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command that must exit with `code` and print nothing on standard output. Returns its standard error.
fn stderr_of(code: i32, directory: &Path, arguments: &[&str]) -> String {
    let output = deployer(directory, arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// A directory with settings whose addresses refuse connections, even on a machine that runs a router.
fn directory() -> TempDir {
    const UNREACHABLE: &str = "\
[router]
url = \"http://127.0.0.1:1\"
control = \"http://127.0.0.1:1\"
[blue]
url = \"http://127.0.0.1:1\"
[green]
url = \"http://127.0.0.1:1\"
[fleet]
kind = \"static\"
";

    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("deployer.toml"), UNREACHABLE).expect("a settings file");
    directory
}

#[test]
fn help_lists_commands_and_exit_codes() {
    let help = stdout_of(&["--help"]);
    for command in [
        "up",
        "deploy",
        "validate",
        "report",
        "recover",
        "approve",
        "reject",
        "promote",
        "rollback",
        "abort",
        "switch",
        "status",
        "history",
        "doctor",
        "monitor",
        "alert-test",
        "down",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
    }
    for line in [
        "   0  promoted, or done",
        "   2  wrong arguments or settings; nothing was changed",
        "  10  refused: traffic never moved",
        "  20  rolled back",
        "  30  halted: a person is needed",
        "  75  another deployer holds the lock",
    ] {
        assert!(help.contains(line), "{line}: {help}");
    }
}

#[test]
fn deploy_help_lists_exit_codes() {
    let help = stdout_of(&["deploy", "--help"]);
    assert!(help.contains("  20  rolled back"), "{help}");
}

#[test]
fn deploy_help_shows_variable_and_default_of_each_flag() {
    let directory = directory();
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    let settings = config::load(Some(&empty), &[]).unwrap();
    let duration = |duration: Duration| humantime::format_duration(duration).to_string();
    let help = stdout_of(&["deploy", "--help"]);
    for (flag, variable, default) in [
        ("bake", "BAKE", duration(settings.bake.duration)),
        ("on-interrupt", "ON_INTERRUPT", "rollback".to_owned()),
    ] {
        let (_, after) = help
            .split_once(&format!("--{flag} <"))
            .unwrap_or_else(|| panic!("--{flag} is missing: {help}"));
        let description = after.split("\n      --").next().unwrap();
        assert!(
            description.contains(&format!("[env: DEPLOYER_{variable}=")),
            "{flag}: {description}"
        );
        let default = format!("[default: {default}]");
        assert!(
            description.contains(&default),
            "{flag} without {default}: {description}"
        );
    }
}

#[test]
fn invalid_arguments_exit_2_with_reason() {
    let directory = directory();
    for (arguments, expected) in [
        (["push", "v2"].as_slice(), "unrecognized subcommand"),
        (&["switch"], "<COLOR>"),
        (&["switch", "red"], "[possible values: blue, green]"),
        (&["deploy", "v2", "--bake", "soon"], "invalid value 'soon'"),
        (
            &["deploy", "v2", "--on-interrupt", "wait"],
            "invalid value 'wait'",
        ),
        (
            &["status", "--fleet", "nomad"],
            "compose, process, kubernetes, static",
        ),
    ] {
        let message = stderr_of(2, directory.path(), arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert!(!directory.path().join("state").exists());
}

#[test]
fn decision_needs_a_reason_and_enough_digits_of_the_evidence() {
    let directory = directory();
    let stderr = |code, arguments: &[&str]| stderr_of(code, directory.path(), arguments);
    for command in ["approve", "reject", "promote"] {
        for given in [&[command][..], &[command, "--reason", ""]] {
            let error = stderr(2, given);
            assert!(error.contains("--reason <TEXT>"), "{error}");
        }
        let error = stderr(10, &[command, "--reason", "a reason"]);
        assert!(error.contains("no deployment is under way"), "{error}");
    }
    for digits in ["3f2a91c", "3f2a91cx"] {
        let error = stderr(
            2,
            &["approve", "--reason", "a reason", "--evidence", digits],
        );
        assert!(error.contains("at least 8 hexadecimal digits"), "{error}");
    }
}

#[test]
fn missing_command_exits_2_with_help() {
    let message = stderr_of(2, Path::new("."), &[]);
    assert!(message.contains("Usage: deployer"), "{message}");
}

#[test]
fn setting_out_of_range_exits_2_without_changes() {
    let directory = directory();
    let message = stderr_of(
        2,
        directory.path(),
        &["deploy", "v2", "--set", "bake.failures=0"],
    );
    assert_eq!(
        message,
        "deployer: bake.failures is 0, but must be at least 1\n"
    );
    assert!(!directory.path().join("state").exists());
}

#[test]
fn unknown_key_exits_2_and_names_the_line() {
    let directory = directory();
    let settings = "state = \"state\"\n\n[bake]\nlength = \"1s\"\n";
    std::fs::write(directory.path().join("deployer.toml"), settings).unwrap();
    let message = stderr_of(2, directory.path(), &["deploy", "v2"]);
    assert!(
        message.starts_with(
            "deployer: deployer.toml, line 4: unknown key `bake.length`; known here: "
        ),
        "{message}"
    );
    assert!(!directory.path().join("state").exists());
}

#[test]
fn missing_settings_file_exits_2_and_is_named() {
    let message = stderr_of(2, Path::new("."), &["status", "--config", "no/such.toml"]);
    assert!(message.contains("no/such.toml"), "{message}");
}

#[test]
fn held_lock_exits_75_and_names_the_holder() {
    let directory = directory();
    let _held = hold_lock(&directory.path().join("state"));
    for arguments in [["deploy", "v2"].as_slice(), &["switch", "blue"], &["down"]] {
        let message = stderr_of(75, directory.path(), arguments);
        assert!(
            message.starts_with("deployer: another deployer holds the lock: `deploy v7` by "),
            "{message}"
        );
        let holder = format!("process {}", std::process::id());
        assert!(message.contains(&holder), "{message}");
    }
}

#[test]
fn state_directory_flag_overrides_environment_and_file() {
    let directory = directory();
    let _held = hold_lock(&directory.path().join("elsewhere"));
    let file = directory.path().join("deployer.toml");
    let settings = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state = \"elsewhere\"\n{settings}")).unwrap();
    let code = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deployer"));
        command
            .current_dir(directory.path())
            .env_remove("DEPLOYER_STATE");
        command.envs(variable.map(|value| ("DEPLOYER_STATE", value)));
        let output = command
            .args(["switch", "blue"])
            .args(arguments)
            .output()
            .unwrap();
        output.status.code()
    };
    // 75: the lock of `elsewhere` is held. 10: the lock of `free` is not held, and no router answers.
    assert_eq!(code(None, &[]), Some(75));
    assert_eq!(code(Some("free"), &[]), Some(10));
    assert_eq!(code(Some("free"), &["--state", "elsewhere"]), Some(75));
}

#[test]
fn status_works_while_another_deployer_holds_the_lock() {
    let directory = directory();
    let _held = hold_lock(&directory.path().join("state"));
    let output = deployer(directory.path(), &["status"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn status_works_with_a_damaged_journal() {
    let directory = directory();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("journal.json"), "{\"plan\":").unwrap();
    let output = deployer(directory.path(), &["status"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("COLOR"), "{text}");
    assert!(text.contains("journal.json is not a journal"), "{text}");

    let output = deployer(directory.path(), &["status", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("journal.json is not a journal"), "{text}");
}

#[test]
fn completions_and_manual_pages_include_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout_of(&["completions", shell]);
        assert!(script.contains("rollback"), "{shell}: {script}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = deployer(directory.path(), &["man", "."]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for page in ["deployer.1", "deployer-deploy.1", "deployer-doctor.1"] {
        let text = std::fs::read_to_string(directory.path().join(page)).expect(page);
        assert!(text.contains(".TH"), "{text}");
    }
}

#[test]
fn missing_history_is_shown_as_empty() {
    let directory = directory();
    let output = deployer(directory.path(), &["history"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "no action yet");
    let output = deployer(directory.path(), &["history", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(object["history"], serde_json::json!([]));
}

#[test]
fn deploy_outside_of_the_windows_exits_10_and_names_the_next_opening() {
    let directory = directory();
    let freeze = "windows.freezes=[\"2000-01-01..2999-01-01\"]";
    let error = stderr_of(10, directory.path(), &["deploy", "v2", "--set", freeze]);
    assert!(
        error.contains("the freeze 2000-01-01..2999-01-01 holds deployments back: the next one opens Wed 2999-01-02 00:00 UTC"),
        "{error}"
    );
    let journal = directory.path().join("state/journal.json");
    assert!(!journal.exists(), "nothing was changed");
    // The next obstacle is that this directory has no test inputs.
    let emergency = [
        "deploy",
        "v2",
        "--set",
        freeze,
        "--outside-window",
        "--reason",
        "clients wait",
    ];
    let error = stderr_of(2, directory.path(), &emergency);
    assert!(error.contains("cannot read the test inputs"), "{error}");
    for incomplete in [
        &["deploy", "v2", "--outside-window"][..],
        &["deploy", "v2", "--reason", "clients wait"],
        &["deploy", "v2", "--outside-window", "--reason", ""],
    ] {
        stderr_of(2, directory.path(), incomplete);
    }
}

#[test]
fn history_verify_names_the_line_that_was_changed() {
    let directory = directory();
    let path = directory.path();
    let state = StateDirectory::new(&path.join("state"));
    let lock = hold_lock(&path.join("state"));
    for second in 1..=3 {
        let at = Timestamp::from_second(second).expect("a time");
        let entry =
            HistoryEntry::of_color(Action::Stopped, Color::Blue, None, at, "a test".to_owned());
        let appended = state.append_history(&entry).now_or_never();
        appended
            .expect("an append does not wait")
            .expect("a history");
    }
    drop(lock);
    let verify = |arguments: &[&str]| {
        let output = deployer(path, &[&["history", "--verify"], arguments].concat());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (output.status.code(), text)
    };
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("intact: 3 lines"), "{text}");
    let hash = state.newest_history_hash().expect("a line");
    assert_eq!(verify(&[&hash]).0, Some(0));
    let (code, text) = verify(&["00"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("no line has the hash that you gave"),
        "{text}"
    );

    let file = path.join("state/history.jsonl");
    let edited = std::fs::read_to_string(&file).expect("a history");
    std::fs::write(&file, edited.replacen("a test", "a joke", 2)).expect("a history");
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("\nline 1 was edited\nline 2 was edited\n"),
        "{text}"
    );
    let (_, text) = verify(&["--json"]);
    let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(object["intact"], false);
    assert_eq!(object["breaks"][0]["line"], 1);
    assert_eq!(object["exit_code"], 1);
}

#[test]
fn set_flag_works_before_and_after_the_command() {
    let directory = directory();
    for arguments in [
        ["--set", "load.speed=1", "status", "--set", "load.rate=2"],
        ["--set", "load.rate=2", "status", "--set", "load.speed=1"],
    ] {
        let error = stderr_of(2, directory.path(), &arguments);
        assert!(error.contains("--set load.speed=1: unknown key"), "{error}");
    }
}
