//! Reads the settings file over the embedded defaults.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use crate::config::settings::Settings;

const DEFAULT: &str = include_str!("defaults.toml");

/// Why the settings are unusable.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The file holds an invalid setting.
    #[error("{path}, line {line}: {problem}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A setting given for this run is invalid.
    #[error("--set {given}: {problem}")]
    Override {
        /// The setting as given.
        given: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A setting is out of range.
    #[error("{key} is {value}, but must be {expected}")]
    OutOfRange {
        /// The key, with its section.
        key: &'static str,
        /// The value.
        value: String,
        /// The allowed range.
        expected: &'static str,
    },
}

/// Reads `path` over the embedded default. Without a path, reads `deployer.toml` in the current directory if it
/// exists. Relative paths are relative to the file's directory.
///
/// `over` holds settings that override both, each as `SECTION.KEY=VALUE`.
pub fn load(path: Option<&Path>, over: &[String]) -> Result<Settings, SettingsError> {
    let (path, optional) = match path {
        Some(path) => (path, false),
        None => (Path::new("deployer.toml"), true),
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(SettingsError::Unreadable {
                path: path.to_owned(),
                source,
            });
        }
    };
    let mut settings = parse(path, &text, over)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    resolve_paths(
        &mut settings,
        &std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()),
    );
    Ok(settings)
}

fn parse(path: &Path, text: &str, over: &[String]) -> Result<Settings, SettingsError> {
    let wrong = |offset: usize, problem: String| SettingsError::Wrong {
        path: path.to_owned(),
        line: 1 + text[..offset.min(text.len())].matches('\n').count(),
        problem,
    };
    let from_toml = |error: &toml::de::Error| {
        wrong(
            error.span().map_or(0, |span| span.start),
            error.message().to_owned(),
        )
    };
    let mut merged: Table = DEFAULT.parse().expect("the embedded default is valid TOML");
    let spanned = DeTable::parse(text).map_err(|error| from_toml(&error))?;
    if let Some((offset, problem)) = unknown_key(spanned.get_ref(), &merged, "") {
        return Err(wrong(offset, problem));
    }
    merge(
        &mut merged,
        text.parse().map_err(|error| from_toml(&error))?,
    );
    let read = |merged| serde_path_to_error::deserialize::<_, Settings>(Value::Table(merged));
    // First without `over`, so that an error in the file is attributed to the file.
    let settings = read(merged.clone()).map_err(|error| {
        let key = error.path().to_string();
        let offset = offset_of(spanned.get_ref(), &key).unwrap_or(0);
        wrong(offset, format!("{key}: {}", error.inner().message()))
    })?;
    over.iter().try_fold(settings, |_, given| {
        let wrong = |problem: String| SettingsError::Override {
            given: given.clone(),
            problem,
        };
        let text = assignment(given).map_err(|problem| wrong(problem.to_owned()))?;
        let spanned = DeTable::parse(&text).map_err(|error| wrong(error.message().to_owned()))?;
        if let Some((_, problem)) = unknown_key(spanned.get_ref(), &merged, "") {
            return Err(wrong(problem));
        }
        let given: Table = text
            .parse()
            .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
        merge(&mut merged, given);
        read(merged.clone()).map_err(|error| wrong(error.inner().message().to_owned()))
    })
}

/// Converts `load.max_p99=1s` to TOML. A value that is no TOML becomes a string.
fn assignment(given: &str) -> Result<String, &'static str> {
    let (key, value) = given
        .split_once('=')
        .ok_or("expected KEY=VALUE, such as load.max_p99=1s")?;
    [
        value.to_owned(),
        Value::String(value.to_owned()).to_string(),
    ]
    .into_iter()
    .map(|value| format!("{key} = {value}"))
    .find(|text| DeTable::parse(text).is_ok())
    .ok_or("the key is not understood, expected one such as load.max_p99")
}

/// The default file holds every key, so any other key is unknown.
fn unknown_key(given: &DeTable<'_>, known: &Table, section: &str) -> Option<(usize, String)> {
    given.iter().find_map(|(key, value)| {
        let name = key.get_ref().as_ref();
        let place = format!("{section}{name}");
        match (value.get_ref(), known.get(name)) {
            (_, None) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let problem = format!("unknown key `{place}`; known here: {}", names.join(", "));
                Some((key.span().start, problem))
            }
            (DeValue::Table(given), Some(Value::Table(known))) => {
                unknown_key(given, known, &format!("{place}."))
            }
            (_, Some(_)) => None,
        }
    })
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn offset_of(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (key, value): (&Spanned<_>, &Spanned<DeValue<'_>>) =
        table.iter().find(|(key, _)| key.get_ref() == first)?;
    match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => offset_of(inner, rest),
        _ => Some(key.span().start),
    }
}

