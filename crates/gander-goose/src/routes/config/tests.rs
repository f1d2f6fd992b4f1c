use axum::http::Method;
use gander_formats::goose_session::extension;
use gander_proto::v1::{self as pb, ErrorReason};
use serde_json::{Value, json};
use tonic::Code;

use crate::testing::Daemon;

fn value(key: &str, value: &Value) -> pb::ConfigValue {
    pb::ConfigValue { key: key.to_owned(), value_json: value.to_string(), origin: 3 }
}

fn configured(config: &Value, enabled: bool) -> pb::ConfiguredExtension {
    let config = extension::to_proto(config).unwrap();
    let config_key = config.name.to_lowercase().replace(' ', "");
    pb::ConfiguredExtension { config: Some(config), enabled, config_key, warnings: Vec::new() }
}

fn developer() -> Value {
    json!({"type": "builtin", "name": "developer", "description": "", "display_name": "Developer", "timeout": 300,
        "bundled": true, "available_tools": []})
}

fn with_enabled(config: &Value, enabled: bool) -> Value {
    let mut config = config.clone();
    config["enabled"] = enabled.into();
    config
}

#[tokio::test]
async fn config_is_all_values_and_the_extensions() {
    let values = vec![value("GOOSE_MODE", &json!("auto")), value("x", &json!({"deep": [1, 2.5, null]}))];
    let extensions = vec![configured(&developer(), true)];
    let daemon = Daemon::new()
        .on("ConfigService/ListConfigValues", &pb::ListConfigValuesResponse { values })
        .on("ExtensionService/ListExtensions", &pb::ListExtensionsResponse { extensions, warnings: vec![] });
    let expected = json!({"config": {
        "GOOSE_MODE": "auto",
        "x": {"deep": [1, 2.5, null]},
        "extensions": {"developer": with_enabled(&developer(), true)},
    }});
    assert_eq!(daemon.get("/config").await.ok(), expected);
}

#[tokio::test]
async fn a_malformed_file_is_422() {
    let daemon = Daemon::new().fails(
        "ConfigService/ListConfigValues",
        Code::FailedPrecondition,
        ErrorReason::ConfigMalformed,
        "config.yaml cannot be parsed",
    );
    assert_eq!(daemon.get("/config").await.failed(), (422, "config.yaml cannot be parsed".to_owned()));
}

#[tokio::test]
async fn values_are_read_as_json_and_missing_ones_as_null() {
    let answer = pb::GetConfigValueResponse { value: Some(value("GOOSE_MAX_TURNS", &json!(7))) };
    let daemon = Daemon::new().on("ConfigService/GetConfigValue", &answer);
    let body = json!({"key": "GOOSE_MAX_TURNS", "is_secret": false});
    assert_eq!(daemon.post("/config/read", body).await.ok(), json!(7));
    let request: pb::GetConfigValueRequest = daemon.request("ConfigService/GetConfigValue");
    assert_eq!(request.key, "GOOSE_MAX_TURNS");

    let daemon = Daemon::new().on("ConfigService/GetConfigValue", &pb::GetConfigValueResponse::default());
    let body = json!({"key": "nothing", "is_secret": false});
    assert_eq!(daemon.post("/config/read", body).await.ok(), Value::Null);
}

#[tokio::test]
async fn secrets_are_shown_masked() {
    for (present, last_four, expected) in [
        (true, "cdef", json!({"maskedValue": "****cdef"})),
        (true, "", json!({"maskedValue": "****"})),
        (false, "", Value::Null),
    ] {
        let secret =
            pb::SecretStatus { key: "K".to_owned(), present, last_four: last_four.to_owned(), origin: 1 };
        let daemon = Daemon::new()
            .on("ConfigService/GetSecretStatus", &pb::GetSecretStatusResponse { secret: Some(secret) });
        let body = json!({"key": "K", "is_secret": true});
        assert_eq!(daemon.post("/config/read", body).await.ok(), expected);
        assert_eq!(daemon.calls(), ["ConfigService/GetSecretStatus"]);
    }
}

