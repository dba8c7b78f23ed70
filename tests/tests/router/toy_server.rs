//! A server that is unlike ours: it does what each request asks for, and keeps connections open.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;

/// A request, as a toy server received it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// The first line and the headers.
    pub(super) head: String,
    /// The size of the body.
    pub(super) body: usize,
}

impl Received {
    fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Returns a header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        Some(values.next()?.1)
    }
}

/// What the threads of one server share.
#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    /// The open connections.
    connections: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
    /// Whether answers without a length may end.
    may_end: Mutex<bool>,
    ends: Condvar,
}

/// A server of one color. It stops when it is dropped.
pub(super) struct ToyServer {
    port: u16,
    shared: Arc<Shared>,
    /// Accepts connections.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ToyServer {
    /// Serves on this port.
    ///
    /// | Path | Answer |
    /// |---|---|
    /// | `/poison` | none: the connection is closed |
    /// | `/500` | status 500 |
    /// | `/large-head` | a head of 15 KB |
    /// | `/until-close` | a beginning, and after [`Self::end_answers`] the end, without a length |
    /// | any other | status 200 |
    pub(super) fn start(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client that disconnects ends its thread by an error.
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self {
            port,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Returns the requests for a path.
    pub(super) fn received(&self, path: &str) -> Vec<Received> {
        let received = lock(&self.shared.received);
        let asked = received.iter().filter(|request| request.path() == path);
        asked.cloned().collect()
    }

    /// Ends the answers to `/until-close`.
    pub(super) fn end_answers(&self) {
        *lock(&self.shared.may_end) = true;
        self.shared.ends.notify_all();
    }

    /// Closes every connection, and accepts no other one.
    pub(super) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.end_answers();
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        // A connection wakes the thread. It closes the port when it ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = thread.join();
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for ToyServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    /// Longer than a test waits for the beginning.
    const LONGEST: Duration = Duration::from_secs(30);

    lock(&shared.connections).push(stream.try_clone()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut reader)? {
        let path = request.path().to_owned();
        lock(&shared.received).push(request);
        let (status, header) = match path.as_str() {
            "/poison" => break,
            "/until-close" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbeginning")?;
                let waiting = lock(&shared.may_end);
                let waited = shared
                    .ends
                    .wait_timeout_while(waiting, LONGEST, |may| !*may);
                drop(waited);
                stream.write_all(b" and end")?;
                break;
            }
            "/500" => (500, String::new()),
            "/large-head" => (200, format!("x-large: {}\r\n", "x".repeat(15_000))),
            _ => (200, String::new()),
        };
        let head = format!("HTTP/1.1 {status} STATUS\r\n{header}Content-Length: 2\r\n\r\nok");
        stream.write_all(head.as_bytes())?;
    }
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Reads one request; `None` if the connection ends before it.
fn read(reader: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Received>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let mut request = Received { head, body: 0 };
    if let Some(length) = request.header("content-length") {
        let length: u64 = length.parse().context("invalid length")?;
        let read = std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
        request.body = usize::try_from(read)?;
    }
    Ok(Some(request))
}
