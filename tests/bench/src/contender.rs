//! The servers that are compared: this project's with both engines, and its peers.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use end_to_end::repository;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time,
};

use crate::memory;

/// No server takes longer to start, on however slow a machine.
const START: Duration = Duration::from_mins(1);
/// How often a server that starts is asked.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// How long a server may take to stop by itself.
const STOP: Duration = Duration::from_secs(5);

/// A server, and how it is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// Whether it is a peer, and not this project's.
    pub(crate) is_peer: bool,
    /// Whether a peer is set otherwise than its documentation has it, until it keeps all cores busy.
    pub(crate) is_tuned: bool,
    program: Program,
    environment: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy)]
enum Program {
    Own,
    Peer {
        name: &'static str,
        path: &'static str,
        /// Whether the text stands in an array of its own.
        list: bool,
    },
}

const fn peer(
    name: &'static str,
    program: &'static str,
    environment: &'static [(&'static str, &'static str)],
) -> Contender {
    Contender {
        name,
        is_peer: true,
        is_tuned: true,
        program: Program::Peer {
            name: program,
            path: "/predict",
            list: false,
        },
        environment,
    }
}

/// This server with ONNX Runtime.
pub(crate) const ONNXRUNTIME: Contender = Contender {
    name: "model-server, onnxruntime",
    is_peer: false,
    is_tuned: false,
    program: Program::Own,
    environment: &[("ENGINE", "onnxruntime")],
};

/// This server with its built-in engine.
pub(crate) const RTEN: Contender = Contender {
    name: "model-server, rten",
    is_peer: false,
    is_tuned: false,
    program: Program::Own,
    environment: &[("ENGINE", "rten")],
};

/// `FastAPI` as most people run it.
pub(crate) const FASTAPI: Contender = Contender {
    is_tuned: false,
    ..peer(
        "FastAPI, 1 worker × 2 threads",
        "fastapi",
        &[("PROCESSES", "1"), ("THREADS", "2")],
    )
};

/// Everybody. MOSEC comes three times: each setting is its best for other models and loads.
pub(crate) const ALL: [Contender; 9] = [
    ONNXRUNTIME,
    RTEN,
    FASTAPI,
    peer(
        "FastAPI, 2 workers × 1 thread",
        "fastapi",
        &[("PROCESSES", "2"), ("THREADS", "1")],
    ),
    mosec(
        "MOSEC, 2 processes × 1 thread, batches of 8",
        &[("PROCESSES", "2"), ("THREADS", "1"), ("BATCH", "8")],
    ),
    mosec(
        "MOSEC, 2 processes × 1 thread, batches of 64",
        &[("PROCESSES", "2"), ("THREADS", "1"), ("BATCH", "64")],
    ),
    Contender {
        is_tuned: false,
        ..mosec(
            "MOSEC, 1 process × 2 threads, batches of 16",
            &[("PROCESSES", "1"), ("THREADS", "2"), ("BATCH", "16")],
        )
    },
    peer(
        "LitServe, 2 workers × 1 thread",
        "litserve",
        &[("PROCESSES", "2"), ("THREADS", "1"), ("BATCH", "8")],
    ),
    Contender {
        program: Program::Peer {
            name: "bentoml",
            path: "/predict",
            list: true,
        },
        ..peer(
            "BentoML, 2 workers × 1 thread",
            "bentoml",
            &[("PROCESSES", "2"), ("THREADS", "1"), ("BATCH", "8")],
        )
    },
];

const fn mosec(
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
) -> Contender {
    Contender {
        program: Program::Peer {
            name: "mosec",
            path: "/inference",
            list: false,
        },
        ..peer(name, "mosec", environment)
    }
}

impl Contender {
    /// Where it takes texts.
    pub(crate) fn path(&self) -> &'static str {
        match self.program {
            Program::Own => "/predict",
            Program::Peer { path, .. } => path,
        }
    }

    /// The body for a text.
    pub(crate) fn body(&self, text: &str) -> String {
        match self.program {
            Program::Peer { list: true, .. } => serde_json::json!({ "text": [text] }),
            Program::Own | Program::Peer { .. } => serde_json::json!({ "text": text }),
        }
        .to_string()
    }

    /// Starts it with the release in `directory` (ROOT/NAME/VERSION) and further settings in its
    /// environment, and waits until it answers.
    pub(crate) async fn start(
        self,
        directory: &Path,
        port: u16,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Running> {
        let mut command = match self.program {
            Program::Own => own(directory, port)?,
            Program::Peer { name, .. } => {
                let mut command = Command::new(repository().join("tests/bench/peers/run"));
                command.arg(name).arg(directory).arg(port.to_string());
                command
            }
        };
        let log = env::temp_dir().join(format!("bench-{port}.log"));
        let file = fs::File::create(&log)?;
        let began = Instant::now();
        let child = command
            .envs(self.environment.iter().copied())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let id = i32::try_from(child.id().context("it ended at once")?)?;
        let mut running = Running {
            contender: self,
            address: ([127, 0, 0, 1], port).into(),
            group: Pid::from_raw(id).context("a process has a number")?,
            started_in: Duration::ZERO,
            child,
        };
        let answered = time::timeout(START, running.until_it_answers()).await;
        answered
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| {
                let said = fs::read_to_string(&log).unwrap_or_default();
                format!("{} does not answer: {said}", self.name)
            })?;
        running.started_in = began.elapsed();
        Ok(running)
    }
}

