//! Model providers as users meet them: the choice without configuration, definitions of one's own, records, and that a key
//! is shown to nobody but its provider.

use std::path::Path;

use gander_bridge_tests::{
    TestDaemon,
    child::{self, Output},
    daemon::{environment_with, new_root},
    events, pb,
};
use gander_model::testing::FakeOpenAi;
use pb::ErrorReason;

/// Found in whatever must not hold it.
const KEY: &str = "sk-ant-REALKEY-0123456789abcdef";

/// `gander …` below `root` with more of an environment.
async fn gander(root: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = child::gander(root, arguments);
    command.envs(environment.iter().copied());
    child::finished(&mut command).await
}

/// All files below a directory that hold these bytes.
fn holders(directory: &Path, needle: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            holders(&path, needle, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && memchr::memmem::find(&bytes, needle).is_some()
        {
            found.push(path.display().to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_key_chooses_its_provider_and_says_so() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let root = new_root();
    let url = fake.url();
    let environment = [
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_HOST", url.as_str()),
        ("GOOSE_MODEL", "text"),
        ("GANDER_AUTO_MODEL", "true"),
    ];
    let ran = gander(root.path(), &environment, &["run", "hello"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("Just text."), "{}", ran.stdout);
    let reason = "anthropic/text (found: ANTHROPIC_API_KEY is set and no other provider's key is)";
    assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    let seen = fake.requests().pop().expect("a request");
    assert_eq!((seen.path.as_str(), seen.header("x-api-key")), ("/v1/messages", Some(KEY)));

    let mut two = environment.to_vec();
    two.push(("GROQ_API_KEY", "gsk_0123456789"));
    let ran = gander(root.path(), &two, &["run", "hello"]).await;
    // Not guessed, but said.
    assert!(ran.stderr.contains("model demo (the keys of several providers"), "{}", ran.stderr);
    assert!(ran.stderr.contains("ANTHROPIC_API_KEY, GROQ_API_KEY"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_its_name_point_a_provider_elsewhere() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let root = new_root();
    let base = format!("{}/proxy/v1", fake.url());
    let environment = [
        ("MISTRAL_API_KEY", KEY),
        ("MISTRAL_BASE_URL", base.as_str()),
        ("MISTRAL_AUTH", "x-api-key"),
        ("MISTRAL_CUSTOM_HEADERS", "X-Team: birds"),
        ("MISTRAL_TIMEOUT", "20"),
        ("GOOSE_PROVIDER", "mistral"),
        ("GOOSE_MODEL", "text"),
    ];
    let ran = gander(root.path(), &environment, &["run", "hello"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("Just text."), "{}", ran.stdout);
    let seen = fake.requests().pop().expect("a request");
    assert_eq!(seen.path, "/proxy/v1/chat/completions");
    let headers = ["x-api-key", "authorization", "x-team"].map(|name| seen.header(name));
    assert_eq!(headers, [Some(KEY), None, Some("birds")]);

    let mut wrong = environment.to_vec();
    wrong.push(("MISTRAL_CONNECT_TIMEOUT", "soon"));
    let ran = gander(root.path(), &wrong, &["run", "hello"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("MISTRAL_CONNECT_TIMEOUT"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_in_no_log_event_or_error() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let root = new_root();
    let url = fake.url();
    // A tool may find a key where it pleases; here it lies beside the work.
    let outside = tempfile::tempdir().expect("a directory");
    let file = outside.path().join("secret.txt");
    std::fs::write(&file, KEY).expect("a file");
    let environment = [
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_HOST", url.as_str()),
        ("RUST_LOG", "trace"),
        ("GANDER_LOG", "trace"),
    ];
    let cat = format!("call shell {{\"command\": \"cat {}\"}}", file.display());
    let mut all = String::new();
    for (arguments, code) in [
        // The provider's answer repeats the key.
        (vec!["run", "--json", "--model", "anthropic/401", "hello"], 1),
        (vec!["run", "--model", "anthropic/401", "hello"], 1),
        (vec!["provider", "check", "anthropic", "--model", "401"], 1),
        (vec!["run", "--json", "--demo", cat.as_str()], 0),
        (vec!["run", "--demo", cat.as_str()], 0),
        (vec!["config", "show"], 0),
        (vec!["provider", "list", "--json"], 0),
        (vec!["doctor"], 0),
    ] {
        let ran = gander(root.path(), &environment, &arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?}: {} {}", ran.stdout, ran.stderr);
        all.push_str(&ran.stdout);
        all.push_str(&ran.stderr);
    }
    assert!(all.contains("invalid x-api-key: [redacted]"), "the error itself is told: {all}");
    assert!(!all.contains("REALKEY"), "{all}");
    let asked = fake.requests().iter().filter(|seen| seen.header("x-api-key") == Some(KEY)).count();
    assert!(asked >= 3, "the provider itself gets the key");
    let mut found = Vec::new();
    holders(root.path(), b"REALKEY", &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_of_ones_own_are_defined_used_and_removed() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let mut providers = client.providers();
    let definition = format!(
        "{{\"display_name\":\"My Claude\",\"engine\":\"anthropic\",\"base_url\":\"{}\",\
         \"models\":[{{\"name\":\"text\",\"context_limit\":7}}],\"tomorrow\":{{\"n\":1}}}}",
        fake.url()
    );
    let create = pb::CreateCustomProviderRequest {
        definition_json: definition.clone(),
        api_key: Some(KEY.to_owned()),
        idempotency_key: "one".to_owned(),
    };
    let made = providers.create_custom_provider(create.clone()).await.expect("made").into_inner();
    let made = made.provider.expect("a provider");
    assert_eq!((made.provider_id.as_str(), made.has_api_key), ("custom_my_claude", true));
    assert!(made.definition_json.contains("tomorrow"), "{}", made.definition_json);
    assert!(!made.definition_json.contains("REALKEY"));
    providers.create_custom_provider(create).await.expect("the same again");
    let other = pb::CreateCustomProviderRequest {
        definition_json: definition.replace("7}", "8}"),
        ..pb::CreateCustomProviderRequest::default()
    };
    let taken = events::refused(providers.create_custom_provider(other.clone()).await);
    assert!(taken.is(ErrorReason::InvalidField), "{taken:?}");

    // It is used at once, without a restart.
    let mut session = events::bare_session(&daemon.work());
    session.model = Some(pb::ModelSelection {
        provider_id: made.provider_id.clone(),
        model_id: "text".to_owned(),
        ..pb::ModelSelection::default()
    });
    let session_id = events::create(&client, session).await;
    let said = events::complete(&client, &session_id, "hello").await;
    assert_eq!(events::agent_text(&said), "Just text.");
    assert_eq!(fake.requests().pop().expect("a request").header("x-api-key"), Some(KEY));

    let update = pb::UpdateCustomProviderRequest {
        provider_id: made.provider_id.clone(),
        definition_json: other.definition_json,
        ..pb::UpdateCustomProviderRequest::default()
    };
    let updated = providers.update_custom_provider(update).await.expect("updated").into_inner();
    assert!(updated.provider.expect("a provider").has_api_key, "the key stays");
    let get = pb::GetCustomProviderRequest { provider_id: made.provider_id.clone() };
    let got = providers.get_custom_provider(get.clone()).await.expect("known").into_inner();
    assert!(
        got.editable && got.provider.expect("a provider").definition_json.contains("\"context_limit\": 8")
    );
    let own = pb::GetCustomProviderRequest { provider_id: "openai".to_owned() };
    assert!(!providers.get_custom_provider(own).await.expect("known").into_inner().editable);

    let delete = |id: &str, allow_missing| pb::DeleteCustomProviderRequest {
        provider_id: id.to_owned(),
        allow_missing,
        ..pb::DeleteCustomProviderRequest::default()
    };
    let kept = events::refused(providers.delete_custom_provider(delete("openai", false)).await);
    assert!(kept.is(ErrorReason::InvalidField), "{kept:?}");
    providers.delete_custom_provider(delete(&made.provider_id, false)).await.expect("removed");
    providers.delete_custom_provider(delete(&made.provider_id, true)).await.expect("gone already");
    let gone = events::refused(providers.get_custom_provider(get).await);
    assert!(gone.is(ErrorReason::ProviderNotFound), "{gone:?}");
    let statuses =
        client.config().list_secret_statuses(pb::ListSecretStatusesRequest {}).await.expect("listed");
    let left = statuses.into_inner().secrets.into_iter().find(|s| s.key == "CUSTOM_MY_CLAUDE_API_KEY");
    assert!(left.is_none_or(|secret| !secret.present), "its key went with it");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_detected_and_models_known_by_any_name() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let url = fake.url();
    let daemon = TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        options.environment = environment_with(&root, &[("OPENAI_HOST", &url)]);
    })
    .await;
    let client = daemon.unix().await;
    let mut providers = client.providers();
    let detect = |api_key: &str| pb::DetectProviderRequest { api_key: api_key.to_owned() };
    let found = providers.detect_provider(detect("sk-proj-0123456789")).await.expect("found").into_inner();
    assert_eq!(found.provider_id, "openai");
    assert!(!found.models.is_empty());
    let before = fake.requests().len();
    let none = events::refused(providers.detect_provider(detect("nobody-knows-this")).await);
    assert!(none.is(ErrorReason::ProviderNotFound), "{none:?}");
    assert_eq!(fake.requests().len(), before, "an unknown key is shown to nobody");

    let info = |provider: &str, model: &str| pb::GetModelInfoRequest {
        provider_id: provider.to_owned(),
        model_id: model.to_owned(),
    };
    for (provider, model) in [
        ("", "claude-sonnet-4-5"),
        ("", "anthropic/claude-sonnet-4.5"),
        ("anthropic", "claude-sonnet-4-5-20250929"),
    ] {
        let known = providers.get_model_info(info(provider, model)).await.expect(model).into_inner();
        let facts = known.model.expect("a model");
        assert_eq!(
            (known.provider_id.as_str(), facts.context_window_tokens),
            ("anthropic", Some(200_000)),
            "{model}"
        );
        let price = facts.price.expect("a price");
        assert_eq!((price.input_micros, price.cache_read_micros), (Some(3_000_000), Some(300_000)));
        assert_eq!((facts.supports_tools, facts.supports_cache_control), (Some(true), Some(true)));
    }
    let unknown = events::refused(providers.get_model_info(info("", "no-such-model")).await);
    assert!(unknown.is(ErrorReason::ModelUnknown), "{unknown:?}");
    let nobody = events::refused(providers.get_model_info(info("nobody", "gpt-4o")).await);
    assert!(nobody.is(ErrorReason::ProviderNotFound), "{nobody:?}");
    let sign_in = pb::AuthenticateProviderRequest { provider_id: "openai".to_owned() };
    let refused = events::refused(providers.authenticate_provider(sign_in).await);
    assert!(
        refused.is(ErrorReason::NotImplemented) && refused.message.contains("OPENAI_API_KEY"),
        "{refused:?}"
    );
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_plays_back_offline_and_the_same() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let (root, tapes) = (new_root(), tempfile::tempdir().expect("a directory"));
    let tape = tapes.path().join("one").display().to_string();
    let url = fake.url();
    let environment = [
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_HOST", url.as_str()),
        ("GOOSE_PROVIDER", "anthropic"),
        ("GOOSE_MODEL", "text"),
    ];
    let recorded = gander(root.path(), &environment, &["run", "--record", &tape, "hello"]).await;
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    drop(fake);
    // Another root, no key, no server.
    let elsewhere = new_root();
    let replayed = gander(elsewhere.path(), &[], &["run", "--replay", &tape, "hello"]).await;
    assert_eq!((replayed.code, &replayed.stdout), (Some(0), &recorded.stdout), "{}", replayed.stderr);
    assert!(replayed.stderr.contains("anthropic/text (played back from a record)"), "{}", replayed.stderr);
    let other = gander(elsewhere.path(), &[], &["run", "--replay", &tape, "something else"]).await;
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("holds no further reply"), "{}", other.stderr);

    // With a tool, whose result is another one every time.
    let tape = tapes.path().join("two").display().to_string();
    let call = "call shell {\"command\": \"date +%s%N\"}";
    let recorded = gander(root.path(), &[], &["run", "--demo", "--record", &tape, call]).await;
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    assert_eq!(std::fs::read_dir(&tape).expect("a record").count(), 2);
    let replayed = gander(elsewhere.path(), &[], &["run", "--demo", "--replay", &tape, call]).await;
    assert_eq!((replayed.code, &replayed.stdout), (Some(0), &recorded.stdout), "{}", replayed.stderr);
    let mut found = Vec::new();
    holders(tapes.path(), b"REALKEY", &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_to_wait_that_one_session_hears_holds_for_all() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let url = fake.url();
    let daemon = TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        options.environment =
            environment_with(&root, &[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_HOST", url.as_str())]);
    })
    .await;
    let client = daemon.unix().await;
    let mut started = Vec::new();
    // The first is refused for seven seconds; the second would be answered, and is not even asked.
    for model_id in ["429", "text"] {
        let mut session = events::bare_session(&daemon.work());
        session.model = Some(pb::ModelSelection {
            provider_id: "anthropic".to_owned(),
            model_id: model_id.to_owned(),
            ..pb::ModelSelection::default()
        });
        let session_id = events::create(&client, session).await;
        let (turn_id, _) = events::start(&client, &session_id, "hello").await;
        let mut stream = events::watch(&client, &session_id, 0);
        let mut seen = Vec::new();
        events::until(&mut stream, &mut seen, "a wait", |payload| {
            use pb::session_event::Payload;
            match payload {
                Payload::ModelRetryScheduled(_) => true,
                Payload::StatusNoted(note) => note.code == "provider_pause",
                _ => false,
            }
        })
        .await;
        started.push((session_id, turn_id));
    }
    let asked: Vec<String> =
        fake.requests().iter().filter_map(|seen| Some(seen.body["model"].as_str()?.to_owned())).collect();
    assert!(!asked.contains(&"text".to_owned()), "the provider is left alone: {asked:?}");
    assert!(!asked.is_empty());
    for (session_id, turn_id) in started {
        events::cancel(&client, &session_id, &turn_id).await;
    }
    daemon.finish().await;
}

/// A vendor that exchanges one code for a key; gives its address.
async fn vendor() -> String {
    use axum::{Json, Router, http::StatusCode, routing::post};
    use serde_json::{Value, json};
    let exchange = |Json(body): Json<Value>| async move {
        let verified = body["code_verifier"].as_str().is_some_and(|verifier| verifier.len() >= 43);
        if body["code"] == "good-code" && verified && body["code_challenge_method"] == "S256" {
            (StatusCode::OK, Json(json!({"key": KEY})))
        } else {
            (StatusCode::FORBIDDEN, Json(json!({"error": {"message": "Invalid code", "code": 403}})))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = Router::new().route("/api/v1/auth/keys", post(exchange));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

/// What a browser does after the person agreed on this page.
async fn agree(page: &str, code: &str) {
    let page = reqwest::Url::parse(page).expect("a page");
    let callback =
        page.query_pairs().find(|(name, _)| name == "callback_url").expect("a way back").1.into_owned();
    let callback = callback.replace("localhost", "127.0.0.1");
    let answer = gander_bridge_tests::window::http_client().get(format!("{callback}?code={code}")).send();
    let answer = gander_bridge_tests::soon("the browser's return", answer).await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_with_a_browser_stores_a_key() {
    use pb::authenticate_provider_response::Step;
    let url = vendor().await;
    let daemon = TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        options.environment = environment_with(&root, &[("OPENROUTER_HOST", url.as_str())]);
    })
    .await;
    let client = daemon.unix().await;
    let mut providers = client.providers();
    let listed = providers.list_providers(pb::ListProvidersRequest {}).await.expect("listed").into_inner();
    let offering: Vec<&str> = listed
        .providers
        .iter()
        .filter(|provider| provider.config_keys.iter().any(|key| key.oauth_flow))
        .map(|provider| provider.provider_id.as_str())
        .collect();
    assert_eq!(offering, ["openrouter"]);

    let request = pb::AuthenticateProviderRequest { provider_id: "openrouter".to_owned() };
    for (code, granted) in [("bad-code", false), ("good-code", true)] {
        let mut steps = providers.authenticate_provider(request.clone()).await.expect("begun").into_inner();
        let mut last = None;
        while let Some(answer) = gander_bridge_tests::soon("a step", steps.message()).await.expect("a step") {
            if let Some(Step::OpenUrl(page)) = &answer.step {
                assert!(page.starts_with(&format!("{url}/auth?")), "{page}");
                agree(page, code).await;
            }
            last = answer.step;
        }
        match last.expect("an outcome") {
            Step::Succeeded(done) => {
                assert!(granted && done.provider.expect("the provider").configured);
            }
            Step::Failed(error) => {
                assert!(!granted && error.message.contains("Invalid code"), "{error:?}");
                assert_eq!(error.reason(), ErrorReason::ProviderUnauthenticated);
            }
            other => panic!("{other:?}"),
        }
    }
    let status = pb::GetSecretStatusRequest { key: "OPENROUTER_API_KEY".to_owned() };
    let secret = client.config().get_secret_status(status).await.expect("known").into_inner().secret;
    let secret = secret.expect("a secret");
    assert_eq!((secret.present, secret.last_four.as_str()), (true, &KEY[KEY.len() - 4..]));
    // Given up by whoever began it: the port is closed.
    let mut steps = providers.authenticate_provider(request).await.expect("begun").into_inner();
    let page = loop {
        let step =
            gander_bridge_tests::soon("a step", steps.message()).await.expect("a step").expect("a step");
        if let Some(Step::OpenUrl(page)) = step.step {
            break reqwest::Url::parse(&page).expect("a page");
        }
    };
    drop(steps);
    let callback =
        page.query_pairs().find(|(name, _)| name == "callback_url").expect("a way back").1.into_owned();
    let port = reqwest::Url::parse(&callback).expect("an address").port().expect("a port");
    gander_bridge_tests::eventually(std::time::Duration::from_secs(10), "a closed port", || async move {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err().then_some(())
    })
    .await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_missing_is_an_error_over_every_protocol_and_never_the_demo() {
    use serde_json::json;
    for (environment, words) in [
        (vec![], "no model is configured"),
        (vec![("GOOSE_PROVIDER", "groq"), ("ANTHROPIC_API_KEY", KEY)], "GROQ_API_KEY"),
        (
            vec![
                ("GROQ_API_KEY", "gsk_0123456789"),
                ("ANTHROPIC_API_KEY", KEY),
                ("GANDER_AUTO_MODEL", "true"),
            ],
            "ANTHROPIC_API_KEY, GROQ_API_KEY",
        ),
    ] {
        let daemon = TestDaemon::start_with(|options| {
            let root = options.root.clone().expect("a root");
            options.environment = environment_with(&root, &environment);
        })
        .await;
        let client = daemon.unix().await;
        let request =
            pb::CreateSessionRequest { demo_allowed: false, ..events::bare_session(&daemon.work()) };
        let refused = match client.sessions().create_session(request).await {
            Err(status) => gander_client::ClientError::from(status),
            Ok(made) => {
                let session = made.into_inner().session.expect("a session").session_id;
                events::refused(client.turns().start_turn(events::turn(&session, "hello")).await)
            }
        };
        assert!(refused.is(ErrorReason::ProviderNotConfigured), "{refused:?}");
        assert!(refused.message.contains(words), "{words}: {refused:?}");

        let http = gander_bridge_tests::window::Http::new(&daemon.url(), daemon.token());
        let mut told = http.post("/agent/start", &json!({ "working_dir": daemon.work() })).await;
        if let Some(id) = told.body["id"].as_str().map(str::to_owned) {
            let message = json!({
                "id": "m1", "role": "user", "created": 1_772_700_000,
                "content": [{ "type": "text", "text": "hello" }],
                "metadata": { "userVisible": true, "agentVisible": true }
            });
            told = http.post("/reply", &json!({ "session_id": id, "user_message": message })).await;
        }
        let told = format!("{told:?}");
        assert!(told.contains(words) && !told.contains("demo model"), "{words}: {told}");

        let mut peer = crate::acp_peer::Peer::open(
            daemon.unix().await,
            gander_acp::Options { demo_allowed: false, ..crate::acp_peer::options() },
        );
        peer.initialize(json!({})).await;
        let answer = peer.call("session/new", json!({ "cwd": daemon.work(), "mcpServers": [] })).await;
        assert_eq!(crate::acp::code(&answer), -32000, "{answer:?}");
        let error = answer.expect_err("an error").to_string();
        assert!(error.contains(words), "{words}: {error}");
        peer.close().await;
        daemon.finish().await;

        // What is configured and fails is an error on the command line, too.
        let ran = gander(new_root().path(), &environment, &["run", "hello"]).await;
        let configured = environment.iter().any(|(name, _)| *name == "GOOSE_PROVIDER");
        assert_eq!(ran.code, Some(i32::from(configured)), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("model demo"), !configured, "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_model_when_the_next_one_cannot_work() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let made = client.sessions().create_session(events::bare_session(&daemon.work())).await;
    let session_id = made.expect("a session").into_inner().session.expect("a session").session_id;
    let choose = |provider_id: &str| pb::UpdateSessionRequest {
        session: Some(pb::Session {
            session_id: session_id.clone(),
            model: Some(pb::ModelSelection {
                provider_id: provider_id.to_owned(),
                model_id: "m".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["model".to_owned()] }),
        ..Default::default()
    };
    for (provider_id, reason, words) in [
        ("nobody", ErrorReason::ProviderNotFound, "nobody"),
        ("groq", ErrorReason::ProviderNotConfigured, "GROQ_API_KEY"),
    ] {
        let refused = events::refused(client.sessions().update_session(choose(provider_id)).await);
        assert!(refused.is(reason) && refused.message.contains(words), "{refused:?}");
    }
    let request = pb::GetSessionRequest { session_id: session_id.clone() };
    let kept = client.sessions().get_session(request).await.expect("a session").into_inner();
    assert_eq!(kept.session.expect("a session").model, None);
    client
        .sessions()
        .update_session(choose("demo"))
        .await
        .expect("the demo model, as nothing else is wanted");
    daemon.finish().await;
}
