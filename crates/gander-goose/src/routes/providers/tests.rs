use axum::http::Method;
use gander_proto::v1::{self as pb, ErrorReason, authenticate_provider_response::Step};
use serde_json::{Value, json};
use tonic::Code;

use crate::testing::Daemon;

fn model() -> pb::ModelInfo {
    pb::ModelInfo {
        model_id: "gpt-4o".to_owned(),
        context_window_tokens: Some(128_000),
        max_output_tokens: Some(16_384),
        price: Some(pb::ModelPrice {
            input_micros: Some(2_500_000),
            output_micros: Some(10_000_000),
            cache_read_micros: Some(1_250_000),
            cache_write_micros: None,
            currency: "USD".to_owned(),
        }),
        ..Default::default()
    }
}

fn provider(id: &str, kind: pb::ProviderKind) -> pb::Provider {
    pb::Provider {
        provider_id: id.to_owned(),
        display_name: id.to_uppercase(),
        description: "d".to_owned(),
        default_model_id: "gpt-4o".to_owned(),
        models: vec![model(), pb::ModelInfo { model_id: "unknown".to_owned(), ..Default::default() }],
        doc_url: "https://example.com".to_owned(),
        config_keys: vec![pb::ProviderConfigKey {
            key: "KEY".to_owned(),
            required: true,
            secret: true,
            default_value: None,
            oauth_flow: false,
            primary: true,
        }],
        allows_unlisted_models: true,
        configured: true,
        kind: kind as i32,
    }
}

#[tokio::test]
async fn providers_are_listed_in_goose_s_form() {
    let providers = vec![provider("openai", pb::ProviderKind::Preferred)];
    let daemon = Daemon::new().on("ProviderService/ListProviders", &pb::ListProvidersResponse { providers });
    let unknown = json!({"name": "unknown", "context_limit": 128_000, "input_token_cost": null,
        "output_token_cost": null, "currency": null, "supports_cache_control": null});
    let known = json!({"name": "gpt-4o", "context_limit": 128_000, "input_token_cost": 2.5e-6,
        "output_token_cost": 1e-5, "currency": "$", "supports_cache_control": null});
    let key = json!({"name": "KEY", "required": true, "secret": true, "default": null, "oauth_flow": false,
        "primary": true});
    let expected = json!([{"name": "openai", "is_configured": true, "provider_type": "Preferred", "metadata": {
        "name": "openai", "display_name": "OPENAI", "description": "d", "default_model": "gpt-4o",
        "known_models": [known, unknown], "model_doc_link": "https://example.com", "config_keys": [key],
        "allows_unlisted_models": true}}]);
    assert_eq!(daemon.get("/config/providers").await.ok(), expected);
}

#[tokio::test]
async fn kinds_are_those_that_goose_knows() {
    use pb::ProviderKind as K;
    for (kind, expected) in [
        (K::Unspecified, "Builtin"),
        (K::Preferred, "Preferred"),
        (K::Builtin, "Builtin"),
        (K::Declarative, "Declarative"),
        (K::Custom, "Custom"),
        (K::Agent, "Builtin"),
    ] {
        assert_eq!(super::details(&provider("x", kind))["provider_type"], expected);
    }
}

#[tokio::test]
async fn models_are_asked_of_the_provider() {
    let daemon =
        Daemon::new().on("ProviderService/ListModels", &pb::ListModelsResponse { models: vec![model()] });
    assert_eq!(daemon.get("/config/providers/openai/models").await.ok(), json!(["gpt-4o"]));
    let request: pb::ListModelsRequest = daemon.request("ProviderService/ListModels");
    assert_eq!((request.provider_id.as_str(), request.live), ("openai", true));
}

#[tokio::test]
async fn failures_of_a_provider_have_goose_s_statuses() {
    for (code, reason, status) in [
        (Code::NotFound, ErrorReason::ProviderNotFound, 400),
        (Code::FailedPrecondition, ErrorReason::ProviderNotConfigured, 400),
        (Code::FailedPrecondition, ErrorReason::ProviderUnauthenticated, 400),
        (Code::ResourceExhausted, ErrorReason::ProviderRateLimited, 429),
        (Code::Unavailable, ErrorReason::ProviderUnavailable, 500),
    ] {
        let daemon = Daemon::new().fails("ProviderService/ListModels", code, reason, "why");
        let reply = daemon.get("/config/providers/x/models").await;
        assert_eq!(reply.failed(), (status, "why".to_owned()), "{reason:?}");
    }
}