fn resolve_paths(settings: &mut Settings, directory: &Path) {
    directory.clone_into(&mut settings.directory);
    let process = &mut settings.fleet.process;
    for path in [
        &mut settings.state,
        &mut settings.router.flags,
        &mut settings.probe.inputs,
        &mut settings.page.keys,
        &mut settings.fleet.compose.file,
        &mut settings.fleet.compose.environment_file,
        &mut process.nginx_prefix,
    ] {
        *path = directory.join(&*path);
    }
    for path in [
        &mut settings.release.model_root,
        &mut settings.router.configuration,
        &mut settings.router.access_log,
        &mut settings.router.error_log,
        &mut settings.router.shadow_log,
        &mut settings.routers.token_file,
        &mut settings.probe.api_key_file,
        &mut settings.agreement.inputs,
        &mut settings.load.inputs,
    ]
    .into_iter()
    .flatten()
    {
        *path = directory.join(&*path);
    }
    // A program without a directory is found in PATH.
    if process.nginx.components().count() > 1 {
        process.nginx = directory.join(&process.nginx);
    }
    if let Some(program) = process.command.first_mut()
        && program.contains('/')
    {
        *program = directory.join(&*program).to_string_lossy().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse_text(text: &str) -> Result<Settings, String> {
        parse(Path::new("deployer.toml"), text, &[]).map_err(|error| error.to_string())
    }

    fn parse_with(text: &str, overrides: &[&str]) -> Result<Settings, String> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        parse(Path::new("deployer.toml"), text, &overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn set_flag_overrides_file() {
        let overrides = [
            "bake.duration=7s",
            "load.rate = 20.5",
            "gates.run=[\"load\"]",
            "load.inputs=more.jsonl",
        ];
        let settings = parse_with("[bake]\nduration = \"5s\"", &overrides).unwrap();
        assert_eq!(settings.bake.duration, Duration::from_secs(7));
        assert!((settings.load.rate - 20.5).abs() < 1e-9);
        assert_eq!(settings.gates.run, [super::super::GateName::Load]);
        assert_eq!(
            settings.load.inputs.as_deref(),
            Some(Path::new("more.jsonl"))
        );
    }

    #[test]
    fn invalid_set_flag_is_named_in_error() {
        let error_of = |setting| parse_with("", &["bake.failures=2", setting]).unwrap_err();
        for (setting, expected) in [
            (
                "load.speed=3",
                "unknown key `load.speed`; known here: concurrency",
            ),
            ("load", "expected KEY=VALUE"),
            ("a b=3", "the key is not understood"),
            ("load.max_p99=soon", "invalid value"),
            ("gates.run=[\"luck\"]", "unknown variant `luck`"),
        ] {
            let error = error_of(setting);
            assert!(error.starts_with(&format!("--set {setting}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn defaults_match_the_documented_file() {
        let settings = parse_text("").unwrap();
        assert_eq!(settings.health.stall, Duration::from_secs(30));
        assert_eq!(settings.health.interval, Duration::from_secs(3));
        assert_eq!(settings.smoke.requests, 50);
        assert_eq!(settings.bake.duration, Duration::from_mins(1));
    }

    #[test]
    fn file_overrides_single_default() {
        let settings = parse_text("[bake]\nduration = \"5s\"").unwrap();
        assert_eq!(settings.bake.duration, Duration::from_secs(5));
        assert_eq!(settings.bake.failures, 3);
    }

    #[test]
    fn unknown_key_error_names_line_and_known_keys() {
        let error = parse_text("state = \"x\"\n\n[health]\nattempts = 3").unwrap_err();
        assert_eq!(
            error,
            "deployer.toml, line 4: unknown key `health.attempts`; known here: deadline, interval, stall"
        );
    }

    #[test]
    fn unknown_section_is_an_error() {
        let error = parse_text("[baking]\nduration = \"5s\"").unwrap_err();
        assert!(
            error.starts_with("deployer.toml, line 1: unknown key `baking`"),
            "{error}"
        );
    }

    #[test]
    fn wrong_type_error_names_key_and_line() {
        let error = parse_text("[bake]\ninterval = \"1s\"\nfailures = \"three\"").unwrap_err();
        assert!(
            error.starts_with("deployer.toml, line 3: bake.failures: invalid type"),
            "{error}"
        );
    }

    #[test]
    fn invalid_duration_error_names_key_and_line() {
        let error = parse_text("[bake]\nduration = \"60\"").unwrap_err();
        assert!(
            error.starts_with("deployer.toml, line 2: bake.duration: "),
            "{error}"
        );
    }

    #[test]
    fn toml_syntax_error_names_line() {
        let error = parse_text("state = \"x\"\n[bake").unwrap_err();
        assert!(error.starts_with("deployer.toml, line 2: "), "{error}");
    }

    #[test]
    fn relative_paths_are_resolved_against_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("my.toml");
        fs::write(&file, "[fleet.process]\ncommand = [\"bin/server\"]").unwrap();
        let settings = load(Some(&file), &[]).unwrap();
        assert_eq!(settings.state, directory.path().join("state"));
        assert_eq!(
            settings.router.access_log,
            Some(directory.path().join("run/logs/access.log"))
        );
        assert_eq!(
            settings.fleet.process.command[0],
            directory.path().join("bin/server").to_string_lossy()
        );
        assert_eq!(settings.fleet.process.nginx, Path::new("nginx"));
    }

    #[test]
    fn missing_settings_file_is_an_error() {
        let error = load(Some(Path::new("no/such.toml")), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read the settings file no/such.toml"),
            "{error}"
        );
    }
}
