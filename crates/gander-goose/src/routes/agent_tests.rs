use axum::http::{Method, Request, StatusCode};
use gander_proto::v1::{
    self as pb, AddSessionExtensionRequest, CreateSessionRequest, ErrorReason, ExtensionState,
    LoadSessionRequest, UpdateSessionRequest, extension_selection::Selection, recipe_source::Source,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::testing::{Daemon, SECRET};

fn session() -> pb::Session {
    pb::Session {
        session_id: "s".into(),
        working_directory: "/p".into(),
        loaded: true,
        create_time: Some(prost_types::Timestamp { seconds: 1_772_700_000, nanos: 0 }),
        ..Default::default()
    }
}

fn status(name: &str, state: ExtensionState) -> pb::ExtensionStatus {
    pb::ExtensionStatus {
        name: name.into(),
        state: state as i32,
        error: (state == ExtensionState::Failed)
            .then(|| pb::ErrorDetail { message: "it crashed".into(), ..Default::default() }),
        config: Some(pb::ExtensionConfig {
            name: name.into(),
            kind: Some(pb::extension_config::Kind::Builtin(pb::BuiltinExtension {})),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn creating() -> Daemon {
    let extensions = vec![status("developer", ExtensionState::Starting)];
    Daemon::new()
        .on(
            "SessionService/CreateSession",
            &pb::CreateSessionResponse { session: Some(session()), sequence: 3 },
        )
        .on("ExtensionService/ListSessionExtensions", &pb::ListSessionExtensionsResponse { extensions })
}

async fn created(body: Value) -> CreateSessionRequest {
    let daemon = creating();
    daemon.post("/agent/start", body).await.ok();
    daemon.request("SessionService/CreateSession")
}

#[tokio::test]
async fn a_start_makes_a_session_and_answers_with_gooses_document() {
    let daemon = creating();
    let document = daemon.post("/agent/start", json!({"working_dir": "/p"})).await.ok();
    assert_eq!(document["name"], "New Chat");
    assert_eq!(document["created_at"], "2026-03-05T08:40:00Z");
    assert_eq!(document["conversation"], Value::Null);
    let extensions = &document["extension_data"]["enabled_extensions.v0"]["extensions"];
    assert_eq!(extensions[0]["name"], "developer");
    let request: CreateSessionRequest = daemon.request("SessionService/CreateSession");
    assert_eq!(request.working_directory, "/p");
    assert!(request.extensions.is_none() && request.recipe.is_none() && !request.demo_allowed);
}

#[tokio::test]
async fn no_overrides_and_an_empty_list_of_them_differ() {
    let selection = |request: CreateSessionRequest| request.extensions.and_then(|e| e.selection);
    let none = created(json!({"working_dir": "/p", "extension_overrides": []})).await;
    assert_eq!(selection(none), Some(Selection::Exactly(pb::ExactSelection::default())));
    let one = json!([{"type": "stdio", "name": "My Server", "cmd": "srv", "args": ["-x"], "timeout": 7}]);
    let one = created(json!({"working_dir": "/p", "extension_overrides": one})).await;
    let Some(Selection::Exactly(exactly)) = selection(one) else { panic!("a list") };
    let config = &exactly.extensions[0];
    assert_eq!((config.name.as_str(), config.timeout.map(|t| t.seconds)), ("My Server", Some(7)));
    let wrong = json!({"working_dir": "/p", "extension_overrides": [{"type": "stdio", "name": "x"}]});
    let (status, text) = creating().post("/agent/start", wrong).await.failed();
    assert_eq!(status, 422);
    assert!(text.contains("extension_overrides[0].cmd"), "{text}");
}

#[tokio::test]
async fn a_recipe_comes_as_itself_by_id_or_as_a_link() {
    let source = |request: CreateSessionRequest| request.recipe.and_then(|recipe| recipe.source);
    let of = |field: &str, value: Value| {
        let mut body = json!({"working_dir": "/p"});
        body[field] = value;
        created(body)
    };
    let link = source(of("recipe_deeplink", json!("goose://recipe?config=x")).await);
    assert_eq!(link, Some(Source::Deeplink("goose://recipe?config=x".into())));
    assert_eq!(source(of("recipe_id", json!("abc")).await), Some(Source::RecipeId("abc".into())));
    let whole = source(of("recipe", json!({"title": "t"})).await);
    assert_eq!(whole, Some(Source::RecipeJson(r#"{"title":"t"}"#.into())));
    assert_eq!(source(of("recipe", Value::Null).await), None);
    let later = of("recipe_id", json!("abc")).await.recipe.expect("a recipe");
    assert!(later.allow_missing_values, "the window asks for them afterwards");
    let missing = Daemon::new().fails(
        "SessionService/CreateSession",
        Code::NotFound,
        ErrorReason::RecipeNotFound,
        "there is no recipe abc",
    );
    let failed = missing.post("/agent/start", json!({"working_dir": "/p", "recipe_id": "abc"})).await;
    assert_eq!(failed.failed(), (404, "there is no recipe abc".into()));
}

fn loading(states: &[(&str, ExtensionState)]) -> Daemon {
    let response = pb::LoadSessionResponse {
        session: Some(session()),
        extensions: states.iter().map(|(name, state)| status(name, *state)).collect(),
        ..Default::default()
    };
    Daemon::new()
        .on("SessionService/LoadSession", &response)
        .on("SessionService/ListItems", &pb::ListItemsResponse::default())
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
}

#[tokio::test]
async fn a_resume_tells_how_each_extension_came_up() {
    use ExtensionState as S;
    let daemon = loading(&[("good", S::Ready), ("slow", S::Starting), ("bad", S::Failed)]);
    let body = json!({"session_id": "s", "load_model_and_extensions": true});
    let resumed = daemon.post("/agent/resume", body).await.ok();
    assert_eq!(resumed["session"]["conversation"], json!([]));
    let results = resumed["extension_results"].as_array().expect("results");
    assert_eq!(results[0], json!({"name": "good", "success": true}));
    assert_eq!(results[1]["success"], json!(false));
    assert_eq!(results[2], json!({"name": "bad", "success": false, "error": "it crashed"}));
    let request: LoadSessionRequest = daemon.request("SessionService/LoadSession");
    assert_eq!(request.wait_for_extensions.map(|wait| wait.seconds), Some(10));
    let restarted = loading(&[("good", S::Ready)]);
    let results = restarted.post("/agent/restart", json!({"session_id": "s"})).await.ok();
    assert_eq!(results, json!({"extension_results": [{"name": "good", "success": true}]}));
    assert!(restarted.request::<LoadSessionRequest>("SessionService/LoadSession").restart);
}

#[tokio::test]
async fn a_session_shows_the_model_and_the_mode_that_it_follows() {
    let model =
        pb::ModelSelection { provider_id: "openai".into(), model_id: "m".into(), ..Default::default() };
    let info = pb::ServerInfo { default_model: Some(model), ..Default::default() };
    let mode = pb::SessionOption {
        option_id: "mode".into(),
        value: Some(pb::SessionOptionValue {
            value: Some(pb::session_option_value::Value::Choice("approve".into())),
        }),
        ..Default::default()
    };
    let session = pb::Session { options: vec![mode], ..session() };
    let response = pb::LoadSessionResponse { session: Some(session), ..Default::default() };
    let daemon = Daemon::new()
        .on("SessionService/LoadSession", &response)
        .on("SessionService/ListItems", &pb::ListItemsResponse::default())
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
        .on("SystemService/GetServerInfo", &pb::GetServerInfoResponse { server_info: Some(info) });
    let body = json!({"session_id": "s", "load_model_and_extensions": true});
    let session = daemon.post("/agent/resume", body).await.ok()["session"].clone();
    assert_eq!((&session["provider_name"], &session["goose_mode"]), (&json!("openai"), &json!("approve")));
    assert_eq!(session["model_config"]["model_name"], "m");
}

#[tokio::test]
async fn a_resume_without_loading_loads_nothing() {
    let daemon = loading(&[])
        .on("SessionService/GetSession", &pb::GetSessionResponse { session: Some(session()) })
        .on("ExtensionService/ListSessionExtensions", &pb::ListSessionExtensionsResponse::default());
    let body = json!({"session_id": "s", "load_model_and_extensions": false});
    let resumed = daemon.post("/agent/resume", body).await.ok();
    assert!(resumed.get("extension_results").is_none());
    assert!(!daemon.calls().iter().any(|call| call.ends_with("LoadSession")));
    for flagless in [json!({"session_id": "s"}), json!({"load_model_and_extensions": true})] {
        assert_eq!(daemon.post("/agent/resume", flagless).await.failed().0, 422);
    }
}

#[tokio::test]
async fn a_resume_that_fails_says_so_as_goose_does() {
    let failing = |code, reason, text| Daemon::new().fails("SessionService/LoadSession", code, reason, text);
    let body = || json!({"session_id": "s", "load_model_and_extensions": true});
    let lost = failing(Code::NotFound, ErrorReason::SessionNotFound, "no session s");
    let lost = lost.post("/agent/resume", body()).await;
    assert_eq!(lost.failed(), (404, "Failed to resume session: no session s".into()));
    let modelless = failing(Code::FailedPrecondition, ErrorReason::ProviderNotConfigured, "choose one");
    let modelless = modelless.post("/agent/resume", body()).await;
    assert_eq!(modelless.failed(), (500, "Could not configure agent: choose one".into()));
}

fn updating() -> Daemon {
    let response = pb::UpdateSessionResponse { session: Some(session()), sequence: 9 };
    Daemon::new().on("SessionService/UpdateSession", &response)
}

fn updated(daemon: &Daemon) -> (Vec<String>, pb::Session) {
    let request: UpdateSessionRequest = daemon.request("SessionService/UpdateSession");
    (request.update_mask.expect("a mask").paths, request.session.expect("a session"))
}

#[tokio::test]
async fn settings_are_updates_of_one_field() {
    let daemon = updating();
    let empty =
        daemon.post("/agent/update_working_dir", json!({"session_id": "s", "working_dir": " /q "})).await;
    assert_eq!((empty.status, empty.text()), (StatusCode::OK, ""));
    let (paths, session) = updated(&daemon);
    assert_eq!((paths, session.working_directory.as_str()), (vec!["working_directory".to_owned()], "/q"));
    let blank =
        updating().post("/agent/update_working_dir", json!({"session_id": "s", "working_dir": " "})).await;
    assert_eq!(blank.failed(), (400, "Working directory cannot be empty".into()));
    let wrong = Daemon::new().fails(
        "SessionService/UpdateSession",
        Code::InvalidArgument,
        ErrorReason::WorkingDirectoryInvalid,
        "/q is no directory",
    );
    let wrong =
        wrong.post("/agent/update_working_dir", json!({"session_id": "s", "working_dir": "/q"})).await;
    assert_eq!(wrong.failed(), (400, "Invalid directory path: /q is no directory".into()));

    let daemon = updating();
    daemon.post("/agent/update_session", json!({"session_id": "s", "goose_mode": "smart_approve"})).await;
    let (paths, session) = updated(&daemon);
    assert_eq!((paths, session.mode()), (vec!["mode".to_owned()], pb::SessionMode::SmartApprove));
    let unknown =
        updating().post("/agent/update_session", json!({"session_id": "s", "goose_mode": "yolo"})).await;
    assert_eq!(unknown.failed().0, 400);

    let daemon = updating();
    daemon.post("/agent/set_container", json!({"session_id": "s", "container_id": "box"})).await;
    assert_eq!(updated(&daemon).1.container, "box");
}

#[tokio::test]
async fn a_model_is_chosen_with_its_limits() {
    let daemon = updating();
    let body = json!({"session_id": "s", "provider": "openai", "model": "m", "context_limit": 9,
        "request_params": {"top_p": 1}});
    assert_eq!(daemon.post("/agent/update_provider", body).await.status, StatusCode::OK);
    let model = updated(&daemon).1.model.expect("a model");
    assert_eq!((model.provider_id.as_str(), model.model_id.as_str()), ("openai", "m"));
    assert_eq!((model.context_limit, model.extra_params_json.as_str()), (Some(9), r#"{"top_p":1}"#));

    for (params, extra, level) in [
        (json!({"thinking_effort": "high", "top_p": 1}), r#"{"top_p":1}"#, pb::ThoughtLevel::High),
        (json!({"thinking_effort": "off"}), "", pb::ThoughtLevel::Off),
        (json!({"thinking_effort": 3}), r#"{"thinking_effort":3}"#, pb::ThoughtLevel::Unspecified),
    ] {
        let daemon = updating();
        let body = json!({"session_id": "s", "provider": "openai", "model": "m", "request_params": params});
        assert_eq!(daemon.post("/agent/update_provider", body).await.status, StatusCode::OK);
        let model = updated(&daemon).1.model.expect("a model");
        assert_eq!((model.extra_params_json.as_str(), model.thought_level()), (extra, level));
    }

    let body = || json!({"session_id": "s", "provider": "openai"});
    let value = pb::ConfigValue { value_json: "\"configured\"".into(), ..Default::default() };
    let configured =
        updating().on("ConfigService/GetConfigValue", &pb::GetConfigValueResponse { value: Some(value) });
    configured.post("/agent/update_provider", body()).await;
    assert_eq!(updated(&configured).1.model.expect("a model").model_id, "configured");
    let none = updating().on("ConfigService/GetConfigValue", &pb::GetConfigValueResponse::default());
    let (status, text) = none.post("/agent/update_provider", body()).await.failed();
    assert_eq!(status, 400);
    assert!(text.starts_with("No model specified"), "{text}");
    let refused = Daemon::new().fails(
        "SessionService/UpdateSession",
        Code::InvalidArgument,
        ErrorReason::ModelUnknown,
        "no such model",
    );
    let refused = refused
        .post("/agent/update_provider", json!({"session_id": "s", "provider": "openai", "model": "m"}));
    assert_eq!(refused.await.failed(), (400, "Failed to create openai provider: no such model".into()));
}

#[tokio::test]
async fn an_extension_is_added_and_waited_for() {
    let daemon =
        Daemon::new().on("ExtensionService/AddSessionExtension", &pb::AddSessionExtensionResponse::default());
    let body = json!({"session_id": "s", "config": {"type": "builtin", "name": "memory"}});
    assert_eq!(daemon.post("/agent/add_extension", body).await.status, StatusCode::OK);
    let request: AddSessionExtensionRequest = daemon.request("ExtensionService/AddSessionExtension");
    assert!(request.wait && request.session_id == "s");
}

#[tokio::test]
async fn every_failure_of_an_extension_is_500_with_the_reason() {
    let sse = json!({"session_id": "s", "config": {"type": "sse", "name": "old", "uri": "http://x/sse"}});
    let told = "Failed to add extension: invalid config: SSE is unsupported, migrate to streamable_http";
    let daemon = Daemon::new();
    assert_eq!(daemon.post("/agent/add_extension", sse).await.failed(), (500, told.into()));
    assert!(daemon.calls().is_empty(), "it fails at once");
    for (code, reason) in [
        (Code::FailedPrecondition, ErrorReason::ExtensionStartFailed),
        (Code::FailedPrecondition, ErrorReason::EnvKeyDisallowed),
        (Code::NotFound, ErrorReason::SessionNotFound),
        (Code::InvalidArgument, ErrorReason::InvalidField),
    ] {
        let daemon = Daemon::new().fails("ExtensionService/AddSessionExtension", code, reason, "why");
        let body = json!({"session_id": "s", "config": {"type": "builtin", "name": "memory"}});
        let failed = daemon.post("/agent/add_extension", body).await.failed();
        assert_eq!(failed, (500, "Failed to add extension: why".into()), "{reason:?}");
    }
}

#[tokio::test]
async fn a_stop_leaves_a_session_that_others_watch_and_404s_one_that_is_not_loaded() {
    let daemon = |loaded| {
        let session = pb::Session { loaded, ..session() };
        Daemon::new()
            .on("SessionService/GetSession", &pb::GetSessionResponse { session: Some(session) })
            .on("SessionService/UnloadSession", &pb::UnloadSessionResponse { unloaded: false })
    };
    let body = json!({"session_id": "s"});
    assert_eq!(daemon(true).post("/agent/stop", body.clone()).await.status, StatusCode::OK);
    assert_eq!(daemon(false).post("/agent/stop", body).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_secret_guards_every_path_but_the_open_ones() {
    let daemon = Daemon::new();
    let ask = async |path: &str, secret: Option<&str>| {
        let mut request = Request::builder().uri(path);
        if let Some(secret) = secret {
            request = request.header("x-secret-key", secret);
        }
        daemon.send(request.body(axum::body::Body::empty()).unwrap()).await
    };
    let status = ask("/status", None).await;
    assert_eq!((status.status, status.text()), (StatusCode::OK, "ok"));
    assert_eq!(ask("/features", None).await.status, StatusCode::OK);
    for path in ["/sessions", "/agent/tools?session_id=s", "/no/such/path", "/status/", "/mcp-ui-proxy/"] {
        for secret in [None, Some(""), Some("wrong"), Some(&SECRET[1..])] {
            let refused = ask(path, secret).await;
            assert_eq!(
                (refused.status, refused.body.len()),
                (StatusCode::UNAUTHORIZED, 0),
                "{path} {secret:?}"
            );
            assert_eq!(refused.headers["access-control-allow-origin"], "*");
        }
    }
    assert_eq!(ask("/no/such/path", Some(SECRET)).await.status, StatusCode::NOT_FOUND);
    let twice =
        Request::builder().uri("/sessions").header("x-secret-key", SECRET).header("x-secret-key", "x");
    let twice = daemon.send(twice.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(twice.status, StatusCode::UNAUTHORIZED, "two of them are none");
    let preflight = Request::builder().method(Method::OPTIONS).uri("/sessions");
    let preflight = daemon.send(preflight.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(preflight.status, StatusCode::OK);
    assert_eq!(preflight.headers["access-control-allow-headers"], "*");
    assert!(daemon.calls().is_empty(), "nothing reached the daemon");
}

#[tokio::test]
async fn malformed_bodies_have_the_status_of_what_is_wrong() {
    let daemon = Daemon::new();
    let send = async |kind: Option<&str>, body: &'static str, path: &str| {
        let mut request = Request::builder().method(Method::POST).uri(path).header("x-secret-key", SECRET);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        daemon.send(request.body(axum::body::Body::from(body)).unwrap()).await
    };
    for path in ["/agent/stop", "/reply", "/sessions/import", "/action-required/tool-confirmation"] {
        let json = Some("application/json");
        for (kind, body, wanted) in [
            (json, "{", 400),
            (json, "", 400),
            (json, "{\"session_id\": \u{0}", 400),
            (json, "[]", 422),
            (json, "{\"session_id\": 3, \"json\": 3}", 422),
            (json, "null", 422),
            (None, "{}", 415),
            (Some("text/plain"), "{}", 415),
        ] {
            let answer = send(kind, body, path).await;
            assert_eq!(answer.status.as_u16(), wanted, "{path} {kind:?} {body:?}: {}", answer.text());
            assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8", "{path} {body:?}");
        }
    }
    let wrong_method = daemon.get("/reply").await;
    assert_eq!(wrong_method.status, StatusCode::METHOD_NOT_ALLOWED);
    let large = json!({"session_id": "s".repeat(3 * 1024 * 1024)});
    assert_eq!(daemon.post("/agent/stop", large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(daemon.get("/agent/tools").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_lost_daemon_is_503() {
    let daemon = Daemon::new().fails(
        "SessionService/GetSession",
        Code::Unavailable,
        ErrorReason::ShuttingDown,
        "the daemon stops",
    );
    let lost = daemon.post("/agent/update_from_session", json!({"session_id": "s"})).await;
    assert_eq!(lost.failed(), (503, "Failed to get session: the daemon stops".into()));
    let lost = daemon.get("/sessions/s").await;
    assert_eq!(lost.failed(), (503, "the daemon stops".into()));
}
