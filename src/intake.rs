//! A client's connection of HTTP/1 as Pingora reads it: one request at a time, each with a head that was checked.
//!
//! Pingora gives a head no time as a whole, rewrites targets before anybody can see them, and drops one of two framings that
//! contradict each other. So each head is read here, within one deadline, and checked; Pingora is handed those very bytes. What
//! follows reaches it no further than the request's own end, so that the next head comes here too.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use pingora::protocols::{Peek, Stream, http::ServerSession};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    config::Limits,
    error::{Error, Kind},
    head::{self, Extent},
};

/// All that a connection does beside reading and writing, for one that is held as `stream`.
macro_rules! passes_on {
    ($name:ty) => {
        const _: () = {
            use std::{sync::Arc, time::Duration};

            use async_trait::async_trait;
            use pingora::protocols::{
                ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Shutdown, SocketDigest,
                Ssl, TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
                tls::SslDigest,
            };

            #[async_trait]
            impl Shutdown for $name {
                async fn shutdown(&mut self) {
                    Shutdown::shutdown(&mut *self.stream).await;
                }
            }

            impl UniqueID for $name {
                fn id(&self) -> UniqueIDType {
                    self.stream.id()
                }
            }

            impl Ssl for $name {
                fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
                    self.stream.get_ssl_digest()
                }

                fn selected_alpn_proto(&self) -> Option<ALPN> {
                    self.stream.selected_alpn_proto()
                }
            }

            impl GetTimingDigest for $name {
                fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
                    self.stream.get_timing_digest()
                }

                fn get_read_pending_time(&self) -> Duration {
                    self.stream.get_read_pending_time()
                }

                fn get_write_pending_time(&self) -> Duration {
                    self.stream.get_write_pending_time()
                }
            }

            impl GetProxyDigest for $name {
                fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
                    self.stream.get_proxy_digest()
                }
            }

            impl GetSocketDigest for $name {
                fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
                    self.stream.get_socket_digest()
                }
            }
        };
    };
}
pub(crate) use passes_on;

/// A client's connection of HTTP/1.
#[derive(Debug)]
pub struct Intake {
    stream: Stream,
    /// What was read and nobody was given: the beginning of the next request.
    held: BytesMut,
    /// What of the present request is still to come. While there is something, `held` is empty.
    left: Extent,
    /// Whether what is written waits for what will be written behind it.
    holding: AtomicBool,
    /// What waits.
    waiting: BytesMut,
}

