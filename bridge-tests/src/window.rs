//! `gander agent` as Goose Desktop starts it, one process per window, and HTTP calls to it.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use crate::{child, soon, within};

/// The secret that windows of the tests have.
pub const SECRET: &str = "a-secret-of-this-window";
/// What Desktop waits for the end of a window's process.
const WINDOW: Duration = Duration::from_secs(5);

/// Calls to a REST surface with its secret.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    base: String,
    secret: String,
}

/// One window's process.
pub struct Window {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    http: Http,
    /// Of its certificate, as it says.
    pub fingerprint: String,
}

/// An answer: status, and its body, JSON or (as a string) text.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its body; null when empty.
    pub body: Value,
}

/// A port as Desktop chooses it: free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Window {
    /// Starts `gander agent`. Somebody else may take the port in between; then another one is tried.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn open(root: &Path) -> Self {
        for _ in 0..5 {
            if let Some(window) = Self::try_open(root).await {
                return window;
            }
        }
        panic!("no port stayed free");
    }

    async fn try_open(root: &Path) -> Option<Self> {
        let port = free_port();
        let mut command = child::gander(root, &["agent"]);
        command
            .env("GOOSE_PORT", port.to_string())
            .env("GOOSE_SERVER__SECRET_KEY", SECRET)
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("gander starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        let line = soon("the fingerprint", stdout.next_line()).await.expect("stdout is text");
        let Some(line) = line else {
            let output = child.wait_with_output().await.expect("an end");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("in use"), "gander agent did not start: {said}");
            return None;
        };
        let fingerprint = line.strip_prefix("GOOSED_CERT_FINGERPRINT=").expect("the line").to_owned();
        let http = Http::new(&format!("http://127.0.0.1:{port}"), SECRET);
        Some(Self { child, stdout, http, fingerprint })
    }

    /// SIGTERM, as Desktop closes a window; gives what it wrote after its line.
    ///
    /// # Panics
    /// When it does not end as soon as Desktop expects.
    pub async fn close(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().expect("a process").cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("a signal");
        let rest = async {
            let mut rest = String::new();
            // Its end shows that nobody else holds the pipe: Desktop waits for that.
            while let Ok(Some(line)) = self.stdout.next_line().await {
                rest.push_str(&line);
            }
            self.child.wait().await.expect("an end");
            rest
        };
        within(WINDOW, "the end of the window's process", rest).await
    }
}

impl Http {
    /// Calls to `base` (without a slash at its end) with this secret.
    #[must_use]
    pub fn new(base: &str, secret: &str) -> Self {
        Self { client: http_client(), base: base.to_owned(), secret: secret.to_owned() }
    }

    /// Where it listens, in plain text.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request with the secret.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).header("X-Secret-Key", &self.secret)
    }

    /// The status of a GET with this secret, 0 when there was no answer.
    pub async fn status(&self, path: &str, secret: Option<&str>) -> u16 {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(secret) = secret {
            request = request.header("X-Secret-Key", secret);
        }
        soon("an answer", request.send()).await.map_or(0, |response| response.status().as_u16())
    }

    /// GET with the secret.
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// POST of JSON with the secret.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(reqwest::Method::POST, path);
        answer(request.header("content-type", "application/json").body(body.to_string())).await
    }

    /// The same where only success is expected; gives the body.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert!((200..300).contains(&answer.status), "POST {path}: {answer:?}");
        answer.body
    }

    /// POST of JSON whose answer is a stream; gives all of it.
    ///
    /// # Panics
    /// When it fails or does not end.
    pub async fn text(&self, path: &str, body: &Value) -> String {
        let request = self.request(reqwest::Method::POST, path).header("content-type", "application/json");
        let response = soon("an answer", request.body(body.to_string()).send()).await.expect("an answer");
        assert!(response.status().is_success(), "POST {path}: {}", response.status());
        soon("the end of the stream", response.text()).await.expect("a stream")
    }
}

impl std::ops::Deref for Window {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = soon("an answer", request.send()).await.expect("an answer");
    let status = response.status().as_u16();
    let text = soon("the body", response.text()).await.expect("a body");
    let body = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    };
    Answer { status, body }
}

/// A client without proxies. TLS is never used by it, yet it wants a provider.
///
/// # Panics
/// Never for these settings.
#[must_use]
pub fn http_client() -> reqwest::Client {
    let crypto = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().expect("a client")
}
