use gander_domain::{
    ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport, ProtocolEra},
};
use serde_json::{Value, json};

use super::*;

/// Documents as Goose writes them, one or more of every type: reading and writing must not change them.
fn canonical_documents() -> Vec<Value> {
    vec![
        json!({"type": "builtin", "name": "developer", "description": "", "display_name": "Developer",
               "timeout": 300, "bundled": true, "available_tools": []}),
        json!({"type": "builtin", "name": "memory", "description": "Remembers", "display_name": null,
               "timeout": null, "bundled": null, "available_tools": ["remember", "forget"]}),
        json!({"type": "platform", "name": "todo", "description": "A list", "display_name": "Todo",
               "bundled": true, "available_tools": []}),
        json!({"type": "stdio", "name": "My Server (v2)", "description": "d", "cmd": "npx",
               "args": ["-y", "@scope/server", "/tmp/a b"], "envs": {"PORT": "8080", "EMPTY": ""},
               "env_keys": ["API_KEY"], "timeout": 20, "bundled": null, "available_tools": ["one"]}),
        json!({"type": "stdio", "name": "s", "description": "", "cmd": "server", "args": [], "envs": {},
               "env_keys": [], "timeout": 2, "timeout_ms": 1500, "bundled": null, "available_tools": [],
               "exec_prefix": ["docker", "exec", "-i", "box"], "protocol": "legacy"}),
        json!({"type": "streamable_http", "name": "web", "description": "", "uri": "https://x.example/mcp",
               "envs": {}, "env_keys": ["API_KEY"], "headers": {"Authorization": "Bearer $API_KEY"},
               "timeout": 300, "bundled": null, "available_tools": [], "protocol": "modern"}),
        json!({"type": "streamable_http", "name": "web", "description": "", "uri": "http://localhost/mcp",
               "envs": {}, "env_keys": [], "headers": {}, "timeout": null, "bundled": null,
               "available_tools": [], "unix_socket": "/run/mcp.sock"}),
        json!({"type": "streamable_http", "name": "web", "description": "", "uri": "http://localhost/mcp",
               "envs": {}, "env_keys": [], "headers": {}, "timeout": null, "bundled": null,
               "available_tools": [], "socket": "@egress"}),
        json!({"type": "inline_python", "name": "py", "description": "", "code": "print('x')\n", "timeout": 5,
               "dependencies": ["httpx"], "available_tools": []}),
        json!({"type": "inline_python", "name": "py", "description": "", "code": "pass", "timeout": null,
               "dependencies": null, "available_tools": []}),
        json!({"type": "frontend", "name": "ui", "description": "", "instructions": "Ask first.",
               "bundled": null, "available_tools": [], "tools": [
            {"name": "alert", "title": "Alert", "description": "Shows", "inputSchema": {"type": "object",
             "properties": {"text": {"type": "string"}}}, "outputSchema": {"type": "object"},
             "annotations": {"title": "T", "readOnlyHint": true, "openWorldHint": false},
             "icons": [{"src": "data:,"}], "_meta": {"ui": {"visibility": ["app"]}},
             "execution": {"taskSupport": "optional"}},
            {"name": "plain", "inputSchema": {"type": "object"}}]}),
        json!({"type": "frontend", "name": "none", "description": "", "instructions": null, "bundled": null,
               "available_tools": [], "tools": []}),
        json!({"type": "sse", "name": "old", "description": "", "uri": "https://x.example/sse"}),
        json!({"type": "sse", "name": "", "description": "", "uri": null}),
        // Fields of other types and of later versions, with values of every kind.
        json!({"type": "sse", "name": "old", "description": "", "uri": "https://x.example/sse", "timeout": 9,
               "envs": {"A": "b"}, "headers": {"K": "v"}}),
        json!({"type": "builtin", "name": "developer", "description": "", "display_name": null, "timeout": null,
               "bundled": null, "available_tools": [], "envs": {"A": "b"}, "cmd": "kept", "tools": [1],
               "later": {"deep": [1, -2.5, null, {"x": true}]}, "nothing": null}),
        // A type of another version: everything is kept as it is, even what would be wrong elsewhere.
        json!({"type": "quantum", "name": "q", "description": "d", "envs": {"A": "b"}, "timeout": 7}),
        json!({"type": "quantum", "name": 7, "description": null, "envs": {}, "bundled": false, "timeout": "5s",
               "timeout_ms": 1, "args": "x", "headers": {"A": 1}, "protocol": "warp", "exec_prefix": []}),
        json!({"type": "quantum", "timeout": 2, "timeout_ms": 1500}),
        json!({"type": "quantum"}),
    ]
}

