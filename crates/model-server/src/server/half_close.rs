//! Tells clients that left from clients that only closed their sending side.
//!
//! Both send the same: FIN. The difference shows when the server sends something: the kernel of a client that left
//! answers with RST. So the server sends `100 Continue`, which a client may get at any time before the response
//! (RFC 9110, section 15.2).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time,
};

const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a response may take before the server probes a client that closed its sending side. Most responses are
/// faster, so that most clients never see a probe.
const PROBE_DELAY: Duration = Duration::from_millis(100);

/// A connection that hyper reads and writes, while the server watches whether its client left.
#[derive(Debug, Clone)]
pub(crate) struct WatchedStream(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    /// Whether hyper has bytes to send. A probe between them would garble a response.
    is_sending: AtomicBool,
}

impl WatchedStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Watched {
            stream,
            is_sending: AtomicBool::new(false),
        }))
    }

    /// Resolves when the client has left. Without `may_probe` it only notices a client whose kernel sends RST. A client
    /// that leaves after the probe is not noticed.
    pub(crate) async fn client_left(&self, may_probe: bool) {
        let Watched { stream, is_sending } = &*self.0;
        // Resolves on FIN and RST. Unlike `READABLE`, it does not resolve while a pipelined request waits to be read.
        if stream.ready(Interest::PRIORITY).await.is_err() {
            return;
        }
        let mut is_probed = !may_probe;
        while !is_probed {
            time::sleep(PROBE_DELAY).await;
            if is_sending.load(Ordering::Relaxed) {
                continue;
            }
            match stream.try_write(PROBE) {
                Ok(length) if length == PROBE.len() => is_probed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Half a probe cannot be taken back.
                Ok(_) | Err(_) => return,
            }
        }
        let _ = stream.ready(Interest::ERROR).await;
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        let capacity = buffer.remaining();
        loop {
            ready!(stream.poll_read_ready(context))?;
            let mut length = 0;
            let read = stream.try_io(Interest::READABLE, || {
                length = stream.try_read_buf(buffer)?;
                // Nothing is left to read, so the next read need not ask the kernel. tokio forgets that the stream was
                // readable if this returns `WouldBlock`.
                if 0 < length && length < capacity {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if length > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Watched { stream, is_sending } = &*self.0;
        is_sending.store(true, Ordering::Relaxed);
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes after the last of its bytes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.is_sending.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.0.stream, Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn read_that_leaves_room_needs_no_second_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut server = WatchedStream::new(listener.accept().await.unwrap().0);
        let mut received = [0; 8];
        for request in [&b"first"[..], b"second"] {
            client.write_all(request).await.unwrap();
            let length = server.read(&mut received).await.unwrap();
            assert_eq!(&received[..length], request);
            let readable = server.0.stream.ready(Interest::READABLE).now_or_never();
            assert!(readable.is_none(), "tokio would ask the kernel again");
        }
        client
            .write_all(b"as long as the buffer and longer")
            .await
            .unwrap();
        assert_eq!(server.read(&mut received).await.unwrap(), received.len());
        let readable = server.0.stream.ready(Interest::READABLE).now_or_never();
        assert!(readable.is_some(), "the rest waits to be read");
    }

    #[tokio::test]
    async fn probe_waits_until_the_response_before_it_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut server = WatchedStream::new(listener.accept().await.unwrap().0);
        let watched = server.clone();
        let mut left = pin!(watched.client_left(true));

        server.write_all(b"half a response").await.unwrap();
        client.shutdown().await.unwrap();
        let early = time::timeout(PROBE_DELAY * 3, &mut left).await;
        assert!(early.is_err(), "the client is still there");
        server.write_all(b", and the rest").await.unwrap();
        server.flush().await.unwrap();
        let expected = [b"half a response, and the rest", PROBE].concat();
        let mut received = vec![0; expected.len()];
        tokio::select! {
            read = client.read_exact(&mut received) => assert_eq!(read.unwrap(), expected.len()),
            () = &mut left => panic!("the client is still there"),
        }
        assert_eq!(received, expected);
    }
}
