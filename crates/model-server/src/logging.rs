//! The log on standard error, written by its own thread.
//!
//! A call only copies its line into a buffer, so a stopped terminal or a slow collector delays no request. When
//! the buffer is full, lines are dropped and counted, and the log says so once it is read again.

use std::{
    io::{self, IsTerminal as _, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::warn;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::log::LogFormat;

/// Size of the buffer, about ten thousand lines.
const MAX_BUFFERED_BYTES: usize = 4 * 1024 * 1024;

/// The writer does not wait for [`FLUSH_DELAY`] once it has this much.
const FLUSH_BYTES: usize = 64 * 1024;

/// How long a line waits for others to be written with it.
const FLUSH_DELAY: Duration = Duration::from_millis(10);

/// How long the end of the process waits for a reader that does not read.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of lines that were dropped because standard error was not read.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts the log of this process. `RUST_LOG` sets its level; the default is `info`. Call it once; a second
/// call changes nothing.
///
/// Keep the returned guard until the end of `main`: dropping it writes the buffered lines.
pub fn start(format: LogFormat) -> LogGuard {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let buffer = LogBuffer::default();
    let guard = LogGuard(buffer.clone());
    let writer = {
        let buffer = buffer.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || buffer.write_all_to(&mut io::stderr()))
    };
    if writer.is_err() {
        // Without the thread, each line is written by its caller.
        buffer.lock().direct = true;
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(buffer);
    let _ = match format {
        LogFormat::Plain => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    guard
}

/// Keeps the log running. When it is dropped, it writes the buffered lines, for 1 s at most.
#[derive(Debug)]
#[must_use = "the log ends when this is dropped"]
pub struct LogGuard(LogBuffer);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.close(SHUTDOWN_TIMEOUT);
    }
}

/// The buffer between the callers and the writer.
#[derive(Debug, Clone, Default)]
struct LogBuffer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<BufferedLines>,
    /// Signals the writer: lines are there, enough of them, or the buffer is closed.
    filled: Condvar,
    /// Signals that the writer has ended.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct BufferedLines {
    lines: Vec<u8>,
    /// Lines dropped since the last accepted one.
    dropped: u64,
    closed: bool,
    ended: bool,
    direct: bool,
}

impl LogBuffer {
    fn lock(&self) -> MutexGuard<'_, BufferedLines> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line if the buffer has space for it.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.direct || waiting.ended {
            drop(waiting);
            let _ = io::stderr().write_all(line);
            return;
        }
        let before = waiting.lines.len();
        let after = before + line.len();
        if after > MAX_BUFFERED_BYTES {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // Not for every line, because waking a thread costs more than a line.
        if before == 0 || (before < FLUSH_BYTES && after >= FLUSH_BYTES) {
            self.0.filled.notify_one();
        }
    }

    /// Writes lines until the buffer is closed and empty.
    fn write_all_to(&self, out: &mut impl Write) {
        let mut lines = Vec::new();
        loop {
            let dropped = {
                let filled = &self.0.filled;
                let nothing = |it: &mut BufferedLines| it.lines.is_empty() && !it.closed;
                let few = |it: &mut BufferedLines| it.lines.len() < FLUSH_BYTES && !it.closed;
                let waiting = filled
                    .wait_while(self.lock(), nothing)
                    .unwrap_or_else(PoisonError::into_inner);
                let (mut waiting, _) = filled
                    .wait_timeout_while(waiting, FLUSH_DELAY, few)
                    .unwrap_or_else(PoisonError::into_inner);
                if waiting.lines.is_empty() && waiting.closed {
                    waiting.ended = true;
                    self.0.emptied.notify_all();
                    return;
                }
                mem::swap(&mut lines, &mut waiting.lines);
                mem::take(&mut waiting.dropped)
            };
            // An error means that standard error is closed, so it cannot be reported.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            if dropped > 0 {
                warn!(
                    dropped,
                    "log lines were dropped here, because standard error was not read"
                );
            }
        }
    }

    /// Waits until all lines are written, `bound` at most.
    fn close(&self, bound: Duration) {
        let mut waiting = self.lock();
        if waiting.direct {
            return;
        }
        waiting.closed = true;
        self.0.filled.notify_one();
        let ended = self
            .0
            .emptied
            .wait_timeout_while(waiting, bound, |it| !it.ended);
        drop(ended);
    }
}

impl<'a> MakeWriter<'a> for LogBuffer {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// Writes to the buffer. The subscriber writes each line in one call.
struct LineWriter<'a>(&'a LogBuffer);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    #[test]
    fn shutdown_writes_all_lines_in_order() {
        let buffer = LogBuffer::default();
        let mut written = Vec::new();
        let expected: String = "first line\nsecond line\n".repeat(5_000);
        thread::scope(|scope| {
            let writer = scope.spawn(|| buffer.write_all_to(&mut written));
            for line in expected.split_inclusive('\n') {
                buffer.push(line.as_bytes());
            }
            buffer.close(SHUTDOWN_TIMEOUT);
            writer.join().unwrap();
        });
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    /// A writer that signals each call, and blocks until it is told to go on.
    struct Stalled {
        asked: Sender<()>,
        told: Receiver<()>,
        written: usize,
    }

    impl Write for Stalled {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(());
            let _ = self.told.recv();
            self.written += lines.len();
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn stalled_reader_blocks_no_caller_and_drops_only_overflow() {
        let buffer = LogBuffer::default();
        let (asked, is_asked) = channel();
        let (tell, told) = channel();
        let mut out = Stalled {
            asked,
            told,
            written: 0,
        };
        let line = [b'a'; 1024];
        let reservation = MAX_BUFFERED_BYTES / line.len();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                buffer.write_all_to(&mut out);
                out.written
            });
            buffer.push(&line);
            is_asked.recv().unwrap();
            for _ in 0..reservation + 7 {
                buffer.push(&line);
            }
            assert_eq!(buffer.lock().dropped, 7);
            // Closing does not wait longer than its bound.
            buffer.close(Duration::ZERO);
            drop(tell);
            assert_eq!(writer.join().unwrap(), (reservation + 1) * line.len());
        });
    }
}