#[allow(clippy::needless_pass_by_value, reason = "lets tests write read(json!(..))")]
fn read(value: Value) -> ExtensionConfig {
    from_value(&value).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn error(value: &Value) -> FormatError {
    from_value(value).expect_err("must not be readable")
}

fn stdio(command: &str, args: &[&str]) -> ExtensionConfig {
    read(json!({"type": "stdio", "name": "s", "cmd": command, "args": args}))
}

fn fields(config: &ExtensionConfig) -> Vec<String> {
    validate(config).into_iter().map(|violation| violation.field).collect()
}

#[test]
fn canonical_documents_survive_reading_and_writing() {
    for document in canonical_documents() {
        let config = read(document.clone());
        assert_eq!(to_value(&config), document);
        assert_eq!(from_value(&to_value(&config)), Ok(config));
    }
}

/// Every document with every single field taken away, nulled, or replaced by every JSON type: whatever can be read
/// has a stable written form, and whatever cannot names a field.
#[test]
fn mutated_documents_are_stable_or_name_a_field() {
    let values =
        [json!(null), json!(true), json!(12), json!("text"), json!(["a", 1]), json!({"A": "b", "C": 2})];
    let (mut readable, mut refused) = (0, 0);
    for document in canonical_documents() {
        for field in document.as_object().unwrap().keys() {
            for value in values.iter().map(Some).chain([None]) {
                let mut mutant = document.clone();
                match value {
                    Some(value) => mutant[field] = value.clone(),
                    None => drop(mutant.as_object_mut().unwrap().remove(field)),
                }
                match from_value(&mutant) {
                    Ok(config) => {
                        readable += 1;
                        let written = to_value(&config);
                        let again = read(written.clone());
                        assert_eq!(again, config, "{mutant}");
                        assert_eq!(to_value(&again), written, "{mutant}");
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!error.field.is_empty() && !error.message.is_empty());
                        assert!(!error.to_string().contains("text"), "quotes a value: {error}");
                    }
                }
            }
        }
    }
    assert!(readable > 300 && refused > 200, "{readable} readable, {refused} refused");
}

