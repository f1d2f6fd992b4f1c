//! Signing in at a provider in a browser, for a key of one's own: PKCE (RFC 7636), and the vendor's exchange of the code for
//! a key, as OpenRouter documents it. Which providers offer that stands in their files.
//!
//! The browser comes back once, to a port of this machine at a path that nobody can guess; whatever else asks there gets
//! nothing. The code and its verifier live only here and are in no message.

use std::{io, net::Ipv4Addr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{ModelError, ModelErrorClass, Redactor, http_client};

/// Largest head of a browser's request.
const MAX_HEAD: usize = 16 * 1024;
/// How long a browser may take for its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// Connections at one time; browsers open some in advance.
const MAX_CONNECTIONS: usize = 16;
/// How long the exchange may take.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Largest answer of the exchange, and the part of it that an error quotes.
const MAX_ANSWER: usize = 64 * 1024;
const MAX_QUOTE: usize = 300;
const LONGEST_KEY: usize = 4096;

/// Where to sign in. Addresses may hold `${NAME}` of the file's `env_vars`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInMethod {
    /// The page for the browser.
    pub authorize_url: String,
    /// Exchanges the code that the page gives for a key.
    pub exchange_url: String,
}

/// A sign-in that waits for the browser. Dropped, it is given up and its port is closed.
#[derive(Debug)]
pub struct SignIn {
    socket: TcpListener,
    path: String,
    url: String,
    verifier: SecretString,
    exchange_url: reqwest::Url,
}

fn failed(class: ModelErrorClass, message: impl Into<String>) -> ModelError {
    ModelError::new(class, message)
}

/// 256 random bits as text.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// An address that a code may be sent to.
fn trusted(field: &str, text: &str) -> Result<reqwest::Url, ModelError> {
    let url = reqwest::Url::parse(text)
        .map_err(|error| failed(ModelErrorClass::InvalidRequest, format!("sign_in.{field}: {error}")))?;
    if url.scheme() == "https" || (url.scheme() == "http" && http_client::is_loopback(&url)) {
        return Ok(url);
    }
    Err(failed(ModelErrorClass::InvalidRequest, format!("sign_in.{field} must be an https address")))
}

impl SignIn {
    /// Opens the port for the browser's return.
    ///
    /// # Errors
    /// The addresses are not usable, or no port is free.
    pub async fn begin(method: &SignInMethod) -> Result<Self, ModelError> {
        let mut page = trusted("authorize_url", &method.authorize_url)?;
        let exchange_url = trusted("exchange_url", &method.exchange_url)?;
        let no_port =
            |error: io::Error| failed(ModelErrorClass::Network, format!("no port for the browser: {error}"));
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(no_port)?;
        let port = socket.local_addr().map_err(no_port)?.port();
        let path = format!("/{}", random());
        let verifier = random();
        page.query_pairs_mut()
            .append_pair("callback_url", &format!("http://localhost:{port}{path}"))
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())))
            .append_pair("code_challenge_method", "S256");
        Ok(Self { socket, path, url: page.into(), verifier: verifier.into(), exchange_url })
    }

    /// The page to open in a browser on this machine.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the browser, without a deadline of its own, and exchanges its code for the key.
    ///
    /// # Errors
    /// The person refused, or the provider did.
    pub async fn key(self) -> Result<SecretString, ModelError> {
        let Self { socket, path, verifier, exchange_url, .. } = self;
        let code = returned(socket, path).await.map_err(|reason| {
            failed(ModelErrorClass::Auth, format!("the sign-in was not granted: {reason}"))
        })?;
        match timeout(EXCHANGE, exchange(exchange_url, &code, &verifier)).await {
            Ok(result) => result,
            Err(_) => {
                Err(failed(ModelErrorClass::Network, "the provider did not answer the sign-in in time"))
            }
        }
    }
}

/// The code that the browser brings, or the reason why there is none. Closes the port.
async fn returned(socket: TcpListener, path: String) -> Result<SecretString, String> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors, most likely: others need a moment, too.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let path = path.clone();
                connections.spawn(async move { timeout(REQUEST_PATIENCE, serve(stream, &path)).await.ok().flatten() });
            }
            Some(done) = connections.join_next() => {
                if let Ok(Some(outcome)) = done {
                    return outcome;
                }
            }
            else => {}
        }
    }
}

