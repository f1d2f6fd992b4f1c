//! Commands without a daemon: the engine is in the program itself.

use std::io::Read as _;

use serde_json::Value;

use crate::support::{Home, read_until, signal, wait};

#[test]
fn the_first_command_of_a_newcomer() {
    let home = Home::new();
    let ran = home.run(&["run", "list the files here"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("[demo model]"), "{}", ran.stdout);
    assert!(ran.stdout.contains("hello.txt"), "{}", ran.stdout);
    // Everything but the answer is on stderr, without colours.
    assert!(ran.stderr.starts_with("session "), "{}", ran.stderr);
    assert!(ran.stderr.contains("no model is configured"), "{}", ran.stderr);
    assert!(ran.stderr.contains("● ") && ran.stderr.contains("  ✓ "), "{}", ran.stderr);
    assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'));
    let quiet = home.run(&["run", "--quiet", "say hi"]);
    assert_eq!((quiet.stderr.as_str(), quiet.stdout.contains("hi")), ("", true));
    let colored = home.run(&["run", "--color", "always", "list files"]);
    assert!(colored.stderr.contains("\x1b[32m✓"), "{}", colored.stderr);
}

#[test]
fn exit_codes_and_errors() {
    let home = Home::new();
    for (arguments, code, says) in [
        (&["run", "fail auth"][..], 1, "reason: PROVIDER_UNAUTHENTICATED"),
        (&["run", "--max-model-calls", "1", "list files"], 5, "limit of model calls"),
        (&["run", "--model", "gpt-5", "x"], 2, "PROVIDER/MODEL"),
        (&["run", "--model", "nobody/x", "x"], 1, "nobody"),
        (&["run", "--session", "nope", "x"], 1, "reason: SESSION_NOT_FOUND"),
        (&["run", "--cwd", "missing", "x"], 1, "reason: WORKING_DIRECTORY_INVALID"),
        (&["run", "  "], 2, "the prompt is empty"),
        (&["run"], 2, "the prompt is empty"),
        (&["session", "show", "nope"], 1, "`gander session list`"),
        (&["session", "export", "nope", "-o", "made.jsonl"], 1, "SESSION_NOT_FOUND"),
        (&["session", "import", "nope.jsonl"], 1, "cannot read"),
        (&["session", "import", "hello.txt"], 1, "IMPORT_INVALID"),
        (&["tool", "call", "nope"], 1, "`gander tool list`"),
        (&["tool", "call", "shell", "not json"], 2, "not a JSON object"),
        (&["provider", "models", "nope"], 1, "PROVIDER_NOT_FOUND"),
        (&["mcp", "nope"], 2, "there is: developer"),
        (&["status"], 1, "no daemon runs"),
        (&["stop"], 0, "no daemon runs"),
        (&["--server", "nonsense", "status"], 2, "is not an address"),
        (&["--server", "unix:/nonexistent/x.sock", "status"], 1, "cannot reach unix:/nonexistent/x.sock"),
        (&["serve", "--listen", "here"], 2, "--listen"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(says), "{arguments:?}: {says:?} in\n{}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    assert!(!home.work.path().join("made.jsonl").exists());
}

#[test]
fn prompts_from_stdin_and_going_on() {
    let home = Home::new();
    let ran = home.run_with_input(&["run", "-"], "say from a pipe\n");
    assert!(ran.stdout.contains("from a pipe"), "{}\n{}", ran.stdout, ran.stderr);
    let id = home.session();
    home.ok(&["run", "--session", &id, "say", "more", "words"]);
    let show = home.ok(&["session", "show", &id]);
    assert!(show.contains("› say from a pipe") && show.contains("› say more words"), "{show}");
    assert_eq!(home.session(), id);
    // Without a prompt the turn continues; it adds no message of the person's.
    let before = home.json(&["session", "show", &id, "--json"])["items"].as_array().unwrap().len();
    let ran = home.run(&["run", "--session", &id]);
    assert!(ran.code == 0 || ran.stderr.contains("reason: "), "{}", ran.stderr);
    let after = home.json(&["session", "show", &id, "--json"]);
    let users = |value: &Value| {
        value["items"].as_array().unwrap().iter().filter(|item| item.get("user_message").is_some()).count()
    };
    assert_eq!(users(&after), 2);
    assert!(after["items"].as_array().unwrap().len() >= before);
}

#[test]
fn json_is_one_event_per_line() {
    let home = Home::new();
    let ran = home.run(&["run", "--json", "list files"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stderr, "");
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences: Vec<i64> =
        events.iter().map(|event| event["sequence"].as_str().unwrap().parse().unwrap()).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    assert_eq!(events.last().unwrap()["turn_ended"]["turn"]["state"], "TURN_STATE_COMPLETED");
    // The log tells the same story.
    let id = events[0]["session_id"].as_str().unwrap();
    let log = home.ok(&["session", "events", id, "--json"]);
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| log.contains(event)));
    assert_eq!(log[0]["sequence"], "1");
    assert!(log[0].get("session_created").is_some());
    let rest = home.ok(&["session", "events", id, "--json", "--after", "3"]);
    assert_eq!(rest.lines().count(), log.len() - 3);
    let text = home.ok(&["session", "events", id, "--no-deltas"]);
    assert!(text.contains("turn_ended") && !text.contains("text_delta"), "{text}");
    let failed = home.run(&["run", "--json", "fail"]);
    assert_eq!(failed.code, 1);
    assert!(failed.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn without_a_terminal_questions_are_answered_with_no() {
    let home = Home::new();
    let ran = home.run(&["run", "--mode", "approve", "call shell {\"command\":\"touch made\"}"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("answered with no: there is nobody to ask"), "{}", ran.stderr);
    assert!(ran.stderr.contains("touch made"), "{}", ran.stderr);
    assert!(ran.stderr.contains("✗ declined"), "{}", ran.stderr);
    assert!(!home.work.path().join("made").exists());
    let ran = home.run(&["run", "--mode", "auto", "call shell {\"command\":\"touch made\"}"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(home.work.path().join("made").exists());
}

#[test]
fn a_change_is_shown_as_a_diff() {
    let home = Home::new();
    let call = "call edit {\"path\":\"hello.txt\",\"old_text\":\"hello\",\"new_text\":\"bye\"}";
    let ran = home.run(&["run", call]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("hello.txt +1 -1\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("  -hello\n  +bye\n"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(home.work.path().join("hello.txt")).unwrap(), "bye\n");
}

#[test]
fn one_interrupt_cancels_and_keeps_what_was_said() {
    let home = Home::new();
    let mut child = home.command(&["run", "slow 5000"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "tok-1 ");
    signal(&child, "INT");
    let drain = std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = stdout.read_to_string(&mut rest);
    });
    child.stdout = None;
    let status = wait(&mut child);
    drain.join().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("cancelling the turn") && stderr.contains("cancelled; what was done"),
        "{stderr}"
    );
    let id = home.session();
    assert!(home.ok(&["session", "show", &id]).contains("tok-1"));
    assert!(home.ok(&["doctor"]).contains("everything is in order"));
}

#[test]
fn sessions_are_managed() {
    let home = Home::new();
    home.ok(&["run", "--title", "First", "say marker-7719"]);
    let id = home.session();
    assert!(home.ok(&["session", "list"]).contains("First"));
    home.ok(&["session", "rename", &id, "Second"]);
    assert!(home.ok(&["session", "list"]).contains("Second"));

    let copy = home.ok(&["session", "fork", &id, "--title", "Copy"]).trim().to_owned();
    assert_ne!(copy, id);
    assert!(home.ok(&["session", "show", &copy]).contains("marker-7719"));

    home.ok(&["session", "export", &id, "-o", "export.jsonl"]);
    let exported = std::fs::read(home.work.path().join("export.jsonl")).unwrap();
    assert_eq!(home.ok(&["session", "export", &id]).into_bytes(), exported);
    let again = home.run(&["session", "export", &id, "-o", "export.jsonl"]);
    assert_eq!(again.code, 1, "an existing file is not overwritten");

    let imported = home.ok(&["session", "import", "export.jsonl"]).trim().to_owned();
    assert!(imported != id && imported != copy);
    assert!(home.ok(&["session", "show", &imported]).contains("marker-7719"));

    home.ok(&["session", "delete", &id, &copy, &imported]);
    assert_eq!(home.json(&["session", "list", "--json", "--all"]), Value::Array(Vec::new()));
    assert_eq!(home.run(&["session", "delete", &id]).code, 1);
    let other = Home::new();
    std::fs::write(other.work.path().join("in"), &exported).unwrap();
    assert_eq!(other.ok(&["session", "import", "--keep-id", "in"]).trim(), id);
}

#[test]
fn tools_without_a_model() {
    let home = Home::new();
    assert!(home.ok(&["tool", "list"]).contains("developer__shell"));
    let tools = home.json(&["tool", "list", "--json"]);
    assert!(tools.as_array().unwrap().iter().all(|tool| tool["input_schema_json"].is_string()));
    let ran = home.run(&["tool", "call", "shell", "{\"command\":\"echo out; pwd\"}"]);
    let work = home.work.path().canonicalize().unwrap();
    assert_eq!(ran.stdout, format!("out\n{}\n", work.display()), "{}", ran.stderr);
    let ran = home.run_with_input(&["tool", "call", "developer__read", "-"], "{\"path\":\"hello.txt\"}");
    assert!(ran.stdout.contains("hello"), "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(home.run(&["tool", "call", "shell", "{\"command\":\"exit 3\"}"]).code, 1);
    let lines = home.ok(&["tool", "call", "shell", "{\"command\":\"echo hi\"}", "--json"]);
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["result"]["outcome"], "TOOL_OUTCOME_OK");
    // The temporary sessions are gone.
    assert_eq!(home.json(&["session", "list", "--json", "--all"]), Value::Array(Vec::new()));
}

#[test]
fn configuration_and_secrets() {
    let home = Home::new();
    assert_eq!(home.ok(&["config", "get", "GOOSE_MODE"]), "auto\n");
    assert_eq!(home.run(&["config", "get", "GOOSE_MODEL"]).code, 1);
    home.ok(&["config", "set", "GOOSE_PROVIDER", "demo"]);
    home.ok(&["config", "set", "GOOSE_MAX_TURNS", "7"]);
    assert_eq!(home.ok(&["config", "get", "GOOSE_MAX_TURNS"]), "7\n");
    let show = home.ok(&["config", "show", "--origin"]);
    let row = |key: &str| {
        let line =
            show.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {show}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("GOOSE_PROVIDER "), ["GOOSE_PROVIDER", "user", "demo"]);
    assert_eq!(row("GOOSE_MODE "), ["GOOSE_MODE", "builtin", "auto"]);
    home.ok(&["config", "unset", "GOOSE_MAX_TURNS"]);
    assert_eq!(home.ok(&["config", "get", "GOOSE_MAX_TURNS"]), "1000\n");

    let secret = "sk-0123456789abcdef";
    let ran = home.run_with_input(&["config", "set", "--secret", "OPENAI_API_KEY"], &format!("{secret}\n"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let status = home.ok(&["config", "get", "OPENAI_API_KEY"]);
    assert!(status.contains("ends with cdef"), "{status}");
    let all = home.ok(&["config", "show", "--json"]) + &home.ok(&["config", "show"]) + &status;
    assert!(!all.contains(secret));
    let yaml = std::fs::read_to_string(home.root.path().join("config/config.yaml")).unwrap();
    assert!(yaml.contains("GOOSE_PROVIDER") && !yaml.contains(secret), "{yaml}");
    // A key of a provider never lands among the plain values by mistake.
    let ran = home.run(&["config", "set", "GROQ_API_KEY", "gsk-0123456789"]);
    assert!(ran.stderr.contains("stored with the secrets"), "{}", ran.stderr);
    home.ok(&["config", "unset", "GROQ_API_KEY"]);
    assert_eq!(home.run(&["config", "get", "GROQ_API_KEY"]).code, 1);
    assert_eq!(home.run_with_input(&["config", "set", "--secret", "X_TOKEN"], "\n").code, 2);

    let ran = home.run(&["run", "say hi"]);
    assert!(ran.stderr.contains("demo/demo-1 ("), "{}", ran.stderr);
}

#[test]
fn providers() {
    let home = Home::new();
    let list = home.ok(&["provider", "list"]);
    assert!(list.lines().any(|line| line.starts_with("demo ") && line.contains("yes")), "{list}");
    assert!(list.contains("needs OPENAI_API_KEY"), "{list}");
    assert!(home.ok(&["provider", "models", "demo"]).contains("demo-1"));
    assert_eq!(home.ok(&["provider", "check", "demo"]), "demo works\n");
    assert_eq!(home.run(&["provider", "check", "openai"]).code, 1);
}

#[test]
fn builtin_servers_speak_mcp() {
    let home = Home::new();
    let requests = [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"shell","arguments":{"command":"echo from-mcp"}}}"#,
        "",
    ];
    let ran = home.run_with_input(&["mcp", "developer"], &requests.join("\n"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("from-mcp"), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn help_and_completions() {
    let home = Home::new();
    assert!(home.ok(&["--help"]).contains("gander run"));
    assert!(home.ok(&["--version"]).starts_with("gander "));
    assert!(home.ok(&["help", "run"]).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&["completions", shell]).contains("session"), "{shell}");
    }
    // None of that makes files.
    let entries: Vec<_> = std::fs::read_dir(home.root.path()).unwrap().collect();
    assert!(entries.is_empty(), "{entries:?}");
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_told_and_put_right() {
    let home = Home::new();
    for (key, value, told) in [
        ("GOOSE_MODE", "wrong", "it must be auto, approve, smart_approve or chat"),
        ("gander.linger", "abc", "a number of seconds such as 90s, or schedules or always"),
        ("GOOSE_MAX_TURNS", "-3", "a whole number from 1"),
        ("gander.lingr", "60s", "did you mean gander.linger?"),
    ] {
        let ran = home.run(&["config", "set", key, value]);
        assert_eq!(ran.code, 1, "{key}");
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
    // In the file it may stand all the same: everything goes on, and `doctor` names it.
    std::fs::create_dir_all(home.root.path().join("config")).unwrap();
    let file = home.root.path().join("config/config.yaml");
    std::fs::write(&file, "GOOSE_MODE: wrong\ngander.linger: abc\n").unwrap();
    let doctor = home.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.stdout.contains("GOOSE_MODE is \"wrong\", which is ignored"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("gander.linger is \"abc\""), "{}", doctor.stdout);
    assert!(home.ok(&["run", "say fine"]).contains("fine"));
    home.ok(&["config", "set", "GOOSE_MODE", "auto"]);
    home.ok(&["config", "unset", "gander.linger"]);
    assert!(home.ok(&["doctor"]).contains("everything is in order"));
}

#[test]
fn the_last_extension_can_be_removed() {
    let home = Home::new();
    assert!(
        home.ok(&["extension", "list"]).contains("developer"),
        "without a word on extensions it is there"
    );
    home.ok(&["extension", "remove", "developer"]);
    assert!(!home.ok(&["extension", "list"]).contains("developer"));
    let refused = home.run(&["tool", "call", "shell", "{\"command\": \"true\"}"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
}