#[tokio::test]
async fn a_check_that_fails_is_400_with_the_reason() {
    let answer = |working, error: Option<&str>| pb::CheckProviderResponse {
        working,
        error: error.map(|message| pb::ErrorDetail { message: message.to_owned(), ..Default::default() }),
    };
    let body = || json!({"provider": "openai"});
    let daemon = Daemon::new().on("ProviderService/CheckProvider", &answer(true, None));
    let reply = daemon.post("/config/check_provider", body()).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    let daemon = Daemon::new().on("ProviderService/CheckProvider", &answer(false, Some("no key")));
    assert_eq!(daemon.post("/config/check_provider", body()).await.failed(), (400, "no key".to_owned()));
}

#[tokio::test]
async fn the_default_model_is_tried_before_it_is_written() {
    let body = || json!({"provider": "openai", "model": "gpt-4o"});
    let method = "ProviderService/SetDefaultModel";
    let daemon = Daemon::new().on(method, &pb::SetDefaultModelResponse::default());
    assert_eq!(daemon.post("/config/set_provider", body()).await.status, 200);
    let request: pb::SetDefaultModelRequest = daemon.request(method);
    assert!(request.verify);
    assert_eq!((request.provider_id.as_str(), request.model_id.as_str()), ("openai", "gpt-4o"));

    for (code, reason) in [
        (Code::NotFound, ErrorReason::ProviderNotFound),
        (Code::FailedPrecondition, ErrorReason::ProviderNotConfigured),
        (Code::FailedPrecondition, ErrorReason::ProviderUnauthenticated),
        (Code::PermissionDenied, ErrorReason::PolicyDenied),
    ] {
        let daemon = Daemon::new().fails(method, code, reason, "why");
        assert_eq!(daemon.post("/config/set_provider", body()).await.failed(), (400, "why".to_owned()));
        assert_eq!(daemon.calls(), [method], "{reason:?}");
    }
}

