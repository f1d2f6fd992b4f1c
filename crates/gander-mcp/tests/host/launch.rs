//! Commands that the host puts together: Python code and what runs in a container.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use gander_domain::{
    extension::{ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::Container;

use crate::common::{PATIENCE, Session, config, stdio, test_server};

/// A server with one tool that needs nothing but Python.
const CODE: &str = r#"
import json, os, sys
def answer(request):
    method = request["method"]
    if method == "initialize":
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                "serverInfo": {"name": "inline", "version": "1"}}
    if method == "tools/list":
        return {"tools": [{"name": "where", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": os.path.basename(sys.argv[0]) + " " + os.environ["LAB_TOKEN"]}]}
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        result = answer(request)
        reply.update({"result": result} if result else {"error": {"code": -32601, "message": "no"}})
        print(json.dumps(reply), flush=True)
"#;

fn program(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_code_is_a_server_and_its_file_goes_with_it() {
    let session = Session::new();
    let python = ["/usr/local/bin/python3", "/usr/bin/python3", "/bin/python3"];
    if !python.iter().any(|path| Path::new(path).exists()) {
        assert!(std::env::var_os("GANDER_TEST_REQUIRE").is_none(), "must not be skipped: python3 not found");
        eprintln!("skipped: python3 not found");
        return;
    }
    let code = ExtensionTransport::InlinePython { code: CODE.to_owned(), dependencies: Vec::new() };
    let mut config = config("snippet", code);
    config.env_keys = vec!["LAB_TOKEN".to_owned()];
    assert_eq!(session.add(config).await, ExtensionState::Ready, "{:?}", session.extensions.statuses());
    let result = session.call("snippet__where", "{}").await;
    assert_eq!(result.parts[0].as_text(), Some("inline_snippet.py hunter22"));
    session.extensions.shutdown(PATIENCE).await;
}

/// Stands in for docker: notes its arguments, then runs the command here.
const DOCKER: &str = r#"#!/bin/sh
echo "$@" >> "$0.log"
[ "$1 $2" = "exec -i" ] || exit 9
shift 2
while [ "$1" = "-e" ]; do shift 2; done
[ "$1" = "box1" ] || exit 8
shift
exec "$@"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_builtins_of_a_session_run_in_its_container() {
    let session = Session::placed(|context| {
        let directory = context.working_directory.clone();
        program(&directory, "docker", DOCKER);
        std::os::unix::fs::symlink(test_server(), directory.join("gander")).unwrap();
        context.environment.insert("PATH".to_owned(), format!("{}:/usr/bin:/bin", directory.display()));
        context.container = Some(Container::docker("box1"));
    });
    for (config, key, tail) in [
        (stdio(&[]), "child", "test_server"),
        (config("lab", ExtensionTransport::Builtin), "lab", "gander mcp lab"),
    ] {
        let secret = !config.env_keys.is_empty();
        assert_eq!(session.add(config).await, ExtensionState::Ready, "{:?}", session.extensions.statuses());
        let result = session.call(&format!("{key}__echo"), r#"{"a": 1}"#).await;
        assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
        let log = std::fs::read_to_string(session.directory.path().join("docker.log")).unwrap();
        let line = log.lines().last().unwrap();
        assert!(line.ends_with(tail) && line.starts_with("exec -i "), "{line}");
        assert_eq!(line.contains("-e LAB_TOKEN box1"), secret, "{line}");
        assert!(!line.contains("hunter22"), "{line}");
    }
    session.extensions.shutdown(PATIENCE).await;
}
