//! The first bytes of a connection: TLS, HTTP/2 or HTTP/1.1, decided before any of their code runs.
//!
//! A peer that sends nothing, or stops in the middle of the HTTP/2 preface, is caught here by the caller's deadline;
//! hyper would wait for it for ever, and so would a drain.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The record type of a TLS handshake; no method of HTTP begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Tls,
    Http1,
    Http2,
}

/// Reads until it is clear what the peer speaks. The bytes are given back by the returned stream.
pub(crate) async fn sniff<IO: AsyncRead + Unpin>(mut io: IO) -> io::Result<(Speech, Prefixed<IO>)> {
    let mut buffer = [0; PREFACE.len()];
    let mut filled = 0;
    loop {
        let count = match buffer.get_mut(filled..) {
            Some(rest) => io.read(rest).await?,
            None => 0,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        let seen = buffer.get(..filled).unwrap_or_default();
        let speech = if seen.first() == Some(&TLS_HANDSHAKE) {
            Speech::Tls
        } else if seen == PREFACE {
            Speech::Http2
        } else if PREFACE.starts_with(seen) {
            continue;
        } else {
            Speech::Http1
        };
        return Ok((speech, Prefixed { prefix: buffer, filled, taken: 0, inner: io }));
    }
}

/// A stream that gives its first bytes a second time.
#[derive(Debug)]
pub(crate) struct Prefixed<IO> {
    prefix: [u8; PREFACE.len()],
    filled: usize,
    taken: usize,
    inner: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.taken < this.filled {
            let end = this.filled.min(this.taken + out.remaining());
            out.put_slice(this.prefix.get(this.taken..end).unwrap_or_default());
            this.taken = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, out)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn run(bytes: &'static [u8]) -> io::Result<(Speech, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(3);
        let feed = tokio::spawn(async move {
            client.write_all(bytes).await.ok();
            client.shutdown().await.ok();
        });
        let (speech, mut io) = sniff(server).await?;
        let mut all = Vec::new();
        io.read_to_end(&mut all).await?;
        feed.await.ok();
        Ok((speech, all))
    }

    #[tokio::test]
    async fn the_first_bytes_decide_and_are_not_lost() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], Speech::Http1),
            (b"POST", Speech::Http1),
            (b"PRX", Speech::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes", Speech::Http2),
            (b"\x16\x03\x01hello", Speech::Tls),
        ] {
            let (speech, all) = run(bytes).await.unwrap();
            assert_eq!((speech, all.as_slice()), (expected, bytes));
        }
        assert!(run(b"").await.is_err());
        assert!(run(b"PRI * HTTP").await.is_err());
    }
}
