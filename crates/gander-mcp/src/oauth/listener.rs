//! Receives one redirect of a browser on a loopback port of this machine.
//!
//! One use: the first request whose `state` is the expected one ends it. Everything else is answered with an error
//! and changes nothing, so that no page in the same browser can end somebody's authorization. Nothing of a request is
//! kept or logged but the redirect's own address.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use url::Url;

/// Where redirects go.
const PATH: &str = "/callback";
/// Largest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// How long a browser may take for its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// Connections at one time; browsers open some in advance.
const MAX_CONNECTIONS: usize = 16;

/// A port that waits for the redirect.
pub(super) struct Listener {
    socket: TcpListener,
    redirect_uri: String,
}

impl Listener {
    /// Any free port, or `port`.
    ///
    /// # Errors
    /// When the port is taken.
    pub(super) async fn bind(port: u16) -> io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let redirect_uri = format!("http://127.0.0.1:{}{PATH}", socket.local_addr()?.port());
        Ok(Self { socket, redirect_uri })
    }

    pub(super) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// The address of the redirect that carries `state`. Closes the port.
    pub(super) async fn redirect(self, state: &str) -> Url {
        let mut connections = JoinSet::new();
        let base = self.redirect_uri;
        loop {
            tokio::select! {
                accepted = self.socket.accept(), if connections.len() < MAX_CONNECTIONS => {
                    let Ok((stream, _)) = accepted else {
                        // Out of descriptors, most likely: others need a moment, too.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let (base, state) = (base.clone(), state.to_owned());
                    connections.spawn(async move {
                        timeout(REQUEST_PATIENCE, serve(stream, &base, &state)).await.ok().flatten()
                    });
                }
                Some(Ok(Some(url))) = connections.join_next() => return url,
                else => {}
            }
        }
    }
}

/// Answers one request; returns its address if it is the redirect.
async fn serve(mut stream: TcpStream, base: &str, state: &str) -> Option<Url> {
    let mut head = Vec::new();
    let mut buffer = [0_u8; 2048];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) if head.len() + count <= MAX_HEAD => head.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
    let url = redirect_of(&head, base, state);
    let (status, text) = match &url {
        Some(url) if url.query_pairs().any(|(name, _)| name == "error") => {
            ("200 OK", "The authorization was not granted. You can close this page.")
        }
        Some(_) => ("200 OK", "The authorization was received. You can close this page."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    // The redirect counts even when the browser does not wait for the page.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    url
}

fn redirect_of(head: &[u8], base: &str, state: &str) -> Option<Url> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut parts = line.split(' ');
    if parts.next() != Some("GET") {
        return None;
    }
    let target = parts.next()?;
    if target != PATH && !target.starts_with(&format!("{PATH}?")) {
        return None;
    }
    let url = Url::parse(base).ok()?.join(target).ok()?;
    has_state(&url, state).then_some(url)
}

/// Whether `url` has exactly one parameter `state`, with this value.
pub(super) fn has_state(url: &Url, state: &str) -> bool {
    let mut states = url.query_pairs().filter(|(name, _)| name == "state").map(|(_, value)| value);
    states.next().is_some_and(|value| value == state) && states.next().is_none()
}
