//! Extensions from the command line: configuration, checks of files, one-off servers.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Home};

/// The stdio test server of the MCP crate, if it was built beside this program.
fn built_server() -> Option<PathBuf> {
    let server = Path::new(env!("CARGO_BIN_EXE_gander")).parent()?.join("examples/test_server");
    server.is_file().then_some(server)
}

/// A command of a small MCP server with a tool `echo` that answers "heard" and its argument `text`, or `None` when neither
/// the built one nor python3 is there.
fn server(home: &Home) -> Option<String> {
    const SCRIPT: &str = r#"
import json, sys
print("started-words", file=sys.stderr, flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    method, params = request["method"], request.get("params", {})
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "script", "version": "1"}}
    elif method == "tools/list":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        result = {"tools": [{"name": "echo", "description": "says it again", "inputSchema": schema}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "heard " + str(params["arguments"].get("text"))}]}
    else:
        answer = {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "no"}}
        print(json.dumps(answer), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
"#;
    let python = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/bin".into(), "/usr/local/bin".into()])
            .map(|directory| directory.join("python3"))
            .find(|python| python.is_file())
    })?;
    let script = home.work.path().join("a server.py");
    std::fs::write(&script, SCRIPT).unwrap();
    Some(format!("'{}' '{}'", python.display(), script.display()))
}

