//! chromedriver, which starts and ends chromium.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use end_to_end::send_signal;

type Result<T = ()> = anyhow::Result<T>;

/// Longer than chromium takes to start beside two stacks on two busy cores.
pub(crate) const START_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A chromedriver. Dropping it ends the browser that it started.
pub(crate) struct Driver {
    process: Child,
    pub(crate) port: u16,
    profile: PathBuf,
}

impl Driver {
    /// Starts chromedriver on a free port, for a browser with this profile.
    pub(crate) fn start(profile: &Path) -> Result<Self> {
        let mut process = Command::new("chromedriver")
            // chromedriver chooses a free port, and prints it.
            .arg("--port=0")
            // Chromium writes caches and crash reports to the home directory too.
            .env("HOME", profile)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start chromedriver: `make test` installs it")?;
        let output = process.stdout.take();
        let mut driver = Self {
            process,
            port: 0,
            profile: profile.to_owned(),
        };
        driver.port = find_port(output.context("chromedriver has no output")?)?;
        Ok(driver)
    }

    /// Returns the processes that work for the browser. Each names the profile in its arguments.
    fn chromium_processes(&self) -> Vec<String> {
        let profile = self.profile.as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes.filter(|process| {
            let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
            arguments.windows(profile.len()).any(|part| part == profile)
        });
        ours.map(|process| process.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

/// Returns the port that chromedriver prints. Fails after [`START_TIMEOUT`].
fn find_port(output: ChildStdout) -> Result<u16> {
    let (sender, port) = mpsc::channel();
    // The thread reads to the end, because chromedriver must be able to write.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(io::Result::ok) {
            if let Some((_, port)) = line.split_once("was started successfully on port ") {
                let _ = sender.send(port.trim_end_matches('.').to_owned());
            }
        }
    });
    let port = port
        .recv_timeout(START_TIMEOUT)
        .with_context(|| format!("chromedriver did not start within {START_TIMEOUT:?}"))?;
    Ok(port.parse()?)
}

impl Drop for Driver {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing can be awaited while a value is dropped"
    )]
    fn drop(&mut self) {
        const STOP_TIMEOUT: Duration = Duration::from_secs(5);

        // On SIGTERM chromedriver ends its browser.
        let _ = send_signal(&self.process.id().to_string(), "TERM");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        for process in self.chromium_processes() {
            let _ = send_signal(&process, "KILL");
        }
        // The profile can be removed when no process writes to it.
        while !self.chromium_processes().is_empty() && Instant::now() < deadline + STOP_TIMEOUT {
            thread::sleep(POLL_INTERVAL);
        }
    }
}