/// Answers one request; its outcome if it is the expected one.
async fn serve(mut stream: TcpStream, path: &str) -> Option<Result<SecretString, String>> {
    let mut head = Vec::new();
    let mut buffer = [0_u8; 2048];
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) if head.len() + count <= MAX_HEAD => head.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
    let outcome = outcome_of(&head, path);
    let (status, text) = match &outcome {
        Some(Ok(_)) => ("200 OK", "You are signed in. You can close this page."),
        Some(Err(_)) => ("200 OK", "The sign-in was not granted. You can close this page."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    // The return counts even when the browser does not wait for the page.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    outcome
}

fn outcome_of(head: &[u8], path: &str) -> Option<Result<SecretString, String>> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let url = reqwest::Url::parse("http://localhost").ok()?.join(target).ok()?;
    if method != "GET" || url.path() != path || !target.starts_with(path) {
        return None;
    }
    let value = |wanted: &str| {
        url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    match value("code").filter(|code| !code.is_empty()) {
        Some(code) => Some(Ok(code.into())),
        // A page without either is none of the provider's.
        None => value("error")
            .map(|error| Err(error.chars().filter(|c| !c.is_control()).take(MAX_QUOTE).collect())),
    }
}

async fn exchange(
    url: reqwest::Url,
    code: &SecretString,
    verifier: &SecretString,
) -> Result<SecretString, ModelError> {
    let network = |error: reqwest::Error| failed(ModelErrorClass::Network, error.without_url().to_string());
    let loopback = http_client::is_loopback(&url);
    let client = http_client::build(&http::HeaderMap::new(), REQUEST_PATIENCE, EXCHANGE, loopback)?;
    let body = json!({
        "code": code.expose_secret(),
        "code_verifier": verifier.expose_secret(),
        "code_challenge_method": "S256",
    });
    let request = client.post(url).header("content-type", "application/json").body(body.to_string());
    let mut response = request.send().await.map_err(network)?;
    let status = response.status();
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if answer.len() + chunk.len() > MAX_ANSWER {
            return Err(failed(ModelErrorClass::Server, "the answer to the sign-in is too long"));
        }
        answer.extend_from_slice(&chunk);
    }
    let document: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let key = document.get("key").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    let usable = !key.is_empty() && key.len() <= LONGEST_KEY && !key.chars().any(char::is_control);
    if status.is_success() && usable {
        return Ok(key.into());
    }
    let redactor = Redactor::new(
        [code, verifier].map(|secret| secret.expose_secret().to_owned()).into_iter().chain([key.to_owned()]),
    );
    let said = document
        .pointer("/error/message")
        .or_else(|| document.get("error"))
        .or_else(|| document.get("message"));
    let said: String = redactor
        .apply(said.and_then(Value::as_str).unwrap_or("no key in its answer"))
        .chars()
        .take(MAX_QUOTE)
        .collect();
    let class = if status.is_server_error() { ModelErrorClass::Server } else { ModelErrorClass::Auth };
    let mut error = failed(class, format!("the provider gave no key ({}): {said}", status.as_u16()));
    error.status = Some(status.as_u16());
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One exchange at a server of the test; gives what it was asked.
    async fn server(status: &'static str, answer: Value) -> (String, tokio::task::JoinHandle<Value>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", socket.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            let body = loop {
                let count = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&seen).into_owned();
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
                if let Ok(body) = serde_json::from_str::<Value>(&body) {
                    break body;
                }
            };
            let text = answer.to_string();
            let reply = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
            body
        });
        (url, asked)
    }

    /// What a browser does with the page's address after the person agreed.
    async fn visit(callback: &str, query: &str) -> String {
        let url = reqwest::Url::parse(callback).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
        let request = format!("GET {}{query} HTTP/1.1\r\nhost: localhost\r\n\r\n", url.path());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn parameter(url: &str, wanted: &str) -> String {
        let url = reqwest::Url::parse(url).unwrap();
        url.query_pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned()
    }

    async fn begun(exchange_url: String) -> SignIn {
        let method =
            SignInMethod { authorize_url: "https://vendor.example/auth?x=1".to_owned(), exchange_url };
        SignIn::begin(&method).await.unwrap()
    }

    #[tokio::test]
    async fn the_code_of_the_browser_becomes_a_key() {
        let (url, asked) = server("200 OK", json!({"key": "sk-or-v1-0123456789", "user_id": "u"})).await;
        let sign_in = begun(url).await;
        let page = sign_in.url().to_owned();
        assert!(
            page.starts_with("https://vendor.example/auth?x=1&callback_url=http%3A%2F%2Flocalhost%3A"),
            "{page}"
        );
        let callback = parameter(&page, "callback_url");
        let key = tokio::spawn(sign_in.key());
        // Others at the same port learn and change nothing.
        for other in
            [callback.replace("/", "//"), format!("{callback}x"), callback[..callback.len() - 43].to_owned()]
        {
            let Ok(_) = reqwest::Url::parse(&other) else { continue };
            let port = reqwest::Url::parse(&callback).unwrap().port().unwrap();
            let path = reqwest::Url::parse(&other).unwrap().path().to_owned();
            let answer = visit(&format!("http://localhost:{port}{path}"), "?code=forged").await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{other}: {answer}");
        }
        assert!(visit(&callback, "").await.starts_with("HTTP/1.1 404"), "neither code nor error");
        let answer = visit(&callback, "?code=the-code-01234").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("signed in"), "{answer}");
        assert_eq!(key.await.unwrap().unwrap().expose_secret(), "sk-or-v1-0123456789");
        let asked = asked.await.unwrap();
        assert_eq!(
            (asked["code"].as_str(), asked["code_challenge_method"].as_str()),
            (Some("the-code-01234"), Some("S256"))
        );
        let verifier = asked["code_verifier"].as_str().unwrap();
        assert!((43..=128).contains(&verifier.len()));
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        assert_eq!(parameter(&page, "code_challenge"), challenge);
    }

    #[tokio::test]
    async fn refusals_are_told_without_the_code() {
        let sign_in = begun("https://vendor.example/keys".to_owned()).await;
        let callback = parameter(sign_in.url(), "callback_url");
        let key = tokio::spawn(sign_in.key());
        assert!(visit(&callback, "?error=access_denied").await.contains("not granted"));
        let error = key.await.unwrap().unwrap_err();
        assert_eq!(
            (error.class, error.message.contains("access_denied")),
            (ModelErrorClass::Auth, true),
            "{error}"
        );

        for (status, answer, class) in [
            (
                "403 Forbidden",
                json!({"error": {"message": "Invalid code the-code-01234", "code": 403}}),
                ModelErrorClass::Auth,
            ),
            ("200 OK", json!({"key": ""}), ModelErrorClass::Auth),
            ("200 OK", json!(["no object"]), ModelErrorClass::Auth),
            ("503 Busy", json!({"message": "later"}), ModelErrorClass::Server),
        ] {
            let (url, _asked) = server(status, answer).await;
            let sign_in = begun(url).await;
            let callback = parameter(sign_in.url(), "callback_url");
            let key = tokio::spawn(sign_in.key());
            visit(&callback, "?code=the-code-01234").await;
            let error = key.await.unwrap().unwrap_err();
            assert_eq!(error.class, class, "{status}: {error}");
            assert!(!error.message.contains("the-code"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_code_goes_to_https_or_this_machine_only() {
        for (page, keys) in [
            ("http://vendor.example/auth", "https://vendor.example/keys"),
            ("https://vendor.example/auth", "http://vendor.example/keys"),
            ("no address", "https://vendor.example/keys"),
        ] {
            let method = SignInMethod { authorize_url: page.to_owned(), exchange_url: keys.to_owned() };
            let error = SignIn::begin(&method).await.unwrap_err();
            assert_eq!(error.class, ModelErrorClass::InvalidRequest, "{error}");
        }
    }
}