/// This project's server, which lies beside this program.
fn own(directory: &Path, port: u16) -> anyhow::Result<Command> {
    let name_of = |path: Option<&Path>| -> anyhow::Result<PathBuf> {
        let name = path.and_then(Path::file_name);
        Ok(name.context("a release lies in ROOT/NAME/VERSION")?.into())
    };
    let model = directory.parent();
    let root = model.and_then(Path::parent);
    let mut command = Command::new(env::current_exe()?.with_file_name("model-server"));
    command
        .env("MODEL_VERSION", name_of(Some(directory))?)
        .env("MODEL_NAME", name_of(model)?)
        .env("MODEL_ROOT", root.context("a release has a root")?)
        .env("ONNXRUNTIME_LIBRARY", library())
        .env("PORT", port.to_string())
        .env("GRACE_SECONDS", "0")
        // As in the image.
        .env("MIMALLOC_PURGE_DELAY", "100")
        .env("MIMALLOC_ALLOW_THP", "0")
        // The peers write no line for each request either.
        .env("REQUEST_LOG", "failures");
    Ok(command)
}

/// ONNX Runtime's library, as scripts/onnxruntime installs it.
pub(crate) fn library() -> PathBuf {
    repository().join("target/onnxruntime/libonnxruntime.so")
}

/// A server that answers. Dropping it ends all of its processes.
pub(crate) struct Running {
    pub(crate) contender: Contender,
    pub(crate) address: SocketAddr,
    /// From its start to its first answer to a text.
    pub(crate) started_in: Duration,
    group: Pid,
    child: Child,
}

impl Running {
    async fn until_it_answers(&mut self) -> anyhow::Result<()> {
        let body = self.contender.body("a fine film");
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended with {status}");
            }
            if post(self.address, self.contender.path(), &body)
                .await
                .is_ok_and(|ok| ok)
            {
                return Ok(());
            }
            time::sleep(ASK_EVERY).await;
        }
    }

    /// Megabytes that its processes hold in memory together.
    pub(crate) fn memory(&self) -> anyhow::Result<f64> {
        let processes = self.processes()?.into_iter();
        let smaps: Vec<String> = processes
            .map(|process| format!("/proc/{}/smaps", process.as_raw_nonzero()))
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect();
        Ok(memory::held(smaps.iter().map(String::as_str)) as f64 / 1024.0)
    }

    /// Lets it stand still while it is another one's turn: some servers look for work all the time, on
    /// the same cores.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        for process in self.processes()? {
            // One that has just ended needs no signal.
            let _ = kill_process(process, signal);
        }
        Ok(())
    }

    /// The process that was started and all that descend from it: some make sessions of their own.
    fn processes(&self) -> anyhow::Result<Vec<Pid>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            parents.extend(id.and_then(Pid::from_raw).zip(parent_of(&stat)));
        }
        let mut family = vec![self.group];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            let children = parents
                .iter()
                .filter(|(_, of)| *of == parent.as_raw_nonzero().get());
            family.extend(children.map(|(child, _)| *child));
            next += 1;
        }
        Ok(family)
    }

    /// Tells it to stop, and ends what does not.
    pub(crate) async fn stop(mut self) {
        // One that stands still heeds nothing else.
        let _ = self.resume();
        let _ = kill_process_group(self.group, Signal::TERM);
        let _ = time::timeout(STOP, self.child.wait()).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Their workers too, also those with a group of their own, whatever became of the first process.
        let _ = self.signal(Signal::KILL);
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

/// The parent in a line of /proc/PID/stat; the name before it may hold spaces.
fn parent_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a text is answered with 200.
async fn post(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<bool> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        anyhow::Ok(start.ends_with(b" 200"))
    };
    time::timeout(Duration::from_secs(5), ask).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_process_is_found_behind_whatever_name_it_has() {
        let stat = "12 (a (strange) name) S 1 34 34 0 -1";
        assert_eq!(parent_of(stat), Some(1));
        assert_eq!(parent_of("nonsense"), None);
    }
}