/// What each write becomes: the call, and the value it carries.
#[tokio::test]
async fn writes_become_the_right_calls() {
    let daemon = || {
        Daemon::new()
            .on("ConfigService/SetConfigValue", &pb::SetConfigValueResponse::default())
            .on("ConfigService/UnsetConfigValue", &pb::UnsetConfigValueResponse::default())
            .on("ConfigService/SetSecret", &pb::SetSecretResponse::default())
            .on("ConfigService/DeleteSecret", &pb::DeleteSecretResponse::default())
    };
    let table = [
        (json!("auto"), false, "SetConfigValue"),
        (json!({"a": 1}), false, "SetConfigValue"),
        (Value::Null, false, "UnsetConfigValue"),
        (json!("sk-1"), true, "SetSecret"),
        (json!(""), true, "DeleteSecret"),
        (Value::Null, true, "DeleteSecret"),
    ];
    for (value, is_secret, method) in table {
        let daemon = daemon();
        let reply =
            daemon.post("/config/upsert", json!({"key": "K", "value": value, "is_secret": is_secret})).await;
        assert_eq!(reply.ok(), json!("Upserted key K"));
        assert_eq!(daemon.calls(), [format!("ConfigService/{method}")], "{value}");
        match method {
            "SetConfigValue" => {
                let request: pb::SetConfigValueRequest = daemon.request("ConfigService/SetConfigValue");
                assert_eq!(serde_json::from_str::<Value>(&request.value_json).unwrap(), value);
            }
            "SetSecret" => {
                let request: pb::SetSecretRequest = daemon.request("ConfigService/SetSecret");
                assert_eq!((request.key.as_str(), request.value.as_str()), ("K", "sk-1"));
            }
            _ => {}
        }
    }
    for (is_secret, method) in [(false, "UnsetConfigValue"), (true, "DeleteSecret")] {
        let daemon = daemon();
        let reply = daemon.post("/config/remove", json!({"key": "K", "is_secret": is_secret})).await;
        assert_eq!(reply.ok(), json!("Removed key K"));
        assert_eq!(daemon.calls(), [format!("ConfigService/{method}")]);
    }
}

#[tokio::test]
async fn extensions_are_listed_flat_with_warnings() {
    let http = json!({"type": "streamable_http", "name": "My Http", "description": "d", "uri": "https://x/mcp",
        "envs": {"A": "1"}, "env_keys": ["KEY"], "headers": {"h": "v"}, "timeout": 5, "bundled": null,
        "available_tools": ["t"]});
    let sse = json!({"type": "sse", "name": "old", "description": "", "uri": "http://x"});
    let later = json!({"type": "of_later", "name": "later"});
    let mut extensions = vec![
        configured(&developer(), true),
        configured(&http, false),
        configured(&sse, true),
        configured(&later, true),
    ];
    extensions[1].warnings = vec!["args: is strange".to_owned()];
    extensions[2].warnings = vec!["type: SSE is unsupported, migrate to streamable_http".to_owned()];
    let warnings = vec!["'x': cannot be read".to_owned()];
    let daemon = Daemon::new()
        .on("ExtensionService/ListExtensions", &pb::ListExtensionsResponse { extensions, warnings });
    let listed = daemon.get("/config/extensions").await.ok();
    let expected =
        json!([with_enabled(&developer(), true), with_enabled(&http, false), with_enabled(&sse, true)]);
    assert_eq!(listed["extensions"], expected);
    let expected = json!([
        "'x': cannot be read",
        "'myhttp': args: is strange",
        "'old': SSE is unsupported, migrate to streamable_http",
        "'later': not known to this version; the extension is kept but not started",
    ]);
    assert_eq!(listed["warnings"], expected);
}

#[tokio::test]
async fn putting_an_extension_tells_whether_it_is_new() {
    for (created, word) in [(true, "Added"), (false, "Updated")] {
        let answer = pb::PutExtensionResponse { extension: None, created };
        let daemon = Daemon::new().on("ExtensionService/PutExtension", &answer);
        let config = json!({"type": "stdio", "name": "My Server", "description": null, "cmd": "npx",
            "args": ["-y", "x"], "envs": {"A": "1"}, "env_keys": ["TOKEN"], "timeout": 300});
        let body = json!({"name": "My Server", "config": config, "enabled": true});
        let reply = daemon.post("/config/extensions", body).await;
        assert_eq!(reply.ok(), json!(format!("{word} extension My Server")));
        let request: pb::PutExtensionRequest = daemon.request("ExtensionService/PutExtension");
        let sent = request.config.unwrap();
        assert!(request.enabled);
        assert_eq!((sent.name.as_str(), sent.env["A"].as_str()), ("My Server", "1"));
        assert_eq!(
            (sent.env_keys.as_slice(), sent.timeout.unwrap().seconds),
            (["TOKEN".to_owned()].as_slice(), 300)
        );
    }
}

#[tokio::test]
async fn a_config_that_may_not_be_is_422_with_the_reason() {
    let body = json!({"name": "x", "config": {"type": "stdio", "name": "x", "args": []}, "enabled": true});
    let daemon = Daemon::new();
    let (status, message) = daemon.post("/config/extensions", body).await.failed();
    assert_eq!(status, 422);
    assert!(message.starts_with("cmd: missing"), "{message}");
    assert_eq!(daemon.calls(), Vec::<String>::new());

    let text = "extension x: LD_PRELOAD may not be set by an extension";
    for reason in [ErrorReason::EnvKeyDisallowed, ErrorReason::ExtensionConfigInvalid] {
        let daemon =
            Daemon::new().fails("ExtensionService/PutExtension", Code::FailedPrecondition, reason, text);
        let body = json!({"name": "x", "config": developer(), "enabled": true});
        assert_eq!(daemon.post("/config/extensions", body).await.failed(), (422, text.to_owned()));
    }
}