impl Intake {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
            left: Extent::Bytes(0),
            holding: AtomicBool::new(false),
            waiting: BytesMut::new(),
        }
    }

    /// That of a session, if it has one.
    pub fn of(session: &ServerSession) -> Option<&Self> {
        (**session.stream()?).as_any().downcast_ref()
    }

    /// Whether what is written waits, as far as there is room for it, until something is written that does not. Pingora sends a
    /// stream's head, each chunk and the last one by themselves, which costs a system call each and wakes the client as often.
    pub fn hold(&self, holding: bool) {
        self.holding.store(holding, Ordering::Relaxed);
    }

    /// Whether so many bytes more may wait.
    fn has_room(&self, more: usize) -> bool {
        self.holding.load(Ordering::Relaxed) && self.waiting.len() + more <= MOST_WAITING
    }

    /// Sends what waits.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.waiting);
            self.sent(ready!(written)?)?;
        }
        Poll::Ready(Ok(()))
    }

    /// So much of what waits has gone.
    fn sent(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.waiting.advance(written.min(self.waiting.len()));
        if self.waiting.is_empty() {
            // Idle connections hold nothing.
            self.waiting = BytesMut::new();
        }
        Ok(())
    }

    /// The next request's head, and what came of its body. `since`: when its first byte came, if it has; else it may take
    /// `idle`. `None`: the client has gone, or has nothing to say.
    pub async fn next(
        &mut self,
        limits: &Limits,
        since: Option<Instant>,
        idle: Duration,
    ) -> Result<Option<BytesMut>, Error> {
        if self.held.is_empty() && since.is_none() {
            match timeout(idle, self.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) | Err(_) => return Ok(None),
            }
        }
        let deadline = since.unwrap_or_else(Instant::now) + limits.header;
        let read = timeout_at(deadline, self.head(limits.head()));
        let Some(end) = read.await.map_err(|_| slow())?? else {
            return Ok(None);
        };
        let (head, behind) = self.held.split_at_checked(end).unwrap_or_default();
        let framing = head::check(head, limits.head()).map_err(head::Refusal::error)?;
        self.left = Extent::from(framing);
        let own = end.saturating_add(self.left.take(behind));
        Ok(Some(match own < self.held.len() {
            true => self.held.split_to(own),
            false => std::mem::take(&mut self.held),
        }))
    }

    /// Reads until the head is whole, and says how long it is.
    async fn head(&mut self, limits: head::Limits) -> Result<Option<usize>, Error> {
        let (mut seen, mut first) = (0, true);
        loop {
            // "a server […] SHOULD ignore at least one empty line (CRLF) received prior to the request-line." RFC 9112, 2.2.
            if first && self.held.starts_with(b"\r\n") {
                self.held.advance(2);
                (seen, first) = (0, false);
            }
            if let Some(end) = head::end(&self.held, seen) {
                return Ok(Some(end));
            }
            if self.held.len() > limits.bytes {
                return Err(head::TOO_LARGE.error());
            }
            seen = self.held.len();
            match self.fill().await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    }

    /// Reads once. What comes is copied into a buffer of its own size, as that is held until the request is over.
    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|context| {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut space = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut space))?;
            self.held.extend_from_slice(space.filled());
            Poll::Ready(Ok(space.filled().len()))
        })
        .await
    }

    /// Whether the request that was read last is over, so that another may follow.
    pub fn is_over(&self) -> bool {
        self.left.is_over()
    }

    /// Says why a head is refused, and closes. Closing on unread bytes would reset the connection, and the client would lose
    /// the very answer that explains it: they are read for a while, and thrown away.
    pub async fn refuse(&mut self, answer: &[u8]) {
        let telling = async {
            self.stream.write_all(answer).await?;
            self.stream.flush().await?;
            AsyncWriteExt::shutdown(&mut self.stream).await?;
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.held.clear();
                match self.fill().await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, telling).await;
    }

    /// Behind a request's end nothing is read but its client's leaving; what comes is the next request.
    fn poll_leaving(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Pending;
        }
        let mut space = [0; PROBE_BYTES];
        let mut probe = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut probe))?;
        match probe.filled() {
            [] => Poll::Ready(Ok(())),
            next => {
                self.held.extend_from_slice(next);
                Poll::Pending
            }
        }
    }
}

fn slow() -> Error {
    Error::new(
        Kind::RequestTimeout,
        "The request's head did not arrive in time.",
    )
}

