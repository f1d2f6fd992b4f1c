//! Authorization of HTTP servers, against a server that is its own authorization server.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use futures::future::BoxFuture;
use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::{
    AuthorizeAnswer, AuthorizeRequest, ElicitAnswer, ElicitRequest, HostEvent, Root, SampleRequest,
    SampleResult, SessionClient,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::common::{PATIENCE, Session, config, request};

#[derive(Default)]
struct Desk {
    base: String,
    /// Request heads and bodies, in order.
    seen: Vec<(String, String)>,
    /// Access tokens that are good.
    valid: Vec<String>,
    refresh: String,
    issued: u32,
    /// Instead of the real page.
    page: Option<String>,
    /// Instead of the real authorization server.
    server: Option<String>,
    /// The first session is forgotten.
    lost: bool,
    /// Tool calls need a token with the scope `write`.
    needs_scope: bool,
    scopes: HashMap<String, String>,
    pending_scope: String,
}

struct Lab {
    desk: Arc<Mutex<Desk>>,
    base: String,
    task: AbortHandle,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lab {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let desk = Arc::new(Mutex::new(Desk { base: base.clone(), ..Desk::default() }));
        let shared = Arc::clone(&desk);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        Self { desk, base, task: task.abort_handle() }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap()
    }

    fn config(&self) -> ExtensionConfig {
        let headers = BTreeMap::from([("x-team".to_owned(), "blue".to_owned())]);
        let uri = format!("{}/mcp", self.base);
        config("web", ExtensionTransport::StreamableHttp { uri, headers, unix_socket: None })
    }

    fn count(&self, what: &str) -> usize {
        self.desk().seen.iter().filter(|(head, _)| head.starts_with(what)).count()
    }
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Mutex<Desk>>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let (head, body) = loop {
        let Ok(count @ 1..) = socket.read(&mut buffer).await else { return };
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head, body.to_owned());
        }
    };
    let (status, header, answer) = {
        let mut desk = desk.lock().unwrap();
        desk.seen.push((head.clone(), body.clone()));
        desk.answer(&head, &body)
    };
    let text = format!(
        "HTTP/1.1 {status}\r\n{header}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _ = socket.write_all(text.as_bytes()).await;
}

