//! Reads nginx's configuration, so that the deployer's settings need not repeat it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::ports::{PortError, RouterLimits};

/// nginx's default time to wait for a response.
/// <https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_read_timeout>
const DEFAULT_READ_TIMEOUT: Duration = Duration::from_mins(1);
/// nginx's default time to keep an idle connection to a server open.
/// <https://nginx.org/en/docs/http/ngx_http_upstream_module.html#keepalive_timeout>
const DEFAULT_UPSTREAM_IDLE: Duration = Duration::from_mins(1);

/// Bounds circular includes.
const DEPTH: usize = 16;

/// Returns the router's time limits from a configuration and the files that it includes. Ignores locations that
/// clients cannot reach.
pub(in crate::adapters) fn limits(configuration: &Path) -> Result<RouterLimits, PortError> {
    let root = configuration.parent().unwrap_or(Path::new("."));
    let mut found = Found::default();
    collect(configuration, "", root, DEPTH, &mut found)?;
    let idle = found.upstream_idle.into_iter().max();
    let kept = found.keeps_connections.then_some(DEFAULT_UPSTREAM_IDLE);
    Ok(RouterLimits {
        // The shortest limit ends a request somewhere.
        read: *found.read.iter().min().unwrap_or(&DEFAULT_READ_TIMEOUT),
        longest_read: *found.read.iter().max().unwrap_or(&DEFAULT_READ_TIMEOUT),
        // nginx writes "no limit" as 0.
        next_upstream: found
            .next_upstream
            .into_iter()
            .filter(|it| !it.is_zero())
            .min(),
        upstream_idle: idle.or(kept),
    })
}

/// Returns the files of a configuration that were written after nginx began to use it, as a part of a sentence; `None` if
/// all files are older.
pub(in crate::adapters) fn changed_since(
    configuration: &Path,
    start: SystemTime,
) -> Option<String> {
    let root = configuration.parent().unwrap_or(Path::new("."));
    let mut found = Found::default();
    // `deployer doctor` names a configuration that cannot be read.
    collect(configuration, "", root, DEPTH, &mut found).ok()?;
    let is_newer = |path: &PathBuf| {
        let written = fs::metadata(path).and_then(|file| file.modified());
        written.is_ok_and(|at| at > start)
    };
    let mut changed: Vec<String> = found
        .files
        .iter()
        .filter(|path| is_newer(path))
        .map(|path| path.display().to_string())
        .collect();
    changed.sort();
    changed.dedup();
    (!changed.is_empty()).then(|| changed.join(", "))
}

/// Every value of a directive.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    read: Vec<Duration>,
    next_upstream: Vec<Duration>,
    upstream_idle: Vec<Duration>,
    keeps_connections: bool,
}

