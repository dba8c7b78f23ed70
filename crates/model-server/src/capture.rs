//! A random sample of the texts that clients send, in the shape of a golden set.
//!
//! Each answered text has the same chance to be in the sample (reservoir sampling). A thread of its own writes the file, so no
//! request waits for a disk.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use model_repository::{RepositoryError, check_segment};
use serde::Serialize;
use thiserror::Error;
use tokio::{sync::oneshot, time};
use tracing::warn;

use crate::{
    config::{CaptureSettings, ModelSettings, Redaction},
    metrics::counters::Metrics,
};

/// Longer texts are not sampled.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Texts that wait for the thread; further ones are dropped.
const MAX_WAITING: usize = 256;

/// How often a changed sample is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the end of the server waits for the last write.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the capture cannot start.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The name of the model or of the release cannot be a part of the file's name.
    #[error(transparent)]
    Name(#[from] RepositoryError),
    /// The sample cannot be written.
    #[error(
        "cannot write to {path}: {source}; set CAPTURE_DIRECTORY to a directory in which the server may create files"
    )]
    Unwritable {
        /// The directory of the sample.
        path: PathBuf,
        /// Why it is not writable.
        source: io::Error,
    },
}

/// The running capture.
#[derive(Debug)]
pub(crate) struct Capture {
    /// The most texts in the sample.
    inputs: usize,
    /// Texts that were answered so far, without those that are too long.
    answered: AtomicUsize,
    /// `None` after the stop.
    sender: Mutex<Option<SyncSender<CapturedText>>>,
    /// Resolves when the thread has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
    metrics: Arc<Metrics>,
}

/// A copy of a text that waits for its answer.
#[derive(Debug)]
pub(crate) struct CopiedText<'a> {
    capture: &'a Capture,
    input: GoldenInput,
}

#[derive(Debug)]
struct CapturedText {
    /// Its place in the sample. A later text may take it.
    place: usize,
    input: GoldenInput,
    label: Option<String>,
}

impl Capture {
    /// Starts the capture if the settings ask for one. Fails if the directory is not writable, or if the file
    /// would be outside of it.
    pub(crate) fn start(
        settings: &CaptureSettings,
        model: &ModelSettings,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, CaptureError> {
        let Some(directory) = &settings.directory else {
            return Ok(None);
        };
        check_segment("model name", &model.name)?;
        check_segment("model version", &model.version)?;
        let path = directory.join(file_name(model));
        let unwritable = |source| CaptureError::Unwritable {
            path: directory.clone(),
            source,
        };
        write_file(&path, []).map_err(unwritable)?;
        // A server that receives nothing leaves no file.
        fs::remove_file(&path).map_err(unwritable)?;
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let (end, ended) = oneshot::channel();
        let writer = SampleWriter {
            path,
            redact: settings.redact,
            lines: BTreeMap::new(),
            failed: false,
            metrics: Arc::clone(metrics),
        };
        thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                writer.run(&receiver);
                let _ = end.send(());
            })
            .map_err(unwritable)?;
        Ok(Some(Self {
            inputs: settings.inputs,
            answered: AtomicUsize::new(0),
            sender: Mutex::new(Some(sender)),
            ended: Mutex::new(Some(ended)),
            metrics: Arc::clone(metrics),
        }))
    }

    /// Copies a text and its second text until they are answered. Returns `None` if they are too long for the sample.
    pub(crate) fn copy(&self, text: &str, text_pair: Option<&str>) -> Option<CopiedText<'_>> {
        let length = text.len() + text_pair.map_or(0, str::len);
        (length <= MAX_TEXT_BYTES).then(|| CopiedText {
            capture: self,
            input: GoldenInput {
                text: text.to_owned(),
                text_pair: text_pair.map(str::to_owned),
            },
        })
    }

    /// Counts an answered text, and draws its place in the sample; `None` if it gets none.
    fn draw(&self) -> Option<usize> {
        let earlier = self.answered.fetch_add(1, Ordering::Relaxed);
        let place = if earlier < self.inputs {
            earlier
        } else {
            fastrand::usize(..=earlier)
        };
        (place < self.inputs).then_some(place)
    }

    /// Writes the sample a last time, within [`STOP_TIMEOUT`].
    pub(crate) async fn stop(&self) {
        drop(lock(&self.sender).take());
        let ended = lock(&self.ended).take();
        if let Some(ended) = ended
            && time::timeout(STOP_TIMEOUT, ended).await.is_err()
        {
            warn!("the last sample of inputs is not written yet, and is lost");
        }
    }
}