type Answer = (&'static str, String, String);

fn ok(value: &Value) -> Answer {
    ("200 OK", String::new(), value.to_string())
}

impl Desk {
    fn answer(&mut self, head: &str, body: &str) -> Answer {
        let base = self.base.clone();
        let mut line = head.split(' ');
        let (method, path) = (line.next().unwrap(), line.next().unwrap());
        match (method, path) {
            ("POST" | "GET" | "DELETE", "/mcp") => self.mcp(method, head, body),
            ("GET", "/.well-known/oauth-protected-resource/mcp") => ok(&json!({
                "resource": format!("{base}/mcp"),
                "authorization_servers": [self.server.clone().unwrap_or(base)], "scopes_supported": ["read"]})),
            ("GET", "/.well-known/oauth-authorization-server") => ok(&json!({
                "issuer": base, "token_endpoint": format!("{base}/token"),
                "authorization_endpoint": self.page.clone().unwrap_or(format!("{base}/authorize")),
                "registration_endpoint": format!("{base}/register"),
                "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]})),
            ("POST", "/register") => {
                let asked: Value = serde_json::from_str(body).unwrap();
                ok(&json!({"client_id": "c1", "client_name": "x", "redirect_uris": asked["redirect_uris"]}))
            }
            ("POST", "/token") => self.token(body),
            _ => ("404 Not Found", String::new(), "{}".to_owned()),
        }
    }

    fn token(&mut self, body: &str) -> Answer {
        assert!(body.contains("resource="), "{body}");
        let good = if body.contains("grant_type=refresh_token") {
            !self.refresh.is_empty() && body.contains(&format!("refresh_token={}", self.refresh))
        } else {
            body.contains("code=code-1") && body.contains("code_verifier=")
        };
        if !good {
            return ("400 Bad Request", String::new(), json!({"error": "invalid_grant"}).to_string());
        }
        self.issued += 1;
        let token = format!("access-{}", self.issued);
        self.refresh = format!("refresh-{}", self.issued);
        self.valid = vec![token.clone()];
        self.scopes.insert(token.clone(), self.pending_scope.clone());
        ok(
            &json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": self.refresh}),
        )
    }

    fn mcp(&self, method: &str, head: &str, body: &str) -> Answer {
        assert!(head.to_ascii_lowercase().contains("x-team: blue"), "{head}");
        let token = self.valid.iter().find(|token| head.contains(&format!("Bearer {token}")));
        let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", self.base);
        let Some(token) = token else {
            let header =
                format!("www-authenticate: Bearer resource_metadata=\"{metadata}\", scope=\"read\"\r\n");
            return ("401 Unauthorized", header, String::new());
        };
        if method != "POST" {
            let status = if method == "GET" { "405 Method Not Allowed" } else { "200 OK" };
            return (status, String::new(), String::new());
        }
        if self.lost && head.contains("mcp-session-id: s1") {
            return ("404 Not Found", String::new(), String::new());
        }
        let message: Value = serde_json::from_str(body).unwrap();
        let result = match message["method"].as_str().unwrap() {
            "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "web", "version": "1"}}),
            "tools/list" => json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}),
            "tools/call" if self.needs_scope && !self.scopes[token].contains("write") => {
                let header = format!(
                    "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"write\", resource_metadata=\"{metadata}\"\r\n"
                );
                return ("403 Forbidden", header, String::new());
            }
            "tools/call" => json!({"content": [{"type": "text", "text": "done"}]}),
            _ => return ("202 Accepted", String::new(), String::new()),
        };
        let session = format!("mcp-session-id: {}\r\n", if self.lost { "s2" } else { "s1" });
        ("200 OK", session, json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
    }
}

/// Deadline of a call that meets a slow person.
const IMPATIENT: std::time::Duration = std::time::Duration::from_millis(700);

#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// A browser on this machine.
    Browser,
    Paste,
    /// Pastes after a while.
    Slow,
    WrongState,
    Decline,
}

/// Who authorizes.
struct Person {
    habit: Mutex<Habit>,
    lab: Arc<Mutex<Desk>>,
    keeper: Arc<Mutex<HashMap<String, String>>>,
    asked: Mutex<Vec<String>>,
}

impl Person {
    fn new(lab: &Lab, habit: Habit) -> Arc<Self> {
        Arc::new(Self {
            habit: Mutex::new(habit),
            lab: Arc::clone(&lab.desk),
            keeper: Arc::default(),
            asked: Mutex::default(),
        })
    }

    fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or_default();
    value.replace("%3A", ":").replace("%2F", "/").replace('+', " ")
}

impl SessionClient for Person {
    fn elicit(&self, _: ElicitRequest) -> BoxFuture<'_, ElicitAnswer> {
        Box::pin(std::future::ready(ElicitAnswer::Decline))
    }

    fn allows_sampling(&self, _: &str) -> bool {
        false
    }

    fn sample(&self, _: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>> {
        Box::pin(std::future::pending())
    }

    fn roots(&self) -> Vec<Root> {
        Vec::new()
    }

    fn authorize(&self, request: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        let url = request.url;
        assert_eq!(parameter(&url, "code_challenge_method"), "S256");
        assert!(parameter(&url, "resource").ends_with("/mcp"));
        self.lab.lock().unwrap().pending_scope = parameter(&url, "scope");
        self.asked.lock().unwrap().push(url.clone());
        let habit = *self.habit.lock().unwrap();
        Box::pin(async move {
            let redirect = parameter(&url, "redirect_uri");
            let state =
                if habit == Habit::WrongState { "wrong".to_owned() } else { parameter(&url, "state") };
            let callback = format!("{redirect}?code=code-1&state={state}");
            match habit {
                Habit::Decline => AuthorizeAnswer::Declined,
                Habit::Paste | Habit::WrongState => AuthorizeAnswer::Done { callback_url: Some(callback) },
                Habit::Slow => {
                    tokio::time::sleep(2 * IMPATIENT).await;
                    AuthorizeAnswer::Done { callback_url: Some(callback) }
                }
                Habit::Browser => {
                    let address = callback.strip_prefix("http://").unwrap();
                    let (host, path) = address.split_once('/').unwrap();
                    let mut socket = TcpStream::connect(host).await.unwrap();
                    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
                    socket.write_all(request.as_bytes()).await.unwrap();
                    // The redirect alone must do.
                    std::future::pending().await
                }
            }
        })
    }

    fn load_credentials(&self, key: &str) -> Option<String> {
        self.keeper.lock().unwrap().get(key).cloned()
    }

    fn store_credentials(&self, key: &str, body: Option<String>) {
        let mut keeper = self.keeper.lock().unwrap();
        match body {
            Some(body) => keeper.insert(key.to_owned(), body),
            None => keeper.remove(key),
        };
    }
}

/// Adds the server and waits for the state; returns everything that was reported on the way.
async fn add(session: &mut Session, config: ExtensionConfig, want: ExtensionState) -> Vec<HostEvent> {
    session
        .extensions
        .add(config, gander_domain::extension::ExtensionOrigin::Config, BTreeMap::new())
        .unwrap();
    until(session, want).await
}

async fn until(session: &mut Session, want: ExtensionState) -> Vec<HostEvent> {
    let mut seen = Vec::new();
    loop {
        let event = session.event().await;
        let there = matches!(&event, HostEvent::StateChanged(change) if change.to == want);
        seen.push(event);
        if there {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_authorizes_and_the_next_session_does_not_ask() {
    let lab = Lab::start().await;
    let person = Person::new(&lab, Habit::Browser);
    let mut session = Session::with_client(|_| {}, person.clone());
    let events = add(&mut session, lab.config(), ExtensionState::Ready).await;
    let states: Vec<_> = events
        .iter()
        .filter_map(|event| if let HostEvent::StateChanged(change) = event { Some(change.to) } else { None })
        .collect();
    use ExtensionState::{NeedsAuth, Ready, Starting};
    assert_eq!(states, [Starting, NeedsAuth, Starting, Ready]);
    assert!(!format!("{events:?}").contains("access-"), "{events:?}");
    let key = format!("{} {}/mcp", lab.base, lab.base);
    assert!(person.keeper.lock().unwrap()[&key].contains("access-1"));
    session.extensions.shutdown(PATIENCE).await;
    assert_eq!(lab.count("DELETE /mcp"), 1, "the server's session was ended");

    let mut second = Session::with_client(|_| {}, person.clone());
    add(&mut second, lab.config(), Ready).await;
    assert_eq!((person.questions(), lab.count("POST /register")), (1, 1));

    // Revoked: the call is made again with a refreshed token, and nobody notices.
    lab.desk().valid.clear();
    assert_eq!(second.call("web__t", "{}").await.outcome, ToolOutcome::Ok);
    assert_eq!((person.questions(), lab.count("POST /token")), (1, 2));

    // Revoked together with the refresh token: the call waits for the user.
    {
        let mut desk = lab.desk();
        desk.valid.clear();
        desk.refresh = "gone".to_owned();
    }
    assert_eq!(second.call("web__t", "{}").await.outcome, ToolOutcome::Ok);
    assert_eq!(person.questions(), 2);
    until(&mut second, NeedsAuth).await;
    until(&mut second, Ready).await;
    second.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_scopes_are_asked_for_when_a_call_needs_them() {
    let lab = Lab::start().await;
    lab.desk().needs_scope = true;
    let person = Person::new(&lab, Habit::Paste);
    let mut session = Session::with_client(|_| {}, person.clone());
    add(&mut session, lab.config(), ExtensionState::Ready).await;
    *person.habit.lock().unwrap() = Habit::Decline;
    let refused = session.call("web__t", "{}").await;
    assert_eq!(refused.outcome, ToolOutcome::ProtocolError);
    // What was granted before still holds.
    assert_eq!(session.extensions.statuses()[0].state, ExtensionState::Ready);
    // The person's time is not the server's.
    *person.habit.lock().unwrap() = Habit::Slow;
    let (mut call, _reports) = request("web__t", "{}");
    call.timeout = Some(IMPATIENT);
    let result = session.extensions.call(call).await;
    assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
    let asked = person.asked.lock().unwrap().clone();
    assert_eq!(parameter(&asked[0], "scope"), "read");
    let last = parameter(asked.last().unwrap(), "scope");
    assert!(last.contains("read") && last.contains("write"), "{last}");
    session.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_in_a_failure_that_a_restart_may_repair() {
    let lab = Lab::start().await;
    let person = Person::new(&lab, Habit::Decline);
    let mut session = Session::with_client(|_| {}, person.clone());
    add(&mut session, lab.config(), ExtensionState::Failed).await;
    let status = session.extensions.statuses().remove(0);
    assert!(status.cause.starts_with("AUTH_DECLINED"), "{}", status.cause);
    assert_eq!(status.error.unwrap().reason, ErrorReason::ExtensionNeedsAuth);
    // Somebody else's redirect is none.
    *person.habit.lock().unwrap() = Habit::WrongState;
    assert_eq!(session.extensions.restart("web").await.unwrap_err().reason, ErrorReason::ExtensionNeedsAuth);
    until(&mut session, ExtensionState::NeedsAuth).await;
    until(&mut session, ExtensionState::Failed).await;
    assert_eq!(lab.count("POST /token"), 0);
    *person.habit.lock().unwrap() = Habit::Paste;
    let _ = session.extensions.restart("web").await;
    until(&mut session, ExtensionState::Ready).await;
    session.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_forgot_is_begun_again() {
    let lab = Lab::start().await;
    let mut session = Session::with_client(|_| {}, Person::new(&lab, Habit::Paste));
    add(&mut session, lab.config(), ExtensionState::Ready).await;
    let starts = || lab.desk().seen.iter().filter(|(_, body)| body.contains("\"initialize\"")).count();
    let before = starts();
    lab.desk().lost = true;
    assert_eq!(session.call("web__t", "{}").await.outcome, ToolOutcome::Ok);
    assert_eq!(starts(), before + 1);
    session.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_metadata_leads_nowhere() {
    for (page, server) in [
        (Some("file:///bin/sh"), None),
        (Some("javascript:alert(1)"), None),
        (None, Some("http://169.254.169.254/latest")),
    ] {
        let lab = Lab::start().await;
        {
            let mut desk = lab.desk();
            desk.page = page.map(str::to_owned);
            desk.server = server.map(str::to_owned);
        }
        let person = Person::new(&lab, Habit::Paste);
        let mut session = Session::with_client(|_| {}, person.clone());
        add(&mut session, lab.config(), ExtensionState::NeedsAuth).await;
        let status = session.extensions.statuses().remove(0);
        assert!(status.cause.len() > 10, "{status:?}");
        assert_eq!((person.questions(), lab.count("POST /token")), (0, 0), "{page:?} {server:?}");
        session.extensions.shutdown(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_origin_gets_no_header() {
    let lab = Lab::start().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/mcp", other.local_addr().unwrap());
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp", gate.local_addr().unwrap());
    let redirecting = tokio::spawn(async move {
        loop {
            let (mut socket, _) = gate.accept().await.unwrap();
            let mut buffer = vec![0; 16 * 1024];
            let _ = socket.read(&mut buffer).await;
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: {target}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let headers = BTreeMap::from([("authorization".to_owned(), "Bearer mine".to_owned())]);
    let config = config("web", ExtensionTransport::StreamableHttp { uri, headers, unix_socket: None });
    let mut session = Session::with_client(|_| {}, Person::new(&lab, Habit::Decline));
    add(&mut session, config, ExtensionState::Failed).await;
    // Whatever connected is in the queue by now.
    let connected = tokio::time::timeout(std::time::Duration::from_millis(20), other.accept()).await;
    assert!(connected.is_err(), "the other origin was contacted");
    redirecting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_a_unix_socket_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let desk = Arc::new(Mutex::new(Desk::default()));
    desk.lock().unwrap().valid.push("mine".to_owned());
    let shared = Arc::clone(&desk);
    let server = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(socket, Arc::clone(&shared)));
        }
    });
    let headers = BTreeMap::from([
        ("authorization".to_owned(), "Bearer mine".to_owned()),
        ("x-team".to_owned(), "blue".to_owned()),
    ]);
    let transport = ExtensionTransport::StreamableHttp {
        uri: "http://inside/mcp".to_owned(),
        headers,
        unix_socket: Some(path.to_str().unwrap().to_owned()),
    };
    let session = Session::new();
    let state = session.add(config("web", transport)).await;
    assert_eq!(state, ExtensionState::Ready, "{:?}", session.extensions.statuses());
    assert_eq!(session.call("web__t", "{}").await.outcome, ToolOutcome::Ok);
    session.extensions.shutdown(PATIENCE).await;
    server.abort();
}