#[test]
fn fields_arrive_where_they_belong() {
    let config =
        read(json!({"type": "stdio", "name": "s", "description": null, "cmd": "npx", "args": ["-y", "p"],
        "envs": {"A": "b"}, "env_keys": ["K"], "timeout": 20, "bundled": true, "available_tools": ["t"],
        "exec_prefix": ["docker", "exec"], "protocol": "modern", "enabled": true, "later": 1, "earlier": 2}));
    assert_eq!(
        config,
        ExtensionConfig {
            name: "s".into(),
            transport: ExtensionTransport::Stdio {
                command: "npx".into(),
                args: vec!["-y".into(), "p".into()]
            },
            description: String::new(),
            display_name: None,
            bundled: true,
            timeout_ms: Some(20_000),
            tool_allowlist: vec!["t".into()],
            env: [("A".to_owned(), "b".to_owned())].into(),
            env_keys: vec!["K".into()],
            exec_prefix: vec!["docker".into(), "exec".into()],
            protocol: ProtocolEra::Modern,
            sampling: gander_domain::extension::SamplingPolicy::Off,
            sandbox: None,
            pin_definitions: false,
            unknown_json: Some(r#"{"earlier":2,"later":1}"#.into()),
        }
    );
    let python = read(json!({"type": "inline_python", "name": "p", "code": "x", "timeout": 3.0}));
    assert_eq!(python.timeout_ms, Some(3_000));
    let unknown = read(json!({"type": "quantum", "name": "q", "qubits": 3}));
    assert_eq!(unknown.transport, ExtensionTransport::Unknown { kind: "quantum".into() });
    assert_eq!(unknown.name, "q");
    assert_eq!(unknown.unknown_json.as_deref(), Some(r#"{"qubits":3}"#));
}

#[test]
fn client_tools_become_definitions() {
    let config = read(canonical_documents().swap_remove(10));
    let ExtensionTransport::Client { tools, instructions } = &config.transport else { panic!("{config:?}") };
    assert_eq!(instructions.as_deref(), Some("Ask first."));
    let alert = &tools[0];
    assert_eq!((alert.name.as_str(), alert.tool_name.as_str()), ("ui__alert", "alert"));
    assert_eq!((alert.annotations.read_only, alert.annotations.open_world), (Some(true), Some(false)));
    assert!(alert.visibility.app && !alert.visibility.model);
    assert_eq!(tools[1].output_schema_json, None);
    assert!(tools[1].visibility.app && tools[1].visibility.model);
}

#[test]
fn a_timeout_edited_by_goose_wins_over_the_finer_one() {
    let timeout = |value: Value| read(value).timeout_ms;
    let base = |seconds: u64| json!({"type": "builtin", "name": "b", "timeout": seconds, "timeout_ms": 1500});
    assert_eq!(timeout(base(2)), Some(1_500));
    assert_eq!(timeout(base(60)), Some(60_000));
    assert_eq!(error(&json!({"type": "builtin", "name": "b", "timeout": u64::MAX})).field, "timeout");
    let mut largest = read(base(2));
    largest.timeout_ms = Some(u64::MAX);
    assert_eq!(read(to_value(&largest)), largest);
}

#[test]
fn errors_name_field_finding_and_remedy() {
    for (document, field, part) in [
        (
            json!({"type": "streamable_http", "name": "n", "url": "https://x"}),
            "uri",
            "found `url`; use `uri`",
        ),
        (json!({"type": "stdio", "name": "n", "command": "x"}), "cmd", "found `command`; use `cmd`"),
        (json!({"type": "stdio", "name": "n"}), "cmd", "missing; add `cmd`"),
        (
            json!({"type": "stdio", "name": "n", "cmd": "x", "args": "-y"}),
            "args",
            "found a string, expected a list",
        ),
        (json!({"type": "stdio", "name": "n", "cmd": "x", "args": ["a", 1]}), "args[1]", "found a number"),
        (
            json!({"type": "stdio", "name": "n", "cmd": "x", "envs": {"P": 1}}),
            "envs.P",
            "put the value in quotes",
        ),
        (json!({"type": "stdio", "cmd": "x"}), "name", "missing"),
        (json!({"type": "stdio", "name": null, "cmd": "x"}), "name", "missing"),
        (json!({"type": "builtin", "name": "n", "timeout": "5m"}), "timeout", "whole number of seconds"),
        (json!({"type": "builtin", "name": "n", "timeout": -1}), "timeout", "whole number of seconds"),
        (json!({"type": "builtin", "name": "n", "timeout": 1.5}), "timeout", "whole number of seconds"),
        (json!({"type": "builtin", "name": "n", "protocol": "x"}), "protocol", "auto, legacy or modern"),
        (json!({"type": "inline_python", "name": "n"}), "code", "missing"),
        (json!({"type": "frontend", "name": "n"}), "tools", "missing"),
        (json!({"type": "frontend", "name": "n", "tools": [1]}), "tools[0]", "found a number"),
        (
            json!({"type": "frontend", "name": "n", "tools": [{"name": "t"}]}),
            "tools[0].inputSchema",
            "missing",
        ),
        (
            json!({"type": "frontend", "name": "n", "tools": [{"name": "t", "inputSchema": {}},
                                                           {"name": "t", "inputSchema": {}}]}),
            "tools[1].name",
            "rename",
        ),
        (
            json!({"type": "streamable_http", "name": "n", "uri": "http://x", "socket": "/a", "unix_socket": "/b"}),
            "unix_socket",
            "keep one",
        ),
        (json!({"name": "n", "cmd": "x"}), "type", "probably `type: stdio`"),
        (json!({"name": "n", "url": "x"}), "type", "probably `type: streamable_http`"),
        (json!({"name": "n"}), "type", "one of builtin"),
        (json!({"name": "n", "type": 3}), "type", "found a number"),
        (json!("stdio"), "extension", "found a string"),
    ] {
        let error = error(&document);
        assert_eq!(error.field, field, "{document}");
        assert!(error.message.contains(part), "{error}");
        assert_eq!(error.reason, ErrorReason::ExtensionConfigInvalid);
    }
}

#[test]
fn one_bad_entry_hides_no_other() {
    let map = json!({
        "good": {"enabled": true, "type": "builtin"},
        "off": {"enabled": false, "type": "stdio", "name": "Named", "cmd": "x"},
        "no_flag": {"type": "builtin", "name": "n"},
        "quoted": {"enabled": "true", "type": "builtin", "name": "n"},
        "broken": {"enabled": true, "type": "stdio"},
        "text": "x",
        "later": {"enabled": true, "type": "quantum", "z": 1},
    });
    let (mut good, mut bad) = entries(&map);
    good.sort_by(|a, b| a.key.cmp(&b.key));
    bad.sort_by(|a, b| a.0.cmp(&b.0));
    let seen: Vec<_> = good.iter().map(|e| (e.key.as_str(), e.enabled, e.config.name.as_str())).collect();
    assert_eq!(seen, [("good", true, "good"), ("later", true, "later"), ("off", false, "Named")]);
    let failed: Vec<_> = bad.iter().map(|(key, error)| (key.as_str(), error.field.as_str())).collect();
    assert_eq!(
        failed,
        [("broken", "cmd"), ("no_flag", "enabled"), ("quoted", "enabled"), ("text", "extension")]
    );
    for entry in good {
        assert_eq!(entry_from_value(&entry.key, &entry_to_value(&entry)), Ok(entry));
    }
    assert_eq!(entries(&Value::Null), (vec![], vec![]));
    assert_eq!(entries(&json!([])).1[0].0, "extensions");
}

#[test]
fn disallowed_variables_are_found_in_any_case() {
    assert_eq!(DISALLOWED_ENV_KEYS.len(), 31);
    for key in DISALLOWED_ENV_KEYS {
        for spelling in [(*key).to_owned(), key.to_lowercase(), key.to_uppercase()] {
            assert!(is_disallowed_env_key(&spelling), "{spelling}");
        }
    }
    for key in ["", "PATHS", "MY_PATH", "API_KEY", "HOME", "LD"] {
        assert!(!is_disallowed_env_key(key), "{key}");
    }
    let mut config = read(json!({"type": "stdio", "name": "s", "cmd": "x",
        "envs": {"Path": "/evil", "OK": "1"}, "env_keys": ["ld_preload", "API_KEY", "Path"]}));
    assert_eq!(disallowed_env_keys(&config), ["Path", "ld_preload"]);
    assert_eq!(warnings(&config).len(), 2);
    assert_eq!(drop_disallowed_env(&mut config), ["Path", "ld_preload"]);
    assert_eq!(config.env.keys().collect::<Vec<_>>(), ["OK"]);
    assert_eq!(config.env_keys, ["API_KEY"]);
    assert!(warnings(&config).is_empty());
}

#[test]
fn redaction_withholds_every_value_and_can_be_undone() {
    let stored = read(json!({"type": "streamable_http", "name": "w", "uri": "https://x.example/",
        "envs": {"A": "hush1"}, "headers": {"Authorization": "hush2", "X": "hush3"},
        "proxy": {"password": "hush4", "pin": 98765, "on": true, "list": ["hush5"]}}));
    let shown = redacted(&stored);
    let text = to_value(&shown).to_string();
    assert!(!text.contains("hush") && !text.contains("98765"), "{text}");
    assert!(text.contains("Authorization") && text.contains("password") && text.contains("true"), "{text}");
    assert_eq!(redacted(&shown), shown);
    assert_eq!(restore_withheld(shown.clone(), &stored), stored);

    let mut edited = shown.clone();
    edited.env.insert("A".into(), "new".into());
    edited.env.insert("B".into(), String::new());
    edited.description = "changed".into();
    let restored = restore_withheld(edited, &stored);
    assert_eq!(restored.env["A"], "new");
    assert_eq!(restored.env["B"], "");
    assert_eq!(restored.description, "changed");
    assert_eq!(to_value(&restored)["headers"]["X"], "hush3");

    let mut moved = shown;
    if let ExtensionTransport::StreamableHttp { uri, .. } = &mut moved.transport {
        *uri = "https://elsewhere.example/".into();
    }
    let moved = to_value(&restore_withheld(moved, &stored)).to_string();
    assert!(!moved.contains("hush"), "{moved}");
}

#[test]
fn hashes_depend_on_values_and_not_on_order() {
    let parse = |text: &str| read(serde_json::from_str(text).unwrap());
    let one = parse(r#"{"type":"stdio","name":"s","cmd":"x","envs":{"A":"1","B":"2"},"new":{"a":1,"b":2}}"#);
    let two = parse(
        r#"{"new":{"b":2,"a":1},"envs":{"B":"2","A":"1"},"cmd":"x","name":"s","type":"stdio","args":[]}"#,
    );
    assert_eq!(config_hash(&one), config_hash(&two));
    let three =
        parse(r#"{"type":"stdio","name":"s","cmd":"x","envs":{"A":"1","B":"3"},"new":{"a":1,"b":2}}"#);
    assert_ne!(config_hash(&one), config_hash(&three));
    assert_ne!(config_hash(&one), config_hash(&redacted(&one)));
    // Fixed, since logs keep it: printf '{"description":"","name":"","type":"sse","uri":null}' | sha256sum
    let sse = read(json!({"type": "sse"}));
    assert_eq!(config_hash(&sse), "4418f961d858db3d596d499027ac683ce234f41c5170ba66710161c230247cb6");
}

#[test]
fn valid_configurations_have_no_violations() {
    for document in canonical_documents() {
        let config = read(document);
        if !config.name.is_empty() {
            assert_eq!(validate(&config), [], "{config:?}");
        }
    }
    for command in ["npx", "/opt/My Tools/server", "C:\\Program Files (x86)\\x.exe", "./a b/c"] {
        assert_eq!(validate(&stdio(command, &[])), [], "{command}");
    }
}

#[test]
fn violations_name_the_field() {
    let http = |uri: &str| read(json!({"type": "streamable_http", "name": "w", "uri": uri}));
    for uri in
        ["", "x", "ftp://x/", "file:///etc/passwd", "https://", "http://a b/", "https://x/\n", "//x/mcp"]
    {
        assert_eq!(fields(&http(uri)), ["uri"], "{uri}");
    }
    for uri in ["http://127.0.0.1:1/mcp", "HTTPS://x.example", "https://bücher.example/", "http://[::1]:8/"]
    {
        assert_eq!(validate(&http(uri)), [], "{uri}");
    }
    for command in
        ["", "  ", "npx -y pkg", "node /srv/x.js", "/bin/echo x; touch P", "/bin/a | b", "x\ny", "x "]
    {
        assert_eq!(fields(&stdio(command, &[])), ["cmd"], "{command}");
    }
    assert_eq!(fields(&stdio("x", &["a", "b\0"])), ["args[1]"]);

    let mut config = stdio("x", &[]);
    for (millis, valid) in [(0, false), (999, false), (1_000, true), (3_600_000, true), (3_600_001, false)] {
        config.timeout_ms = Some(millis);
        assert_eq!(validate(&config).is_empty(), valid, "{millis}");
    }
    config.timeout_ms = None;
    for (name, valid) in
        [("ü".repeat(128), true), ("x".repeat(129), false), (" ".into(), false), ("a\nb".into(), false)]
    {
        config.name = name;
        assert_eq!(validate(&config).is_empty(), valid, "{}", config.name);
    }
    let many = read(json!({"type": "streamable_http", "name": "w", "uri": "http://x", "envs": {"A=B": "c"},
        "env_keys": [""], "available_tools": [""], "exec_prefix": [""], "unix_socket": "relative",
        "headers": {"Bad Name": "v", "X": "a\r\nb"}}));
    assert_eq!(
        fields(&many),
        [
            "available_tools[0]",
            "envs.A=B",
            "env_keys[0]",
            "exec_prefix[0]",
            "headers.Bad Name",
            "headers.X",
            "unix_socket"
        ]
    );
    let python =
        read(json!({"type": "inline_python", "name": "p", "code": " ", "dependencies": ["a", "--index"]}));
    assert_eq!(fields(&python), ["code", "dependencies[1]"]);
    let mut broken = stdio("x", &[]);
    broken.unknown_json = Some("[1]".into());
    assert_eq!(fields(&broken), ["unknown_json"]);
}

#[test]
fn commands_that_hand_text_to_a_shell_are_refused() {
    let refused: &[(&str, &[&str])] = &[
        ("sh", &["-c", "x"]),
        ("/bin/bash", &["-lc", "x"]),
        ("bash", &["--norc", "-c", "x"]),
        ("zsh", &["-o", "-c", "x"]),
        ("busybox", &["sh", "-c", "x"]),
        ("env", &["A=1", "sh", "-c", "x"]),
        ("/usr/bin/env", &["-u", "A", "env", "bash", "-c", "x"]),
        ("env", &["-S", "sh -c x"]),
        ("cmd.exe", &["/C", "x"]),
        ("C:\\Windows\\System32\\CMD.EXE", &["/d", "/c", "x"]),
        ("powershell", &["-NoProfile", "-Command", "x"]),
        ("pwsh", &["-enc", "x"]),
        ("npx", &["-c", "x"]),
        ("npx.cmd", &["-y", "-p", "pkg", "-c", "x"]),
        ("npx", &["--registry", "http://x", "--call", "x"]),
        ("npx", &["--call=x"]),
        ("npm", &["exec", "-c", "x"]),
    ];
    for (command, args) in refused {
        let config = stdio(command, args);
        assert_eq!(fields(&config), ["cmd"], "{command} {args:?}");
        assert!(command_violation(&config).is_some());
    }
    let allowed: &[(&str, &[&str])] = &[
        ("npx", &["-y", "@scope/server", "-c", "config.json"]),
        ("npx", &["-y", "pkg@1.2.3"]),
        ("npm", &["run", "-c"]),
        ("bash", &["server.sh", "-c", "x"]),
        ("bash", &["--noprofile", "server.sh"]),
        ("python3", &["-c", "x"]),
        ("env", &["A=1", "server", "-c", "x"]),
        ("pwsh", &["-File", "x.ps1"]),
        ("cmdline", &["/c"]),
    ];
    for (command, args) in allowed {
        assert_eq!(command_violation(&stdio(command, args)), None, "{command} {args:?}");
    }
    let mut config = stdio("server", &[]);
    config.exec_prefix = ["docker", "exec", "-i", "box", "sh", "-c"].map(String::from).to_vec();
    assert_eq!(fields(&config), ["exec_prefix[4]"]);
    config.exec_prefix.truncate(4);
    assert_eq!(validate(&config), []);
}

#[test]
fn warnings_point_at_fields_without_effect() {
    let config = read(json!({"type": "stdio", "name": "s", "cmd": "x", "env": {"A": "b"}, "note": 1}));
    let found = warnings(&config);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].field.as_str(), found[0].description.as_str()),
        ("env", "has no effect; use `envs`")
    );
    let sse = read(json!({"type": "sse", "uri": "https://x"}));
    assert_eq!(warnings(&sse)[0].description, "SSE is unsupported, migrate to streamable_http");
    assert_eq!(warnings(&read(json!({"type": "quantum", "env": 1}))).len(), 1);
}

#[test]
fn sampling_sandbox_and_pins_round_trip() {
    let value = serde_json::json!({
        "type": "builtin", "name": "developer", "description": "",
        "sampling": "ask", "pin_definitions": true,
        "sandbox": {"mode": "read_only", "writable_paths": ["/tmp/x"], "readable_paths": ["/srv"], "network": true},
    });
    let config = from_value(&value).unwrap();
    assert_eq!(config.sandbox.as_ref().map(|s| s.readable_paths.clone()), Some(vec!["/srv".to_owned()]));
    assert_eq!(config.sandbox.as_ref().map(|s| s.network), Some(true));
    assert_eq!(from_value(&to_value(&config)).unwrap(), config);
    for (field, bad) in [
        ("sampling", serde_json::json!("sometimes")),
        ("sandbox", serde_json::json!({"mode": "none"})),
        ("sandbox", serde_json::json!({"writeable_paths": ["/x"]})),
        ("sandbox", serde_json::json!({"writable_paths": ["relative"]})),
        ("sandbox", serde_json::json!({"readable_paths": ["relative"]})),
    ] {
        let mut value = value.clone();
        value[field] = bad.clone();
        let error = from_value(&value).unwrap_err();
        assert!(error.to_string().contains(field), "{bad}: {error}");
    }
}