impl CopiedText<'_> {
    /// Puts the answered text into the sample if it is drawn, with the label that it got.
    pub(crate) fn keep(self, label: Option<&str>) {
        let Some(place) = self.capture.draw() else {
            return;
        };
        let text = CapturedText {
            place,
            input: self.input,
            label: label.map(str::to_owned),
        };
        let sent = lock(&self.capture.sender)
            .as_ref()
            .map(|sender| sender.try_send(text));
        if !matches!(sent, Some(Ok(()))) {
            self.capture.metrics.captured_text_dropped();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a name that no other server in the same directory has, such as the other color.
fn file_name(model: &ModelSettings) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    format!("{}-{}-{now}.jsonl", model.name, model.version)
}

/// The thread that writes the file.
struct SampleWriter {
    path: PathBuf,
    redact: Redaction,
    /// The sample, by place.
    lines: BTreeMap<usize, String>,
    /// Whether the last write failed.
    failed: bool,
    metrics: Arc<Metrics>,
}

impl SampleWriter {
    /// Receives texts until the server stops.
    fn run(mut self, receiver: &Receiver<CapturedText>) {
        let (mut changed, mut next_write) = (false, Instant::now() + WRITE_INTERVAL);
        loop {
            let wait = next_write.saturating_duration_since(Instant::now());
            let stopped = match receiver.recv_timeout(wait) {
                Ok(text) => {
                    self.lines.insert(text.place, line(text, self.redact));
                    changed = true;
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let is_due = Instant::now() >= next_write;
            if changed && (is_due || stopped) {
                changed = !self.write();
            }
            if stopped {
                return;
            }
            if is_due {
                next_write = Instant::now() + WRITE_INTERVAL;
            }
        }
    }

    /// Returns whether the file was written. The first failure of several is logged, and each is counted.
    fn write(&mut self) -> bool {
        let written = write_file(&self.path, self.lines.values().map(String::as_str));
        if let Err(error) = &written {
            self.metrics.capture_write_failed();
            if !self.failed {
                let path = self.path.display();
                warn!(%path, %error, "the sample of inputs cannot be written; the server tries again");
            }
        }
        self.failed = written.is_err();
        written.is_ok()
    }
}

/// Replaces a file, so that a reader never sees half of it. Only the server's user can read it.
///
/// The lines of a large sample are not joined first, because that would take its memory twice.
fn write_file<'a>(path: &Path, lines: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    let new = path.with_extension("jsonl.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&new)
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            let mut lines = lines.into_iter();
            lines.try_for_each(|line| file.write_all(line.as_bytes()))?;
            file.flush()
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // A full disk gets its space back.
        let _ = fs::remove_file(&new);
    }
    written
}

/// A line of a golden set.
#[derive(Serialize)]
struct GoldenLine {
    input: GoldenInput,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<String>,
}

#[derive(Debug, Serialize)]
struct GoldenInput {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
}

fn line(captured: CapturedText, redaction: Redaction) -> String {
    let GoldenInput { text, text_pair } = captured.input;
    let line = GoldenLine {
        input: GoldenInput {
            text: redact(text, redaction),
            text_pair: text_pair.map(|text| redact(text, redaction)),
        },
        expect: captured.label,
    };
    // Strings are always valid JSON.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

fn redact(text: String, redaction: Redaction) -> String {
    match redaction {
        Redaction::Nothing => text,
        Redaction::DigitsAndEmails => text
            .split_inclusive(char::is_whitespace)
            .map(|word| {
                let bare = word.trim_end();
                if bare.contains('@') {
                    format!("[email]{}", &word[bare.len()..])
                } else {
                    word.replace(char::is_numeric, "0")
                }
            })
            .collect(),
    }
}
