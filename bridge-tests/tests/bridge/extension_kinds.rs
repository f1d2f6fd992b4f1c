//! Ways to run an extension besides a command on this machine, and what is told about one while it runs.

use std::{collections::HashMap, os::unix::fs::PermissionsExt as _, path::Path};

use gander_bridge_tests::{TestDaemon, events, gander_binary, pb, skip, soon};
use gander_client::Client;
use pb::{ExtensionState, extension_config::Kind, session_event::Payload};

use crate::extensions::{add, called, config, server};

/// A server with one tool that needs nothing but Python.
const CODE: &str = r#"
import json, os, sys
def answer(method):
    if method == "initialize":
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                "serverInfo": {"name": "inline", "version": "1"}}
    if method == "tools/list":
        return {"tools": [{"name": "args", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": json.dumps([sys.argv[0], os.environ.get("LEVEL")])}]}
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        result = answer(request["method"])
        reply = {"result": result} if result else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **reply}), flush=True)
"#;

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

fn request(session_id: &str, name: &str) -> pb::CallToolRequest {
    pb::CallToolRequest {
        session_id: session_id.to_owned(),
        name: name.to_owned(),
        arguments_json: "{}".into(),
        ..Default::default()
    }
}

async fn text(client: &Client, session_id: &str, name: &str) -> String {
    let (_, result) = called(client, request(session_id, name)).await;
    assert_eq!(result.outcome(), pb::ToolOutcome::Ok, "{result:?}");
    events::text(&result.parts)
}

