//! A client's connection of HTTP/2 as Pingora reads it, with the deadline that its heads have: `h2` has none for a head that
//! comes frame by frame, or byte by byte.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora::protocols::{Peek, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{head::Frames, intake::passes_on};

/// A client's connection of HTTP/2.
#[derive(Debug)]
pub struct H2Intake {
    stream: Stream,
    frames: Frames,
    /// The head that is on its way, and when its time is up.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// Time within which a head must have arrived, from its first frame on.
    patience: Duration,
}

impl H2Intake {
    pub fn new(stream: Stream, patience: Duration) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            head: None,
            patience,
        }
    }

    /// Sets or stops the clock, after a read.
    fn watch(&mut self, context: &mut Context<'_>) {
        let coming = self.frames.head();
        if coming == self.head.as_ref().map(|(head, _)| *head) {
            return;
        }
        self.head = coming.map(|head| (head, Box::pin(sleep(self.patience))));
        // It wakes the one who reads; should it be up already, the next read says so.
        let _ = self.poll_late(context);
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.head {
            Some((_, late)) => late.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl AsyncRead for H2Intake {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = space.filled().len();
        if Pin::new(&mut this.stream)
            .poll_read(context, space)?
            .is_pending()
        {
            ready!(this.poll_late(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        this.frames
            .take(space.filled().get(before..).unwrap_or_default());
        this.watch(context);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Intake {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

passes_on!(H2Intake);

#[async_trait]
impl Peek for H2Intake {
    async fn try_peek(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// One that nobody follows, and one that ends a head, both of one byte.
    const OPEN: &[u8] = b"\0\0\x01\x01\0\0\0\0\x01x";
    const MORE: &[u8] = b"\0\0\x01\x09\0\0\0\0\x01x";
    const LAST: &[u8] = b"\0\0\x01\x09\x04\0\0\0\x01x";

    /// Reads until nothing more comes, and says how that ended and when.
    async fn read(server: DuplexStream) -> (io::Result<usize>, Duration) {
        let (mut intake, started) = (H2Intake::new(Box::new(server), PATIENCE), Instant::now());
        let mut bytes = Vec::new();
        let read = intake.read_to_end(&mut bytes).await;
        (read, started.elapsed())
    }

    // faults.md, P7: one deadline for all of a head.
    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_has_one_deadline() {
        let (mut client, server) = duplex(1 << 10);
        let sending = async move {
            client.write_all(&[PREFACE, OPEN].concat()).await?;
            for byte in MORE.iter().cycle().take(100) {
                sleep(Duration::from_secs(1)).await;
                client.write_all(&[*byte]).await?;
            }
            Ok(())
        };
        let (read, sent): (_, io::Result<()>) = tokio::join!(read(server), sending);
        assert_eq!(read.0.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(read.1.as_secs(), PATIENCE.as_secs());
        assert!(sent.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn heads_in_time_and_pauses_between_them_are_none_of_its_business() {
        let (mut client, server) = duplex(1 << 10);
        let sending = async move {
            client.write_all(PREFACE).await.unwrap();
            for _ in 0..3 {
                client.write_all(OPEN).await.unwrap();
                sleep(PATIENCE * 9 / 10).await;
                client.write_all(LAST).await.unwrap();
                sleep(PATIENCE * 5).await;
            }
        };
        let ((read, _), ()) = tokio::join!(read(server), sending);
        assert_eq!(read.unwrap(), PREFACE.len() + 3 * (OPEN.len() + LAST.len()));
    }
}