#[test]
fn configured_extensions_are_managed() {
    let home = Home::new();
    let row = |name: &str| {
        let list = home.ok(&["extension", "list"]);
        list.lines().find(|line| line.starts_with(name)).map(str::to_owned)
    };
    let added = home.run(&[
        "extension",
        "add",
        "files",
        "--cmd",
        "srv --root '/a b'",
        "--env",
        "LEVEL=hidden-value",
        "--env-key",
        "TOKEN",
        "--timeout",
        "30s",
        "--sampling",
        "ask",
        "--pin",
        "--sandbox",
        "read-only",
    ]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    assert!(added.stderr.contains("files is added"), "{}", added.stderr);
    let line = row("files ").unwrap();
    assert!(line.contains("yes") && line.contains("stdio") && line.contains("srv --root '/a b'"), "{line}");
    assert!(!home.ok(&["extension", "list"]).contains("hidden-value"));

    // All of it is in the file, as the checker reads it.
    let list = home.json(&["extension", "list", "--json"]);
    let find = |list: &Value| {
        let all = list.as_array().unwrap().iter();
        all.clone().find(|extension| extension["config"]["name"] == "files").unwrap().clone()
    };
    let config = &find(&list)["config"];
    assert_eq!(config["stdio"], json!({"command": "srv", "args": ["--root", "/a b"]}));
    assert_eq!(config["env"], json!({"LEVEL": "hidden-value"}));
    assert_eq!(config["env_keys"], json!(["TOKEN"]));
    assert_eq!(config["timeout"], "30s");
    assert_eq!(config["sampling"]["mode"], "SAMPLING_MODE_ASK");
    assert_eq!(config["pin_definitions"], true);
    assert_eq!(config["sandbox"]["mode"], "SANDBOX_MODE_READ_ONLY");
    let file = home.root.path().join("config/config.yaml");
    let checked = home.run(&["extension", "check", file.to_str().unwrap()]);
    assert_eq!(checked.code, 0, "{}\n{}", checked.stdout, checked.stderr);

    home.ok(&["extension", "disable", "files"]);
    assert!(row("files ").unwrap().contains(" no "));
    home.ok(&["extension", "enable", "files"]);
    assert!(row("files ").unwrap().contains(" yes "));
    let replaced =
        home.run(&["extension", "add", "files", "--url", "https://h.example/mcp?key=k", "--disabled"]);
    assert!(replaced.stderr.contains("files is replaced, disabled"), "{}", replaced.stderr);
    let line = row("files ").unwrap();
    assert!(
        line.contains("https://h.example/mcp") && !line.contains("key=k") && line.contains(" no "),
        "{line}"
    );
    home.ok(&["extension", "add", "todo", "--builtin"]);
    assert!(row("todo ").unwrap().contains("builtin"));
    home.ok(&["extension", "remove", "files"]);
    assert_eq!(row("files "), None);
}

#[test]
fn mistakes_are_told() {
    let home = Home::new();
    for (arguments, code, says) in [
        (&["extension", "add", "x"][..], 2, "--cmd"),
        (&["extension", "add", "x", "--cmd", "a", "--url", "http://x"], 2, "cannot be used with"),
        (&["extension", "add", "x", "--cmd", "'open"], 2, "quotation mark"),
        (&["extension", "add", "x", "--cmd", "a", "--header", "A: b"], 2, "cannot be used with"),
        (&["extension", "add", "x", "--url", "http://x", "--sandbox", "read-only"], 2, "cannot be used with"),
        (&["extension", "add", "x", "--cmd", "a", "--env", "A"], 2, "KEY=VALUE"),
        (&["extension", "add", "x", "--url", "ftp://x"], 1, "must start with http"),
        (&["extension", "add", "x", "--cmd", "a", "--env", "Path=/x"], 2, "may not be set"),
        (&["extension", "remove", "nope"], 1, "reason: EXTENSION_NOT_FOUND"),
        (&["extension", "enable", "nope"], 1, "reason: EXTENSION_NOT_FOUND"),
        (&["extension", "restart", "x"], 2, "--session"),
        (&["extension", "logs", "x", "--session", "s"], 1, "no daemon runs"),
        (&["extension", "list", "--session", "nope"], 1, "reason: SESSION_NOT_FOUND"),
        (&["extension", "check", "missing.yaml"], 1, "cannot read"),
        (&["run", "--with-extension", "", "x"], 2, "there is no program"),
        (&["tool", "list", "--cmd", "sh -c 'a | b'"], 2, "as commands"),
        (&["run", "--container", "c; rm", "x"], 1, "container"),
        (&["run", "--no-profile", "--session", "s", "x"], 2, "cannot be used with"),
        (&["tool", "list", "--cmd", "a", "--session", "s"], 2, "cannot be used with"),
        (&["tool", "list", "--cmd", "/nonexistent/server"], 1, "reason: EXTENSION_START_FAILED"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(says), "{arguments:?}: {says:?} in\n{}", ran.stderr);
    }
    assert_eq!(home.json(&["session", "list", "--json", "--all"]), json!([]));
}

#[test]
fn files_are_checked_without_an_engine() {
    let home = Home::new();
    let text = "extensions:\n  good: {enabled: true, type: builtin, name: todo}\n  bad: {enabled: true, type: stdio, \
                cmd: ''}\n  old: {enabled: false, type: sse, uri: 'http://x'}\n";
    std::fs::write(home.work.path().join("c.yaml"), text).unwrap();
    let ran = home.run(&["extension", "check", "c.yaml"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("error: extensions.bad.cmd: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("warning: extensions.old.type: "), "{}", ran.stdout);
    assert!(ran.stderr.contains("3 extensions, 1 error, 1 warning"), "{}", ran.stderr);
    let ran = home.run(&["extension", "check", "c.yaml", "--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &report["errors"], &report["warnings"]), (1, &json!(1), &json!(1)));
    let good =
        home.run_with_input(&["extension", "check", "-"], r#"{"a": {"enabled": true, "type": "builtin"}}"#);
    assert_eq!((good.code, good.stdout.as_str()), (0, ""), "{}", good.stderr);
    let broken = home.run_with_input(&["extension", "check", "-"], "a: [1\nb: 2\n");
    assert_eq!(broken.code, 1);
    assert!(broken.stdout.starts_with("error: line "), "{}", broken.stdout);
    let entries: Vec<_> = std::fs::read_dir(home.root.path()).unwrap().collect();
    assert!(entries.is_empty(), "{entries:?}");
}

#[test]
fn tools_of_a_server_that_is_not_configured() {
    let home = Home::new();
    let Some(command) = server(&home) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let list = home.json(&["tool", "list", "--cmd", &command, "--json"]);
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a_server__echo"]);
    let text = json!({"text": "once $HOME"}).to_string();
    assert_eq!(home.ok(&["tool", "call", "echo", &text, "--cmd", &command]), "heard once $HOME\n");
    let ran = home.run(&["tool", "call", "shell", "{}", "--cmd", &command]);
    assert_eq!(ran.code, 1, "the configured extensions are not there: {}", ran.stdout);
    assert_eq!(home.json(&["session", "list", "--json", "--all"]), json!([]));
}

#[test]
fn the_built_test_server_is_called() {
    let Some(server) = built_server() else {
        eprintln!("skipped: the example test_server of gander-mcp is not built");
        return;
    };
    let home = Home::new();
    let command = format!("'{}'", server.display());
    let list = home.ok(&["tool", "list", "--cmd", &command]);
    assert!(list.contains("test_server__echo"), "{list}");
}

#[test]
fn a_turn_with_extensions_of_its_own() {
    let home = Home::new();
    let Some(command) = server(&home) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let tools = |arguments: &[&str]| {
        let ran = home.run(&[&["run", "--json"], arguments].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let first: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
        let id = first["session_id"].as_str().unwrap().to_owned();
        let list = home.ok(&["extension", "list", "--session", &id]);
        let names: Vec<String> =
            list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
        (names, ran.stdout)
    };
    let call = "call a_server__echo {\"text\":\"marker-4711\"}";
    let (names, said) =
        tools(&["--no-profile", "--with-extension", &command, "--with-builtin", "todo", call]);
    assert_eq!(names, ["a_server", "todo"]);
    // The question has the marker too, but not what the server puts before it.
    assert!(said.contains("heard marker-4711"), "{said}");
    let (names, _) = tools(&["--with-extension", &command, "say hi"]);
    assert!(names.contains(&"developer".to_owned()) && names.contains(&"a_server".to_owned()), "{names:?}");
    assert_eq!(tools(&["--no-profile", "say hi"]).0, Vec::<String>::new());
}

#[test]
fn extensions_of_a_session_are_restarted_and_read() {
    let home = Home::new();
    let Some(command) = server(&home) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let daemon = home.serve(&["--no-tcp"]);
    daemon.line("listening on unix:");
    home.ok(&["run", "--no-profile", "--with-extension", &command, "say hi"]);
    let id = home.session();
    let restarted = home.run(&["extension", "restart", "a_server", "--session", &id]);
    assert_eq!(restarted.code, 0, "{}", restarted.stderr);
    assert!(restarted.stderr.contains("a_server is ready"), "{}", restarted.stderr);
    // What it wrote arrives on a pipe of its own, a moment later perhaps.
    let began = Instant::now();
    while home.ok(&["extension", "logs", "a_server", "--session", &id]) != "started-words\n" {
        assert!(began.elapsed() < DEADLINE, "no log in time");
    }
    home.ok(&["run", "--session", &id, "--with-builtin", "todo", "say more"]);
    assert!(home.ok(&["extension", "list", "--session", &id]).contains("todo "));
    assert_eq!(home.run(&["extension", "restart", "nope", "--session", &id]).code, 1);
}

#[test]
fn what_is_wrong_with_an_extension_is_told_before_the_answer() {
    let home = Home::new();
    let config = home.root.path().join("config");
    std::fs::create_dir_all(&config).unwrap();
    let entries = "extensions:
  todo: {enabled: true, type: builtin, name: todo, envs: {ld_preload: /x}}
  needy: {enabled: true, type: stdio, name: needy, cmd: srv, args: [], env_keys: [ABSENT_TOKEN]}
  old: {enabled: true, type: sse, name: old, uri: 'http://h.example/sse'}
";
    std::fs::write(config.join("config.yaml"), entries).unwrap();
    let ran = home.run(&["run", "--demo", "say hi"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let again = home.run(&["run", "--session", &home.session(), "say more"]);
    for (run, stderr) in [("a new session", &ran.stderr), ("the same session", &again.stderr)] {
        for part in [
            "extension todo: ld_preload may not be set",
            "needs the secret ABSENT_TOKEN; set it with `gander config set --secret ABSENT_TOKEN`",
            "migrate to",
        ] {
            assert!(stderr.contains(part), "{run}, {part}: {stderr}");
        }
    }
}

#[test]
fn a_recorded_run_is_played_back_without_its_servers() {
    let home = Home::new();
    let Some(command) = server(&home) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let tape = home.root.path().join("tape");
    let tape = tape.to_str().unwrap();
    let run = |option: &str| {
        let call = "call a_server__echo {\"text\":\"marker-4712\"}";
        home.run(&["run", "--demo", option, tape, "--no-profile", "--with-extension", &command, call])
    };
    let recorded = run("--record");
    assert!(recorded.code == 0 && recorded.stdout.contains("heard marker-4712"), "{}", recorded.stderr);
    std::fs::write(home.work.path().join("a server.py"), "raise SystemExit('not again')\n").unwrap();
    let played = run("--replay");
    assert_eq!(played.code, 0, "{}", played.stderr);
    assert!(played.stdout.contains("heard marker-4712"), "{}\n{}", played.stdout, played.stderr);
}