fn inline() -> pb::ExtensionConfig {
    let code = pb::InlinePythonExtension { code: CODE.into(), dependencies: Vec::new() };
    pb::ExtensionConfig {
        name: "snippet".into(),
        kind: Some(Kind::InlinePython(code)),
        env: HashMap::from([("LEVEL".to_owned(), "seven".to_owned())]),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_code_runs_with_and_without_the_package_runner() {
    if !["/usr/bin/python3", "/usr/local/bin/python3"].iter().any(|path| Path::new(path).exists()) {
        return skip("python3 not found");
    }
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let programs = tempfile::tempdir().expect("a folder");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.path().display());
    let new = pb::CreateSessionRequest {
        client_environment: HashMap::from([("PATH".to_owned(), path)]),
        ..events::bare_session(&daemon.work())
    };
    let session_id = events::create(&client, new).await;
    add(&client, &session_id, inline()).await;
    let told = text(&client, &session_id, "snippet__args").await;
    assert!(told.contains("inline_snippet.py") && told.contains("seven"), "{told}");

    let needy = |name: &str| {
        let code = pb::InlinePythonExtension { code: CODE.into(), dependencies: vec!["a-package".into()] };
        pb::ExtensionConfig { name: name.into(), kind: Some(Kind::InlinePython(code)), ..inline() }
    };
    let refused = pb::AddSessionExtensionRequest {
        session_id: session_id.clone(),
        extension: Some(pb::add_session_extension_request::Extension::Config(Box::new(needy("needy")))),
        wait: true,
        ..Default::default()
    };
    // Only where uv is not installed.
    if !["/usr/bin/uvx", "/usr/local/bin/uvx"].iter().any(|path| Path::new(path).exists()) {
        let error = soon("AddSessionExtension", client.extensions().add_session_extension(refused)).await;
        let error = error.expect_err("no runner for packages");
        assert!(error.message().contains("install uv") && error.message().contains("a-package"), "{error}");
    }
    // Stands in for uvx: keeps its arguments, and runs what comes after them.
    let uvx = "#!/bin/sh\necho \"$@\" > \"$0.log\"\nwhile [ \"$1\" = --with ]; do shift 2; done\nshift\nexec python3 \"$@\"\n";
    program(&programs.path().join("uvx"), uvx);
    add(&client, &session_id, needy("packed")).await;
    assert!(text(&client, &session_id, "packed__args").await.contains("inline_packed.py"));
    let log = std::fs::read_to_string(programs.path().join("uvx.log")).expect("its arguments");
    assert!(log.starts_with("--with mcp --with a-package python /"), "{log}");
    daemon.finish().await;
}

/// Stands in for docker: keeps its arguments, then runs the command here.
const DOCKER: &str = r#"#!/bin/sh
echo "$@" >> "$0.log"
[ "$1 $2" = "exec -i" ] || exit 9
shift 2
while [ "$1" = "-e" ]; do shift 2; done
[ "$1" = "box1" ] || exit 8
shift
exec "$@"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_runs_its_extensions_in_its_container_and_leaves_it() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let programs = tempfile::tempdir().expect("a folder");
    program(&programs.path().join("docker"), DOCKER);
    std::os::unix::fs::symlink(gander_binary(), programs.path().join("gander")).expect("a link");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.path().display());
    let environment = HashMap::from([
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), programs.path().display().to_string()),
    ]);
    let log = || std::fs::read_to_string(programs.path().join("docker.log")).unwrap_or_default();
    let new = |container: &str| pb::CreateSessionRequest {
        container: container.into(),
        client_environment: environment.clone(),
        ..events::bare_session(&daemon.work())
    };
    for wrong in ["--privileged", "a b", "$(x)"] {
        let error = events::refused(client.sessions().create_session(new(wrong)).await);
        assert!(error.violations.iter().any(|v| v.field == "container"), "{error:?}");
    }
    let session_id = events::create(&client, new("box1")).await;
    let developer = pb::ExtensionConfig {
        name: "developer".into(),
        kind: Some(Kind::Builtin(pb::BuiltinExtension {})),
        env: HashMap::from([("SECRET_VALUE".to_owned(), "never-in-argv".to_owned())]),
        ..Default::default()
    };
    let status = add(&client, &session_id, developer).await;
    assert_eq!(status.state(), ExtensionState::Ready, "{status:?}");
    let shell = pb::CallToolRequest {
        arguments_json: r#"{"command": "echo from $SECRET_VALUE"}"#.into(),
        ..request(&session_id, "developer__shell")
    };
    let (_, result) = called(&client, shell).await;
    assert_eq!(result.outcome(), pb::ToolOutcome::Ok, "{result:?}");
    assert_eq!(log().trim_end(), "exec -i -e SECRET_VALUE box1 gander mcp developer");

    let leave = pb::UpdateSessionRequest {
        session: Some(pb::Session { session_id: session_id.clone(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["container".into()] }),
        ..Default::default()
    };
    client.sessions().update_session(leave).await.expect("out of the container");
    let (_, result) = called(&client, request(&session_id, "developer__list")).await;
    assert_eq!(result.outcome(), pb::ToolOutcome::Ok, "{result:?}");
    assert_eq!(log().lines().count(), 1, "started here now");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_an_extension_is_followed_until_it_is_gone() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    add(&client, &session_id, config(&server, "log")).await;
    let read = |follow| pb::ReadExtensionLogRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        follow,
        ..Default::default()
    };
    let mut once = client.extensions().read_extension_log(read(false)).await.expect("a log").into_inner();
    while soon("the log", once.message()).await.expect("a piece").is_some() {}
    let mut log = client.extensions().read_extension_log(read(true)).await.expect("a log").into_inner();
    let piece = soon("what it wrote at its start", log.message()).await.expect("a piece").expect("a piece");
    assert!(piece.text.contains("server"), "{piece:?}");
    let restart = pb::RestartSessionExtensionRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        wait: true,
        ..Default::default()
    };
    soon("RestartSessionExtension", client.extensions().restart_session_extension(restart))
        .await
        .expect("again");
    let piece = soon("what the next one wrote", log.message()).await.expect("a piece").expect("a piece");
    assert!(piece.text.ends_with('\n'), "whole lines: {piece:?}");
    let remove = pb::RemoveSessionExtensionRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        ..Default::default()
    };
    client.extensions().remove_session_extension(remove).await.expect("removed");
    soon("the end of the log", async { while log.message().await.expect("a piece").is_some() {} }).await;
    let error = events::refused(client.extensions().read_extension_log(read(true)).await);
    assert!(error.is(pb::ErrorReason::ExtensionNotFound), "{error:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_was_left_out_is_told_of() {
    let root = gander_bridge_tests::daemon::new_root();
    let paths = gander_config::Paths::resolve(Some(root.path()), &gander_config::Environment::default());
    let paths = paths.expect("paths");
    paths.create_dirs().expect("directories");
    let entry = "{enabled: true, type: builtin, name: todo, envs: {ld_preload: /x}}";
    std::fs::write(paths.config_file(), format!("extensions:\n  todo: {entry}\n")).expect("a configuration");
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let new = pb::CreateSessionRequest { extensions: None, ..events::bare_session(&daemon.work()) };
    let session_id = events::create(&client, new).await;
    let list = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    soon("ListTools", client.tools().list_tools(list)).await.expect("tools");
    let log = events::log(&client, &session_id).await;
    let told = log.iter().find_map(|event| match &event.payload {
        Some(Payload::ExtensionNotification(told)) => Some(told.data_json.clone()),
        _ => None,
    });
    let told = told.expect("a notification");
    assert!(told.contains("env_left_out") && told.contains("ld_preload"), "{told}");
    daemon.finish().await;
}