fn collect(
    file: &Path,
    block: &str,
    root: &Path,
    depth: usize,
    found: &mut Found,
) -> Result<(), PortError> {
    let text = fs::read_to_string(file).map_err(|error| {
        let message = format!(
            "cannot read nginx's configuration (router.configuration) {}: {error}",
            file.display()
        );
        PortError::of_file(&error, message)
    })?;
    found.files.push(file.to_owned());
    let wrong = |problem: String| PortError::Invalid(format!("{}: {problem}", file.display()));
    let time = |name: &str, value: &str| {
        duration(value).ok_or_else(|| wrong(format!("{name} {value} is not understood")))
    };
    let mut tokens = tokens(&text).into_iter();
    for Directive { block, words } in for_clients(block, &mut tokens) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (block.as_str(), &words[..]) {
            (_, [name @ "proxy_read_timeout", value]) => found.read.push(time(name, value)?),
            (_, [name @ "proxy_next_upstream_timeout", value]) => {
                found.next_upstream.push(time(name, value)?);
            }
            ("upstream", [name @ "keepalive_timeout", value]) => {
                found.upstream_idle.push(time(name, value)?);
            }
            ("upstream", ["keepalive", ..]) => found.keeps_connections = true,
            (block, ["include", included]) => {
                let depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| wrong("too many files include each other".to_owned()))?;
                for path in included_files(&root.join(included))
                    .into_iter()
                    .flat_map(|path| with_variants(&path))
                {
                    collect(&path, block, root, depth, found)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A token of a configuration file.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Begin,
    End,
    Semicolon,
}

/// A directive, and the kind of block that contains it.
struct Directive {
    block: String,
    words: Vec<String>,
}

/// The directives up to the end of a block, without `internal` blocks.
fn for_clients(block: &str, tokens: &mut std::vec::IntoIter<Token>) -> Vec<Directive> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => words.push(word),
            Token::Semicolon => all.push(Directive {
                block: block.to_owned(),
                words: std::mem::take(&mut words),
            }),
            Token::Begin => {
                let inner = std::mem::take(&mut words);
                let kind = inner.first().map_or("", String::as_str);
                all.extend(for_clients(kind, tokens));
            }
            Token::End => break,
        }
    }
    if all.iter().any(|directive| directive.words == ["internal"]) {
        all.clear();
    }
    all
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut characters = text.chars();
    let mut word = String::new();
    while let Some(character) = characters.next() {
        let token = match character {
            '#' if word.is_empty() => {
                characters.by_ref().find(|it| *it == '\n');
                continue;
            }
            '"' | '\'' if word.is_empty() => {
                let quoted = characters.by_ref().take_while(|it| *it != character);
                tokens.push(Token::Word(quoted.collect()));
                continue;
            }
            ';' => Some(Token::Semicolon),
            '{' => Some(Token::Begin),
            '}' => Some(Token::End),
            space if space.is_whitespace() => None,
            other => {
                word.push(other);
                continue;
            }
        };
        tokens.extend((!word.is_empty()).then(|| Token::Word(std::mem::take(&mut word))));
        tokens.extend(token);
    }
    tokens
}

/// A file, or the files that match a `*`.
fn included_files(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy());
    let Some((before, after)) = name.as_deref().and_then(|name| name.split_once('*')) else {
        return vec![path.to_owned()];
    };
    let listed = fs::read_dir(path.parent().unwrap_or(Path::new(".")));
    let mut files: Vec<PathBuf> = listed
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            let name = file.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(before) && name.ends_with(after))
        })
        .collect();
    files.sort();
    files
}

/// A file, and the files that may be mounted over it: `addresses.compose.conf` replaces `addresses.conf` in a
/// container. From outside it is unknown which one is in use.
fn with_variants(path: &Path) -> Vec<PathBuf> {
    let variants = path.with_extension("*.conf");
    let mut files = vec![path.to_owned()];
    if path.is_file() && path.extension().is_some_and(|it| it == "conf") {
        let others = included_files(&variants).into_iter();
        files.extend(others.filter(|other| other.as_path() != path));
    }
    files
}

