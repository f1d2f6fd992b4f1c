//! The parts of the flow by themselves. The whole of it is in the host's tests and the conformance suite.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use gander_domain::ErrorDetail;
use rmcp::transport::auth::{CredentialStore as _, StoredCredentials};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use url::Url;

use super::{
    RefreshLocks,
    fetch::Reach,
    flow::{Callback, check_page},
    listener::Listener,
    settings::Settings,
    store::{Registration, Store},
};
use crate::client::{
    AuthorizeAnswer, AuthorizeRequest, ElicitAnswer, ElicitRequest, Root, SampleRequest, SampleResult,
    SessionClient,
};

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn metadata_reaches_as_far_as_the_configured_server_and_never_special_addresses() {
    let public = ["https://auth.example.com", "https://93.184.216.34", "https://[2606:4700::1]"];
    let private = ["https://10.1.2.3", "http://192.168.0.1", "http://100.64.0.1", "https://[fd00::1]"];
    let private = [&private[..], &["http://[::ffff:10.0.0.1]", "http://[2002:a00:1::]"]].concat();
    let loopback = ["http://127.0.0.1:9", "http://localhost:9", "http://a.localhost", "http://[::1]:9"];
    let never = [
        "http://169.254.169.254/latest",
        "http://0.0.0.0",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "ftp://auth.example.com",
        "file:///etc/passwd",
    ];
    for (base, reach) in [
        ("https://mcp.example.com", Reach::Public),
        ("http://10.0.0.1/mcp", Reach::Private),
        ("http://localhost:1/mcp", Reach::Loopback),
        ("http://[::1]:1/mcp", Reach::Loopback),
    ] {
        assert_eq!(Reach::of(&url(base)), reach);
        for (addresses, needs) in
            [(&public[..], Reach::Public), (&private[..], Reach::Private), (&loopback[..], Reach::Loopback)]
        {
            for address in addresses {
                assert_eq!(reach.allows_url(&url(address)), needs <= reach, "{base} names {address}");
            }
        }
        for address in never {
            assert!(!reach.allows_url(&url(address)), "{base} names {address}");
        }
    }
}

#[test]
fn only_web_pages_are_shown_to_the_user() {
    for page in
        ["https://a.example/authorize?x=$(calc)", "http://127.0.0.1:3/authorize", "http://localhost/a"]
    {
        assert!(check_page(page).is_ok(), "{page}");
    }
    for page in
        ["file:///bin/sh", "javascript:alert(1)", "http://a.example/authorize", "$(calc)", "data:text/html,x"]
    {
        assert!(check_page(page).is_err(), "{page}");
    }
}

#[test]
fn a_redirect_must_carry_the_state_once_and_says_what_was_decided() {
    let parse = |query: &str| Callback::parse(&url(&format!("http://127.0.0.1:1/callback?{query}")), "s1");
    let callback = parse("code=c&state=s1&iss=https%3A%2F%2Fa").unwrap();
    assert_eq!((callback.code.as_str(), callback.issuer.as_deref()), ("c", Some("https://a")));
    for (query, declined) in [
        ("code=c", false),
        ("code=c&state=s2", false),
        ("code=c&state=s1&state=s1", false),
        ("state=s1", false),
        ("state=s1&error=server_error&error_description=x", false),
        ("state=s1&error=access_denied", true),
    ] {
        let refusal = parse(query).err().unwrap();
        assert_eq!(refusal.declined, declined, "{query}");
        assert!(!refusal.text.contains("code=c"));
    }
}

