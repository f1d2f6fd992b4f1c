//! What tools must not get: the API, however they dial it, and the daemon's secrets.

use gander::daemon::serve;
use gander_bridge_tests::{TestDaemon, connect, daemon, events, gander_binary, pb, within};
use gander_client::{Client, Endpoint};
use pb::ErrorReason;
use tokio_util::sync::CancellationToken;

const DIAL: &str = env!("CARGO_BIN_EXE_dial");

async fn shell_session(daemon: &TestDaemon) -> (Client, String) {
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    (client, session_id)
}

/// Commands by which a tool may try to reach the daemon: `DIAL` stands for the call itself.
const WAYS: &[(&str, &str)] = &[
    ("directly", "DIAL"),
    ("without an environment", "env -i DIAL"),
    ("as a grandchild", "sh -c 'sh -c \"DIAL; true\"'"),
    ("in a session of its own", "setsid --wait DIAL"),
    (
        "as an orphan",
        "(setsid sh -c 'DIAL > said.tmp 2>&1; mv said.tmp said' &); \
      for i in $(seq 400); do [ -e said ] && break; sleep 0.05; done; cat said; rm said",
    ),
    ("through a pipe", "true | DIAL | cat"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_cannot_use_the_socket() {
    let daemon = TestDaemon::start().await;
    let (client, session_id) = shell_session(&daemon).await;
    let socket = format!("unix:{}", daemon.ready().socket.display());
    let token = daemon.ready().token_file.display();
    for (way, command) in WAYS {
        let command = command.replace("DIAL", &format!("{DIAL} {socket} {token}"));
        let said = events::shell_output(&client, &session_id, &command).await;
        assert!(said.contains("dial: CALLER_IS_TOOL"), "{way}: {said}");
        assert!(!said.contains("dial: ok"), "{way}: {said}");
    }
    // The same program that is no tool is served.
    let output = tokio::process::Command::new(DIAL).arg(&socket).output().await.expect("dial runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "dial: ok\n");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_cannot_use_the_tcp_port_with_the_token() {
    let daemon = TestDaemon::start().await;
    let (client, session_id) = shell_session(&daemon).await;
    let (url, token) = (daemon.url(), daemon.ready().token_file.clone());
    for (way, command) in WAYS {
        let command = command.replace("DIAL", &format!("{DIAL} {url} {}", token.display()));
        let said = events::shell_output(&client, &session_id, &command).await;
        assert!(said.contains("dial: CALLER_IS_TOOL"), "{way}: {said}");
    }
    let output = tokio::process::Command::new(DIAL).arg(&url).arg(&token).output().await.expect("dial runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "dial: ok\n");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_is_of_no_use_to_a_tool() {
    let daemon = TestDaemon::start().await;
    let (client, session_id) = shell_session(&daemon).await;
    let gander = gander_binary();
    let (gander, root) = (gander.display(), daemon.root().display().to_string());
    for arguments in ["session list", "status", "run --demo hello", "--embed session list"] {
        let command = format!("{gander} --root {root} {arguments}; echo code=$?");
        let said = events::shell_output(&client, &session_id, &command).await;
        assert!(!said.contains("code=0"), "{arguments}: {said}");
        assert!(!said.contains(&session_id), "{arguments}: {said}");
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_has_no_secret_of_the_daemon() {
    let secrets = [
        ("OPENAI_API_KEY", "sk-bridge-1"),
        ("ANTHROPIC_API_KEY", "sk-bridge-2"),
        ("GITHUB_TOKEN", "sk-bridge-3"),
        ("AWS_SECRET_ACCESS_KEY", "sk-bridge-4"),
        ("DB_PASSWORD", "sk-bridge-5"),
        ("GANDER_TOKEN", "sk-bridge-6"),
        ("HARMLESS", "kept"),
    ];
    let daemon = TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        options.environment = daemon::environment_with(&root, &secrets);
    })
    .await;
    let (client, session_id) = shell_session(&daemon).await;
    let said = events::shell_output(&client, &session_id, "env; tr '\\0' '\\n' < /proc/$PPID/environ").await;
    assert!(said.contains("HARMLESS=kept"), "{said}");
    assert!(!said.contains("sk-bridge"), "{said}");
    assert!(!said.contains(daemon.token()), "{said}");
    // What the caller sends as its environment is filtered as well.
    let request = pb::CreateSessionRequest {
        client_environment: [
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("MISTRAL_API_KEY".to_owned(), "sk-bridge-7".to_owned()),
        ]
        .into(),
        ..events::new_session(&daemon.work())
    };
    let session_id = events::create(&client, request).await;
    let said = events::shell_output(&client, &session_id, "env").await;
    assert!(!said.contains("sk-bridge"), "{said}");
    // The file tools do not show the token either.
    let token = daemon.ready().token_file.display().to_string();
    let events =
        events::complete(&client, &session_id, &format!("call developer__read {{\"path\": \"{token}\"}}"))
            .await;
    let call = &events::tool_calls(&events)[0];
    assert!(call.result.as_ref().is_some_and(|result| result.is_error), "{call:?}");
    assert!(!events::result_text(call).contains(daemon.token()));
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_asks_for_the_token() {
    let daemon = TestDaemon::start().await;
    for token in [None, Some("wrong"), Some("")] {
        let client = connect(Endpoint::tcp(daemon.url()), token).await.expect("a connection");
        let error =
            events::refused(client.sessions().list_sessions(pb::ListSessionsRequest::default()).await);
        assert!(error.is(ErrorReason::TokenInvalid), "{token:?}: {error:?}");
        assert_eq!(error.code, tonic::Code::Unauthenticated);
        let watch = pb::WatchSessionRequest { session_id: "x".into(), ..Default::default() };
        let error = events::refused(client.sessions().watch_session(watch).await);
        assert!(error.is(ErrorReason::TokenInvalid), "{token:?}: {error:?}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    for path in [&daemon.ready().token_file, &daemon.ready().socket] {
        let mode = std::fs::metadata(path).expect("its mode").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_address_needs_tls() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let root = daemon::new_root();
        let mut options = daemon::options(root.path());
        options.tcp = Some(address.parse().expect("an address"));
        let serving = serve(options, CancellationToken::new(), |_| panic!("{address} was served"));
        let error =
            within(std::time::Duration::from_secs(10), "a refusal", serving).await.expect_err("refused");
        let said = format!("{error:#}").to_lowercase();
        assert!(said.contains("tls"), "the remedy is named: {said}");
    }
}