#[tokio::test]
async fn removing_an_extension_succeeds_also_when_there_is_none() {
    let daemon =
        Daemon::new().on("ExtensionService/DeleteExtension", &pb::DeleteExtensionResponse::default());
    let reply = daemon.ask(Method::DELETE, "/config/extensions/My%20Server", None).await;
    assert_eq!(reply.ok(), json!("Removed extension My Server"));
    let request: pb::DeleteExtensionRequest = daemon.request("ExtensionService/DeleteExtension");
    assert!(request.allow_missing);
    assert_eq!(request.extension_name, "My Server");
}

#[tokio::test]
async fn commands_are_of_goose_s_two_types() {
    let command = |name: &str, kind: pb::CommandKind| pb::Command {
        name: name.to_owned(),
        help: format!("help of {name}"),
        kind: kind as i32,
        ..Default::default()
    };
    let commands =
        vec![command("compact", pb::CommandKind::Builtin), command("daily", pb::CommandKind::Recipe)];
    let daemon = Daemon::new().on("SessionService/ListCommands", &pb::ListCommandsResponse { commands });
    let expected = json!({"commands": [
        {"command": "compact", "help": "help of compact", "command_type": "Builtin"},
        {"command": "daily", "help": "help of daily", "command_type": "Recipe"},
    ]});
    assert_eq!(daemon.get("/config/slash_commands").await.ok(), expected);
}

#[tokio::test]
async fn the_file_is_backed_up_recovered_and_validated() {
    let copy = |path: &str| pb::BackupConfigResponse { file_path: path.to_owned() };
    let daemon = Daemon::new().on("ConfigService/BackupConfig", &copy("/c/config.yaml.bak"));
    assert!(daemon.post("/config/backup", Value::Null).await.text().contains("/c/config.yaml.bak"));
    let daemon = Daemon::new().on("ConfigService/BackupConfig", &copy(""));
    assert_eq!(daemon.post("/config/backup", Value::Null).await.status, 404);

    let recovered = pb::RecoverConfigResponse {
        recovered_keys: vec!["A".to_owned(), "B".to_owned()],
        malformed_file_path: "/c/bad".to_owned(),
    };
    let daemon = Daemon::new().on("ConfigService/RecoverConfig", &recovered);
    let reply = daemon.post("/config/recover", Value::Null).await.ok();
    assert!(reply.as_str().unwrap().contains("A, B") && reply.as_str().unwrap().contains("/c/bad"));

    let problem = |severity: pb::ConfigSeverity| pb::ConfigProblem {
        severity: severity as i32,
        file_path: "/c/config.yaml".to_owned(),
        message: "is wrong".to_owned(),
        ..Default::default()
    };
    for (severity, status) in [(pb::ConfigSeverity::Warning, 200), (pb::ConfigSeverity::Error, 422)] {
        let answer = pb::ValidateConfigResponse { problems: vec![problem(severity)] };
        let daemon = Daemon::new().on("ConfigService/ValidateConfig", &answer);
        assert_eq!(daemon.get("/config/validate").await.status, status);
    }
}

/// Broken JSON, wrong shapes and wrong types never reach the daemon.
#[tokio::test]
async fn malformed_bodies_are_refused_as_goose_refuses_them() {
    let table = [
        ("/config/read", "{", "application/json", 400),
        ("/config/read", "{}", "application/json", 422),
        ("/config/read", r#"{"key": 1, "is_secret": false}"#, "application/json", 422),
        ("/config/read", r#"{"key": "a", "is_secret": false}"#, "text/plain", 415),
        ("/config/upsert", r#"{"key": "a", "is_secret": "no", "value": 1}"#, "application/json", 422),
        ("/config/upsert", "", "application/json", 400),
        ("/config/extensions", r#"{"name": "a", "config": {}}"#, "application/json", 422),
        ("/config/extensions", r#"{"name": "a", "config": [], "enabled": true}"#, "application/json", 422),
        ("/config/extensions", "[]", "application/json", 422),
        (
            "/config/permissions",
            r#"{"tool_permissions": [{"tool_name": "t", "permission": "maybe"}]}"#,
            "application/json",
            422,
        ),
    ];
    for (path, body, content_type, status) in table {
        let daemon = Daemon::new();
        let request = axum::http::Request::post(path)
            .header("x-secret-key", crate::testing::SECRET)
            .header("content-type", content_type)
            .body(axum::body::Body::from(body))
            .unwrap();
        let reply = daemon.send(request).await;
        assert_eq!(reply.status, status, "{path} {body}");
        assert!(!reply.body.is_empty(), "{path} {body}: the reason");
        assert_eq!(daemon.calls(), Vec::<String>::new());
    }
    let reply = Daemon::new().ask(Method::DELETE, "/config/read", None).await;
    assert_eq!(reply.status, 405);
}