async fn get(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_port_takes_one_redirect_with_the_right_state_and_closes() {
    let listener = Listener::bind(0).await.unwrap();
    let port = url(listener.redirect_uri()).port().unwrap();
    let waiting = tokio::spawn(listener.redirect("right"));
    // A browser opens connections in advance and says nothing on them.
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for line in [
        "GET /callback?code=x&state=wrong HTTP/1.1",
        "GET /favicon.ico HTTP/1.1",
        "POST /callback?code=x&state=right HTTP/1.1",
        "GET /callbackx?code=x&state=right HTTP/1.1",
        "nonsense",
    ] {
        assert!(get(port, &format!("{line}\r\n\r\n")).await.starts_with("HTTP/1.1 404"), "{line}");
    }
    let answer = get(port, "GET /callback?code=c%20d&state=right HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let redirect = timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(redirect.query(), Some("code=c%20d&state=right"));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[test]
fn settings_come_from_the_environment_and_are_checked() {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let settings = Settings::new(
        &map(&[
            ("MCP_OAUTH_CLIENT_ID", "id"),
            ("MCP_OAUTH_SCOPES", " a  b "),
            ("MCP_OAUTH_REDIRECT_PORT", "7"),
        ]),
        &map(&[("MCP_OAUTH_CLIENT_SECRET", "hush")]),
    )
    .unwrap();
    assert_eq!(settings.client_secret.as_deref(), Some("hush"));
    assert_eq!((settings.scopes.len(), settings.redirect_port), (2, Some(7)));
    assert!(!format!("{settings:?}").contains("hush"));
    for wrong in [
        map(&[("MCP_OAUTH_CLIENT_SECRET", "x")]),
        map(&[("MCP_OAUTH_GRANT", "password")]),
        map(&[("MCP_OAUTH_GRANT", "client_credentials"), ("MCP_OAUTH_CLIENT_ID", "x")]),
        map(&[("MCP_OAUTH_REDIRECT_PORT", "0")]),
    ] {
        let error = Settings::new(&wrong, &BTreeMap::new()).unwrap_err();
        assert!(error.contains("MCP_OAUTH_"), "{error}");
    }
}

#[derive(Default)]
struct Keeper(Mutex<HashMap<String, String>>);

impl SessionClient for Keeper {
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

    fn authorize(&self, _: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        Box::pin(std::future::ready(AuthorizeAnswer::Declined))
    }

    fn load_credentials(&self, key: &str) -> Option<String> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn store_credentials(&self, key: &str, body: Option<String>) {
        let mut all = self.0.lock().unwrap();
        match body {
            Some(body) => all.insert(key.to_owned(), body),
            None => all.remove(key),
        };
    }
}

#[tokio::test]
async fn what_one_session_stores_the_next_one_finds_and_a_refresh_sees_the_newest() {
    let keeper = Arc::new(Keeper::default());
    let client: Arc<dyn SessionClient> = keeper.clone();
    let locks = RefreshLocks::default();
    let key = "https://as https://rs/mcp";
    let (first, second) =
        (Store::new(Arc::clone(&client), key.to_owned(), &locks), Store::new(client, key.to_owned(), &locks));
    assert!(second.load().await.unwrap().is_none());
    first.set_registration(Some(Registration {
        client_id: "c".to_owned(),
        client_secret: Some("s".to_owned()),
        redirect_uri: "http://127.0.0.1:5/callback".to_owned(),
    }));
    first.save(StoredCredentials::new("c".to_owned(), None, vec!["a".to_owned()], Some(1))).await.unwrap();
    // The other one has looked already; the lock makes it look again.
    assert!(second.load().await.unwrap().is_none());
    let guard = second.acquire_refresh_guard().await.unwrap();
    assert_eq!(second.load().await.unwrap().unwrap().client_id, "c");
    assert_eq!(second.entry().registration.unwrap().client_secret.as_deref(), Some("s"));
    assert_eq!(second.scopes(), ["a"]);
    let blocked = timeout(Duration::from_millis(50), first.acquire_refresh_guard()).await;
    assert!(blocked.is_err(), "two refreshes at once");
    drop(guard);
    first.clear().await.unwrap();
    assert_eq!(keeper.0.lock().unwrap().len(), 1, "the registration stays");
    first.set_registration(None);
    assert!(keeper.0.lock().unwrap().is_empty());
}