/// nginx's notation: parts with units, such as `1m30s`; seconds without a unit.
/// <https://nginx.org/en/docs/syntax.html>
fn duration(value: &str) -> Option<Duration> {
    let mut all = Duration::ZERO;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|it: char| it.is_ascii_digit())
                .len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(char::is_alphabetic).len();
        all += match &rest[..letters] {
            "ms" => Duration::from_millis(number),
            "" | "s" => Duration::from_secs(number),
            "m" => Duration::from_mins(number),
            "h" => Duration::from_hours(number),
            "d" => Duration::from_hours(24 * number),
            _ => return None,
        };
        rest = &rest[letters..];
    }
    (!value.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(files: &[(&str, &str)]) -> Result<RouterLimits, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        limits(&directory.path().join("nginx.conf")).map_err(|error| error.to_string())
    }

    fn timeout_of(files: &[(&str, &str)]) -> Result<Duration, String> {
        limits_of(files).map(|limits| limits.read)
    }

    #[test]
    fn shipped_configuration_leaves_time_for_the_standby() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nginx/nginx.conf");
        let two_minutes = Duration::from_mins(2);
        let expected = RouterLimits {
            read: two_minutes,
            longest_read: two_minutes,
            next_upstream: Some(Duration::from_secs(130)),
            upstream_idle: Some(Duration::from_secs(30)),
        };
        assert_eq!(limits(&shipped).unwrap(), expected);
    }

    #[test]
    fn keepalive_timeout_of_upstreams_is_read() {
        let idle = |text| limits_of(&[("nginx.conf", text)]).unwrap().upstream_idle;
        let client_timeout_only =
            "http { keepalive_timeout 75s; upstream blue { server 127.0.0.1; } }";
        assert_eq!(idle(client_timeout_only), None);
        let default_timeout = "http { keepalive_timeout 75s; upstream blue { keepalive 8; } }";
        assert_eq!(idle(default_timeout), Some(Duration::from_mins(1)));
        let two_timeouts =
            "upstream a { keepalive_timeout 20s; } upstream b { keepalive_timeout 5s; }";
        assert_eq!(idle(two_timeouts), Some(Duration::from_secs(20)));
    }

    #[test]
    fn unlimited_next_upstream_timeout_is_none() {
        let next_upstream = |text| limits_of(&[("nginx.conf", text)]).unwrap().next_upstream;
        assert_eq!(next_upstream("proxy_next_upstream_timeout 0;"), None);
        let two_timeouts =
            "proxy_next_upstream_timeout 9s; location / { proxy_next_upstream_timeout 3s; }";
        assert_eq!(next_upstream(two_timeouts), Some(Duration::from_secs(3)));
    }

    #[test]
    fn shortest_timeout_of_included_files_counts() {
        let timeout = timeout_of(&[
            (
                "nginx.conf",
                "http { proxy_read_timeout 2m; include more/*.none; include extra.conf; }",
            ),
            (
                "extra.conf",
                "location / { # proxy_read_timeout 1s;\n proxy_read_timeout 1m30s; }",
            ),
        ]);
        assert_eq!(timeout, Ok(Duration::from_secs(90)));
    }

    #[test]
    fn internal_locations_are_ignored() {
        let timeout = timeout_of(&[(
            "nginx.conf",
            "server { location / { proxy_read_timeout 3s; } location /x { internal; proxy_read_timeout 1s; } }",
        )]);
        assert_eq!(timeout, Ok(Duration::from_secs(3)));
    }

    #[test]
    fn include_pattern_matches_several_files() {
        let timeout = timeout_of(&[
            ("nginx.conf", "include *.server.conf;"),
            ("a.server.conf", "proxy_read_timeout 30;"),
            ("b.server.conf", "proxy_read_timeout 900ms;"),
        ]);
        assert_eq!(timeout, Ok(Duration::from_millis(900)));
    }

    #[test]
    fn variant_mounted_in_container_is_read_too() {
        let timeout = timeout_of(&[
            (
                "nginx.conf",
                "proxy_read_timeout 2m; include addresses.conf;",
            ),
            ("addresses.conf", "# nothing"),
            ("addresses.compose.conf", "proxy_read_timeout 40s;"),
        ]);
        assert_eq!(timeout, Ok(Duration::from_secs(40)));
    }

    #[test]
    fn missing_timeout_is_nginx_default() {
        assert_eq!(
            timeout_of(&[("nginx.conf", "events {}")]),
            Ok(Duration::from_mins(1))
        );
    }

    #[test]
    fn quoted_hash_does_not_start_a_comment() {
        let timeout = timeout_of(&[(
            "nginx.conf",
            "log_format x '# {;}'; proxy_read_timeout \"7s\";",
        )]);
        assert_eq!(timeout, Ok(Duration::from_secs(7)));
    }

    #[test]
    fn configuration_error_names_missing_file_circular_include_and_syntax() {
        let error = timeout_of(&[("nginx.conf", "include gone.conf;")]).unwrap_err();
        assert!(error.contains("gone.conf"), "{error}");
        let error = timeout_of(&[("nginx.conf", "include nginx.conf;")]).unwrap_err();
        assert!(error.contains("include each other"), "{error}");
        let error = timeout_of(&[("nginx.conf", "proxy_read_timeout soon;")]).unwrap_err();
        assert!(error.contains("soon is not understood"), "{error}");
    }
}