#[tokio::test]
async fn a_provider_that_is_away_may_be_chosen() {
    let method = "ProviderService/SetDefaultModel";
    let daemon = Daemon::new()
        .fails(method, Code::Unavailable, ErrorReason::ProviderUnavailable, "away")
        .on(method, &pb::SetDefaultModelResponse::default());
    let body = json!({"provider": "ollama", "model": "qwen"});
    assert_eq!(daemon.post("/config/set_provider", body).await.status, 200);
    let requests: Vec<pb::SetDefaultModelRequest> = daemon.requests(method);
    assert_eq!(requests.iter().map(|request| request.verify).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test]
async fn a_key_finds_its_provider_or_404() {
    let found = pb::DetectProviderResponse { provider_id: "anthropic".to_owned(), models: vec![model()] };
    let daemon = Daemon::new().on("ProviderService/DetectProvider", &found);
    let expected = json!({"provider_name": "anthropic", "models": ["gpt-4o"]});
    assert_eq!(daemon.post("/config/detect-provider", json!({"api_key": "k"})).await.ok(), expected);
    let request: pb::DetectProviderRequest = daemon.request("ProviderService/DetectProvider");
    assert_eq!(request.api_key, "k");

    let method = "ProviderService/DetectProvider";
    let daemon = Daemon::new().fails(method, Code::NotFound, ErrorReason::ProviderNotFound, "none");
    assert_eq!(daemon.post("/config/detect-provider", json!({"api_key": "k"})).await.status, 404);
}

#[tokio::test]
async fn facts_of_a_model_cost_per_million() {
    let answer = pb::GetModelInfoResponse { model: Some(model()), provider_id: "openai".to_owned() };
    for path in ["/config/canonical-model-info", "/config/model-info"] {
        let daemon = Daemon::new().on("ProviderService/GetModelInfo", &answer);
        let expected = json!({"source": "canonical", "model_info": {
            "provider": "openai", "model": "gpt-4o", "context_limit": 128_000, "max_output_tokens": 16_384,
            "input_token_cost": 2.5, "output_token_cost": 10.0, "cache_read_token_cost": 1.25,
            "cache_write_token_cost": null, "currency": "$"}});
        let reply = daemon.post(path, json!({"provider": "openai", "model": "gpt-4o"})).await;
        assert_eq!(reply.ok(), expected);
    }
}

#[tokio::test]
async fn nothing_known_is_an_answer() {
    let nothing = json!({"model_info": null, "source": "canonical"});
    let body = || json!({"provider": "x", "model": "y"});
    for reason in [ErrorReason::ProviderNotFound, ErrorReason::ModelUnknown] {
        let daemon = Daemon::new().fails("ProviderService/GetModelInfo", Code::NotFound, reason, "none");
        assert_eq!(daemon.post("/config/canonical-model-info", body()).await.ok(), nothing);
    }
    // Without its window a gauge would show a guess.
    let model = pb::ModelInfo { model_id: "y".to_owned(), ..Default::default() };
    let answer = pb::GetModelInfoResponse { model: Some(model), provider_id: String::new() };
    let daemon = Daemon::new().on("ProviderService/GetModelInfo", &answer);
    assert_eq!(daemon.post("/config/canonical-model-info", body()).await.ok(), nothing);
    let daemon = Daemon::new();
    let empty = json!({"provider": "", "model": ""});
    assert_eq!(daemon.post("/config/canonical-model-info", empty).await.ok(), nothing);
}

fn form() -> Value {
    json!({"engine": "openai_compatible", "display_name": "My LLM", "api_url": "https://llm/v1",
        "api_key": "k", "models": ["a", "b"], "supports_streaming": true, "headers": {"h": "v"}})
}

fn stored(definition: &Value) -> pb::GetCustomProviderResponse {
    let provider = pb::CustomProvider {
        provider_id: "custom_my_llm".to_owned(),
        definition_json: definition.to_string(),
        has_api_key: true,
    };
    pb::GetCustomProviderResponse { provider: Some(provider), editable: true }
}

#[tokio::test]
async fn a_form_becomes_a_definition() {
    let made = pb::CreateCustomProviderResponse { provider: stored(&json!({})).provider };
    let daemon = Daemon::new().on("ProviderService/CreateCustomProvider", &made);
    let reply = daemon.post("/config/custom-providers", form()).await;
    assert_eq!(reply.ok(), json!({"provider_name": "custom_my_llm"}));
    let request: pb::CreateCustomProviderRequest = daemon.request("ProviderService/CreateCustomProvider");
    assert_eq!(request.api_key.as_deref(), Some("k"));
    let sent: Value = serde_json::from_str(&request.definition_json).unwrap();
    let expected = json!({"engine": "openai", "display_name": "My LLM", "description": "Custom provider My LLM",
        "base_url": "https://llm/v1", "requires_auth": true, "supports_streaming": true, "headers": {"h": "v"},
        "models": [{"name": "a", "context_limit": 128_000}, {"name": "b", "context_limit": 128_000}]});
    assert_eq!(sent, expected);

    // The form of later windows.
    let mut later = form();
    later["base_path"] = json!("v2/chat");
    later["catalog_provider_id"] = json!("groq");
    let daemon = Daemon::new().on("ProviderService/CreateCustomProvider", &made);
    daemon.post("/config/custom-providers", later).await.ok();
    let request: pb::CreateCustomProviderRequest = daemon.request("ProviderService/CreateCustomProvider");
    let sent: Value = serde_json::from_str(&request.definition_json).unwrap();
    assert_eq!((&sent["base_path"], &sent["catalog_provider_id"]), (&json!("v2/chat"), &json!("groq")));

    let mut unknown = form();
    unknown["engine"] = json!("telepathy");
    assert_eq!(Daemon::new().post("/config/custom-providers", unknown).await.status, 400);
}

#[tokio::test]
async fn an_update_keeps_what_the_form_does_not_know() {
    let definition = json!({"name": "custom_my_llm", "engine": "anthropic", "display_name": "Old", "base_url": "x",
        "api_key_env": "CUSTOM_MY_LLM_API_KEY", "models": [{"name": "a", "context_limit": 5, "more": 1}],
        "timeout_seconds": 9, "from_elsewhere": true});
    let daemon = Daemon::new()
        .on("ProviderService/GetCustomProvider", &stored(&definition))
        .on("ProviderService/UpdateCustomProvider", &pb::UpdateCustomProviderResponse::default());
    let mut body = form();
    body["api_key"] = json!("");
    let reply = daemon.ask(Method::PUT, "/config/custom-providers/custom_my_llm", Some(body)).await;
    assert!(reply.ok().is_string());
    let request: pb::UpdateCustomProviderRequest = daemon.request("ProviderService/UpdateCustomProvider");
    assert_eq!((request.provider_id.as_str(), request.api_key), ("custom_my_llm", None));
    let sent: Value = serde_json::from_str(&request.definition_json).unwrap();
    assert_eq!(
        sent["models"],
        json!([{"name": "a", "context_limit": 5, "more": 1},
        {"name": "b", "context_limit": 128_000}])
    );
    assert_eq!((&sent["timeout_seconds"], &sent["from_elsewhere"]), (&json!(9), &json!(true)));
    assert_eq!((&sent["engine"], &sent["display_name"]), (&json!("openai"), &json!("My LLM")));
}

#[tokio::test]
async fn a_definition_is_shown_with_all_that_clients_rely_on() {
    let bare = json!({"display_name": null, "models": ["a", {"name": "b", "context_limit": 7}, 3]});
    let daemon = Daemon::new().on("ProviderService/GetCustomProvider", &stored(&bare));
    let expected = json!({"is_editable": true, "config": {"name": "custom_my_llm", "engine": "openai",
        "display_name": "custom_my_llm", "base_url": "", "api_key_env": "", "requires_auth": true,
        "models": [{"name": "a", "context_limit": 128_000}, {"name": "b", "context_limit": 7}]}});
    assert_eq!(daemon.get("/config/custom-providers/custom_my_llm").await.ok(), expected);
}

#[tokio::test]
async fn an_unknown_custom_provider_is_404() {
    let none = |method| Daemon::new().fails(method, Code::NotFound, ErrorReason::ProviderNotFound, "none");
    let path = "/config/custom-providers/x";
    assert_eq!(none("ProviderService/GetCustomProvider").get(path).await.status, 404);
    let reply = none("ProviderService/GetCustomProvider").ask(Method::PUT, path, Some(form())).await;
    assert_eq!(reply.status, 404);
    let reply = none("ProviderService/DeleteCustomProvider").ask(Method::DELETE, path, None).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn templates_are_the_definitions_of_the_daemon() {
    let providers = vec![
        provider("openai", pb::ProviderKind::Preferred),
        provider("groq", pb::ProviderKind::Declarative),
    ];
    let definition = json!({"name": "groq", "engine": "openai", "display_name": "Groq", "base_url": "${HOST}",
        "base_path": "v2/chat", "env_vars": [{"name": "HOST", "default": "https://g/"}], "api_key_env": "GROQ_API_KEY", "models": [{"name": "gpt-4o", "context_limit": 5}]});
    let daemon = || {
        Daemon::new()
            .on("ProviderService/ListProviders", &pb::ListProvidersResponse { providers: providers.clone() })
            .on("ProviderService/GetCustomProvider", &stored(&definition))
    };
    let entry = json!({"id": "groq", "name": "GROQ", "format": "openai", "api_url": "https://g/v2/chat",
        "doc_url": "https://example.com", "env_var": "GROQ_API_KEY", "model_count": 1});
    assert_eq!(daemon().get("/config/provider-catalog").await.ok(), json!([entry]));
    assert_eq!(daemon().get("/config/provider-catalog?format=ollama").await.ok(), json!([]));
    assert_eq!(daemon().get("/config/provider-catalog?format=telex").await.status, 400);
    let template = daemon().get("/config/provider-catalog/groq").await.ok();
    assert_eq!(template["models"][0]["id"], "gpt-4o");
    assert_eq!(template["supports_streaming"], true);
    assert_eq!(daemon().get("/config/provider-catalog/openai").await.status, 404);
}

fn step(step: Step) -> pb::AuthenticateProviderResponse {
    pb::AuthenticateProviderResponse { step: Some(step) }
}

#[tokio::test]
async fn a_sign_in_ends_the_answer_with_its_outcome_or_the_page_to_open() {
    let method = "ProviderService/AuthenticateProvider";
    let status = step(Step::StatusText("wait".to_owned()));
    let done = step(Step::Succeeded(Box::default()));
    let daemon = Daemon::new().streams(method, &[status.clone(), done]);
    let path = "/config/providers/x/oauth";
    assert_eq!(daemon.post(path, Value::Null).await.ok(), json!("OAuth configuration completed"));

    let open = step(Step::OpenUrl("https://sign.in/1".to_owned()));
    let daemon = Daemon::new().streams_on(method, &[status.clone(), open]);
    let (code, message) = daemon.post(path, Value::Null).await.failed();
    assert!(code == 400 && message.contains("https://sign.in/1"), "{code} {message}");

    let failed = step(Step::Failed(pb::ErrorDetail { message: "refused".to_owned(), ..Default::default() }));
    let daemon = Daemon::new().streams(method, &[failed]);
    assert_eq!(daemon.post(path, Value::Null).await.failed(), (400, "refused".to_owned()));
    let daemon = Daemon::new().streams(method, &[status]);
    assert_eq!(daemon.post(path, Value::Null).await.status, 400);
}

#[tokio::test]
async fn onboarding_cards_always_get_an_answer() {
    let method = "ProviderService/AuthenticateProvider";
    for path in ["/handle_openrouter", "/handle_tetrate", "/handle_nanogpt"] {
        let daemon = Daemon::new().fails(method, Code::Unimplemented, ErrorReason::NotImplemented, "not yet");
        let expected = json!({"success": false, "message": "not yet"});
        assert_eq!(daemon.post(path, Value::Null).await.ok(), expected);
        let daemon = Daemon::new().streams(method, &[step(Step::Succeeded(Box::default()))]);
        assert_eq!(daemon.post(path, Value::Null).await.ok()["success"], true);
    }
}