impl AsyncRead for Intake {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_over() {
            return this.poll_leaving(context);
        }
        let before = space.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, space))?;
        let new = space.filled().get(before..).unwrap_or_default();
        let own = this.left.take(new);
        this.held
            .extend_from_slice(new.get(own..).unwrap_or_default());
        space.set_filled(before.saturating_add(own));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Intake {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// What waits goes in front, in the same write.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let size = slices.iter().map(|slice| slice.len()).sum();
        if this.has_room(size) {
            for slice in slices {
                this.waiting.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(size));
        }
        while !this.waiting.is_empty() {
            let ahead = this.waiting.len();
            let mut all = [IoSlice::new(&[]); MOST_SLICES];
            let sources = [IoSlice::new(&this.waiting)];
            let sources = sources.iter().chain(slices);
            for (slice, source) in all.iter_mut().zip(sources) {
                *slice = IoSlice::new(source);
            }
            let written = Pin::new(&mut this.stream).poll_write_vectored(context, &all);
            let written = ready!(written)?;
            this.sent(written)?;
            if let Some(own @ 1..) = written.checked_sub(ahead) {
                return Poll::Ready(Ok(own));
            }
        }
        match slices {
            [only] => Pin::new(&mut this.stream).poll_write(context, only),
            _ => Pin::new(&mut this.stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.has_room(0) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_waiting(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_waiting(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

passes_on!(Intake);

impl Peek for Intake {}

/// Of one read: most heads are shorter.
const READ_BYTES: usize = 4 << 10;
/// Of what waits: a head, and a chunk of some events.
const MOST_WAITING: usize = 8 << 10;
/// Of one write: what waits, and a chunk with what is before and behind it.
const MOST_SLICES: usize = 4;
/// Of a look for a client's leaving. What is more than a part of the next request's first line stays on the socket.
const PROBE_BYTES: usize = 64;
/// Bounds of reading what will not be used.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    fn pair() -> (DuplexStream, Intake) {
        let (client, server) = duplex(1 << 16);
        (client, Intake::new(Box::new(server)))
    }

    async fn next(intake: &mut Intake) -> String {
        let read = intake.next(&Limits::default(), None, LINGER).await;
        String::from_utf8(read.unwrap().unwrap().to_vec()).unwrap()
    }

    fn head(fields: &str) -> String {
        format!("POST /a HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n")
    }

    #[tokio::test]
    async fn nothing_of_the_next_request_is_read_with_the_one_before_it() {
        for (fields, body) in [
            ("content-length: 5", "hello"),
            ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let head = head(fields);
            let (mut client, mut intake) = pair();
            client.write_all(head.as_bytes()).await.unwrap();
            assert_eq!(next(&mut intake).await, head);
            let behind = [body, &head, body].concat();
            client.write_all(behind.as_bytes()).await.unwrap();
            let mut space = vec![0; 4096];
            let read = intake.read(&mut space).await.unwrap();
            assert_eq!(&space[..read], body.as_bytes());
            assert!(intake.is_over());
            assert!(intake.read(&mut space).now_or_never().is_none());
            assert_eq!(next(&mut intake).await, [&head, body].concat());
            assert!(intake.is_over());
        }
    }

    #[tokio::test]
    async fn a_client_is_seen_to_leave_and_its_next_request_is_no_leaving() {
        let get = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let (mut client, mut intake) = pair();
        client.write_all(get.as_bytes()).await.unwrap();
        next(&mut intake).await;
        let mut space = [0; 1];
        assert!(intake.read(&mut space).now_or_never().is_none());
        client.write_all(get.as_bytes()).await.unwrap();
        assert!(intake.read(&mut space).now_or_never().is_none());
        assert_eq!(next(&mut intake).await, get);
        drop(client);
        assert_eq!(intake.read(&mut space).await.unwrap(), 0);
        let read = intake.next(&Limits::default(), None, LINGER).await;
        assert!(read.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_waits_goes_out_in_front_of_what_does_not() {
        let (mut client, mut intake) = pair();
        let mut space = vec![0; 2 * MOST_WAITING];
        intake.hold(true);
        intake.write_all(b"head ").await.unwrap();
        intake.flush().await.unwrap();
        assert!(client.read(&mut space).now_or_never().is_none());
        intake.hold(false);
        intake.write_all(b"body").await.unwrap();
        intake.flush().await.unwrap();
        let read = client.read(&mut space).await.unwrap();
        assert_eq!(&space[..read], b"head body");
        // What has nothing behind it goes with the next flush.
        intake.hold(true);
        intake.write_all(b"end").await.unwrap();
        intake.hold(false);
        intake.flush().await.unwrap();
        let read = client.read(&mut space).await.unwrap();
        assert_eq!(&space[..read], b"end");
        assert_eq!(intake.waiting.capacity(), 0);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_comes_in_order_however_little_is_taken() {
        let (client, server) = duplex(7);
        let mut intake = Intake::new(Box::new(server));
        let sent: Vec<u8> = (0..MOST_WAITING + 100).map(|at| at as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            intake.hold(true);
            for piece in sent.chunks(1000) {
                intake.write_all(piece).await.unwrap();
                assert!(intake.waiting.len() <= MOST_WAITING);
            }
            intake.hold(false);
            let behind = [IoSlice::new(b"be"), IoSlice::new(b"hind")];
            let mut written = 0;
            while written < 6 {
                let rest = [IoSlice::new(&b"behind"[written..])];
                let slices = if written == 0 { &behind[..] } else { &rest[..] };
                written += intake.write_vectored(slices).await.unwrap();
            }
            intake.flush().await.unwrap();
        });
        let mut client = client;
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert_eq!(got, [&expected[..], b"behind"].concat());
    }
}
