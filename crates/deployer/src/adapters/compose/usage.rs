//! What a container reads from disks, and how much memory it uses.
//!
//! The kernel's files of its control group cost nothing to read, and every user may read them. If the engine runs on another
//! machine, or this process sees other control groups, `docker stats` tells the same less exactly, and takes two seconds.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::process::Process;
use serde::Deserialize;

use crate::adapters::compose::{ComposeFleet, container::Container};

/// How long `docker stats` may take.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) memory: Option<u64>,
    pub(super) disk_read: Option<u64>,
}

impl ComposeFleet {
    /// What a container uses. What cannot be read is left out.
    pub(super) async fn usage(&self, container: &Container) -> Usage {
        if let Some(usage) = of_control_group(container, Path::new("/sys/fs/cgroup")) {
            return usage;
        }
        let stats = [
            "stats",
            "--no-stream",
            "--format",
            "{{json .}}",
            &container.id,
        ];
        let printed = tokio::time::timeout(MAX_WAIT, self.docker(&stats)).await;
        printed
            .ok()
            .and_then(Result::ok)
            .and_then(|printed| parse_stats(&printed))
            .unwrap_or_default()
    }
}

/// Reads the files of the container's control group; `None` if this machine does not run the container.
fn of_control_group(container: &Container, mounted: &Path) -> Option<Usage> {
    let process = Process::new(container.state.pid).ok()?;
    let groups = process.cgroups().ok()?.0;
    // A process of this machine may have the same number as a container's process on another machine.
    if container.id.is_empty()
        || !groups
            .iter()
            .any(|group| group.pathname.contains(&container.id))
    {
        return None;
    }
    let mut usage = Usage::default();
    for group in groups {
        let directory = |controller: &str| -> PathBuf {
            mounted
                .join(controller)
                .join(group.pathname.trim_start_matches('/'))
        };
        let read = |path: PathBuf| fs::read_to_string(path).ok();
        let number = |text: String| text.trim().parse().ok();
        let has = |name: &str| {
            group
                .controllers
                .iter()
                .any(|controller| controller == name)
        };
        if group.hierarchy == 0 {
            let directory = directory("");
            usage.memory = usage
                .memory
                .or(read(directory.join("memory.current")).and_then(number));
            let disk = read(directory.join("io.stat"));
            usage.disk_read = usage.disk_read.or(disk.map(|text| read_bytes(&text)));
        } else if has("memory") {
            usage.memory = read(directory("memory").join("memory.usage_in_bytes")).and_then(number);
        } else if has("blkio") {
            let file = directory("blkio").join("blkio.throttle.io_service_bytes");
            usage.disk_read = read(file).map(|text| read_bytes_of_version_1(&text));
        }
    }
    (usage != Usage::default()).then_some(usage)
}

/// The bytes read in `io.stat`, whose lines are like `8:0 rbytes=4096 wbytes=0 rios=1`.
fn read_bytes(text: &str) -> u64 {
    let fields = text.split_whitespace();
    let read = fields.filter_map(|field| field.strip_prefix("rbytes=")?.parse::<u64>().ok());
    read.sum()
}

/// The same in version 1 of control groups, whose lines are like `8:0 Read 4096`.
fn read_bytes_of_version_1(text: &str) -> u64 {
    let read = text.lines().filter_map(|line| {
        let (_, bytes) = line.split_once(" Read ")?;
        bytes.trim().parse::<u64>().ok()
    });
    read.sum()
}

/// Parses what `docker stats` prints about one container.
fn parse_stats(printed: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stats {
        mem_usage: String,
        #[serde(rename = "BlockIO")]
        block_io: String,
    }

    let stats: Stats = serde_json::from_str(printed.lines().next()?).ok()?;
    let first = |text: &str| text.split('/').next().and_then(|text| bytes(text.trim()));
    Some(Usage {
        memory: first(&stats.mem_usage),
        disk_read: first(&stats.block_io),
    })
}

/// Parses a size such as `1.5GiB` or `20kB`.
fn bytes(text: &str) -> Option<u64> {
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let base: f64 = if unit.contains('i') { 1024.0 } else { 1000.0 };
    let power = match unit.chars().next()?.to_ascii_uppercase() {
        'B' => 0,
        'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        _ => return None,
    };
    let bytes = number.trim().parse::<f64>().ok()? * base.powi(power);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked"
    )]
    (0.0..1e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_bytes_are_summed_over_disks() {
        let text = "8:16 rbytes=4096 wbytes=1 rios=2 wios=3\n8:0 rbytes=1000 wbytes=0\n253:0\n";
        assert_eq!(read_bytes(text), 5_096);
        let text = "8:16 Read 4096\n8:16 Write 7\n8:0 Read 1000\n8:0 Total 1000\nTotal 5103\n";
        assert_eq!(read_bytes_of_version_1(text), 5_096);
        assert_eq!(read_bytes(""), 0);
    }

    #[test]
    fn stats_of_the_engine_are_parsed() {
        let printed =
            r#"{"BlockIO":"1.5MB / 0B","CPUPerc":"0.02%","MemUsage":"2GiB / 15.6GiB","PIDs":"7"}"#;
        let expected = Usage {
            memory: Some(2 << 30),
            disk_read: Some(1_500_000),
        };
        assert_eq!(parse_stats(printed), Some(expected));
        // A container that has just ended.
        let printed = r#"{"BlockIO":"-- / --","MemUsage":"-- / --"}"#;
        assert_eq!(parse_stats(printed), Some(Usage::default()));
        assert_eq!(parse_stats("Error response from daemon"), None);
    }

    #[test]
    fn process_that_is_not_the_containers_is_not_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let container = |id: &str| {
            let text = serde_json::json!({
                "Id": id,
                "State": {"Status": "running", "ExitCode": 0, "OOMKilled": false, "Error": "", "Pid": pid},
                "RestartCount": 0,
                "Config": {"Image": "image"},
            });
            serde_json::from_value::<Container>(text).unwrap()
        };
        let mounted = Path::new("/sys/fs/cgroup");
        assert_eq!(
            of_control_group(&container("no-such-container"), mounted),
            None
        );
        assert_eq!(of_control_group(&container(""), mounted), None);
    }
}
