use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use gander_config::{ConfigOptions, Environment, Paths};

use gander_domain::session::ThoughtLevel;

use super::*;

struct Place {
    directory: tempfile::TempDir,
    config: ConfigHandle,
}

/// A configuration in a directory of its own; local servers are looked for where nobody listens.
fn place(environment: &[(&str, &str)], yaml: &str) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = [
        ("OLLAMA_HOST", "http://127.0.0.1:1"),
        ("LMSTUDIO_HOST", "http://127.0.0.1:1"),
        ("LLAMACPP_HOST", "http://127.0.0.1:1"),
    ];
    let nowhere = nowhere.iter().filter(|(name, _)| !environment.iter().any(|(given, _)| given == name));
    let environment: Environment = nowhere.chain(environment).copied().collect();
    let paths = Paths::resolve(Some(directory.path()), &environment).unwrap();
    paths.create_dirs().unwrap();
    std::fs::write(paths.config_file(), yaml).unwrap();
    let config = ConfigHandle::open(ConfigOptions::new(paths, environment)).unwrap();
    Place { directory, config }
}

fn models(place: &Place) -> ConfigModels {
    let directory = place.config.paths().custom_providers_dir();
    ConfigModels::new(place.config.clone(), ProviderRegistry::with_directory(&directory))
}

fn resolved(place: &Place, demo: bool) -> Result<(String, String, String), ErrorDetail> {
    models(place).resolve(None, demo).map(|found| {
        (found.selection.provider_id.clone(), found.selection.model_id.clone(), found.reason.clone())
    })
}

/// A server on this machine that lists one model.
fn local_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 2048]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"data\":[{\"id\":\"mine:7b\"}]}");
        }
    });
    url
}

#[test]
fn what_is_configured_comes_first_and_fails_rather_than_falls() {
    let all = [("ANTHROPIC_API_KEY", "sk-ant-1"), ("GOOSE_PROVIDER", "groq"), ("GOOSE_MODEL", "m-1")];
    let error = resolved(&place(&all, ""), true).unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderNotConfigured);
    assert!(error.message.contains("GROQ_API_KEY"), "{}", error.message);
    let all = [("ANTHROPIC_API_KEY", "sk-ant-1"), ("GROQ_API_KEY", "gsk_1")];
    let configured = resolved(&place(&all, "GOOSE_PROVIDER: groq\nGOOSE_MODEL: m-1\n"), true).unwrap();
    assert_eq!((configured.0.as_str(), configured.1.as_str()), ("groq", "m-1"));
    assert!(configured.2.contains("GOOSE_PROVIDER"), "{}", configured.2);
}

#[test]
fn a_single_key_chooses_its_provider_and_says_so() {
    let one = place(&[("ANTHROPIC_API_KEY", "sk-ant-1")], "");
    let (provider, model, reason) = resolved(&one, true).unwrap();
    assert_eq!((provider.as_str(), model.as_str()), ("anthropic", "claude-sonnet-4-5"));
    assert_eq!(reason, "found: ANTHROPIC_API_KEY is set and no other provider's key is");
    assert_eq!(resolved(&one, false).unwrap().0, "anthropic", "over every adapter");
    let wanted = ModelSelection { model_id: "claude-x".to_owned(), ..ModelSelection::default() };
    let found = models(&one).resolve(Some(&wanted), true).unwrap().selection;
    assert_eq!((found.provider_id.as_str(), found.model_id.as_str()), ("anthropic", "claude-x"));

    let two = place(&[("ANTHROPIC_API_KEY", "sk-ant-1"), ("OPENAI_API_KEY", "sk-1")], "");
    let error = resolved(&two, false).unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderNotConfigured);
    assert!(error.message.contains("ANTHROPIC_API_KEY, OPENAI_API_KEY"), "{}", error.message);
    let (provider, _, reason) = resolved(&two, true).unwrap();
    assert_eq!(provider, "demo");
    assert!(reason.contains("ANTHROPIC_API_KEY, OPENAI_API_KEY"), "{reason}");
    // A policy that leaves one of them leaves no doubt.
    let off = place(&[("ANTHROPIC_API_KEY", "sk-ant-1")], "gander.auto_model: false\n");
    assert_eq!(resolved(&off, false).unwrap_err().reason, ErrorReason::ProviderNotConfigured);
    assert_eq!(resolved(&off, true).unwrap().0, "demo");
}

#[test]
fn the_configured_thought_level_is_for_models_that_can_choose() {
    let keys = [("ANTHROPIC_API_KEY", "sk-ant-1")];
    let level_of = |place: &Place, model: &str, own: Option<ThoughtLevel>| {
        let wanted =
            ModelSelection { model_id: model.to_owned(), thought_level: own, ..ModelSelection::default() };
        models(place).resolve(Some(&wanted), false).unwrap().selection.thought_level
    };
    let high = place(&keys, "GOOSE_THINKING_EFFORT: High\n");
    for (model, wanted) in [
        ("claude-sonnet-4-5", Some(ThoughtLevel::High)),
        ("claude-3-5-haiku-latest", None),
        ("somebody-elses", None),
    ] {
        assert_eq!(level_of(&high, model, None), wanted, "{model}");
    }
    let own = level_of(&high, "claude-sonnet-4-5", Some(ThoughtLevel::Off));
    assert_eq!(own, Some(ThoughtLevel::Off), "the session's own comes first");
    for nothing in ["", "GOOSE_THINKING_EFFORT: lots\n"] {
        assert_eq!(level_of(&place(&keys, nothing), "claude-sonnet-4-5", None), None, "{nothing}");
    }
}

#[test]
fn without_a_key_a_local_server_answers_and_without_one_the_demo_if_allowed() {
    let url = local_server();
    let served = place(&[("LMSTUDIO_HOST", &url)], "");
    let (provider, model, reason) = resolved(&served, false).unwrap();
    assert_eq!((provider.as_str(), model.as_str()), ("lmstudio", "mine:7b"));
    assert!(reason.starts_with("found: LM Studio answers at 127.0.0.1:"), "{reason}");
    let keyed = place(&[("LMSTUDIO_HOST", &url), ("GROQ_API_KEY", "gsk_1")], "");
    assert_eq!(resolved(&keyed, false).unwrap().0, "groq");

    let nothing = place(&[], "");
    let error = resolved(&nothing, false).unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderNotConfigured);
    assert!(error.message.starts_with("no model is configured"), "{}", error.message);
    let (provider, _, reason) = resolved(&nothing, true).unwrap();
    assert_eq!(provider, "demo");
    assert!(reason.contains("demo"), "{reason}");
}

#[derive(Debug)]
struct OneAgent;

impl gander_model::ProviderSource for OneAgent {
    fn list(&self, _settings: &dyn Settings) -> Vec<(ProviderInfo, bool)> {
        let demo = ProviderRegistry::bundled().info("demo").unwrap();
        let agent = |id: &str| ProviderInfo {
            provider_id: id.to_owned(),
            display_name: format!("The {id}"),
            kind: "agent".to_owned(),
            ..demo.clone()
        };
        vec![(agent("absent-acp"), false), (agent("present-acp"), true)]
    }

    fn create(
        &self,
        provider_id: &str,
        settings: &dyn Settings,
    ) -> Option<Result<Arc<dyn ModelProvider>, gander_model::ProviderSetupError>> {
        (provider_id == "present-acp").then(|| ProviderRegistry::bundled().create("demo", settings))
    }

    fn takes_engine(&self, engine: &str) -> bool {
        engine == "acp"
    }
}

#[test]
fn an_installed_agent_comes_last() {
    let nothing = place(&[], "");
    let registry = ProviderRegistry::bundled().with_source(Arc::new(OneAgent));
    let models = ConfigModels::new(nothing.config.clone(), registry);
    let found = models.resolve(None, true).unwrap();
    assert_eq!(found.selection.provider_id, "present-acp");
    assert_eq!(found.reason, "found: the agent The present-acp is installed");
}

#[test]
fn definitions_are_noticed_when_they_change() {
    let place = place(&[("CUSTOM_MINE_API_KEY", "key-12345678")], "");
    let models = models(&place);
    assert!(models.definition("custom_mine").is_none());
    let document = "{\"name\":\"custom_mine\",\"engine\":\"anthropic\",\"base_url\":\"http://127.0.0.1:1\",\
                     \"models\":[{\"name\":\"m\"}],\"tomorrow\":{\"a\":[1]}}";
    place.config.write_custom_provider("custom_mine", document).unwrap();
    models.reload();
    let known = models.definition("custom_mine").unwrap();
    assert!(known.custom && known.has_key);
    assert!(known.definition_json.contains("\"tomorrow\""), "{}", known.definition_json);
    assert!(!known.definition_json.contains("key-12345678"));
    assert!(models.provider("custom_mine").is_ok());
    place.config.remove_custom_provider("custom_mine").unwrap();
    models.reload();
    assert_eq!(models.provider("custom_mine").err().unwrap().reason, ErrorReason::ProviderNotFound);
    assert!(!models.definition("openai").unwrap().custom);
    drop(place.directory);
}

#[test]
fn only_a_search_for_servers_may_wait() {
    let url = local_server();
    let served = place(&[("LMSTUDIO_HOST", &url)], "");
    let found = models(&served);
    let wanted = |provider_id: &str| selection(provider_id.to_owned(), "m".to_owned());
    assert!(!found.may_wait(Some(&wanted("groq"))), "the session has chosen");
    assert!(found.may_wait(None));
    assert!(found.may_wait(Some(&wanted(""))), "a model without a provider chooses nothing");
    found.resolve(None, false).unwrap();
    assert!(!found.may_wait(None), "the answer is good for a while");
    assert!(!models(&place(&[("GOOSE_PROVIDER", "groq")], "")).may_wait(None));
    assert!(!models(&place(&[], "gander.auto_model: false\n")).may_wait(None));
}

#[test]
fn a_keyring_that_cannot_be_read_is_an_error_and_nothing_stands_in() {
    let bus = [("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")];
    let chosen = "gander.secret_store: keyring\n";
    for (yaml, allowed) in [
        (chosen.to_owned(), false),
        (chosen.to_owned(), true),
        (format!("{chosen}GOOSE_PROVIDER: groq\n"), true),
    ] {
        let error = resolved(&place(&bus, &yaml), allowed).unwrap_err();
        assert_eq!(error.reason, ErrorReason::SecretStoreUnavailable, "{yaml}");
        assert!(
            error.message.contains("no session bus") && error.message.contains("secret_store file"),
            "{error:?}"
        );
    }
    // What needs no key works, and what the environment holds as well.
    let demo = place(&bus, &format!("{chosen}GOOSE_PROVIDER: demo\n"));
    assert_eq!(resolved(&demo, false).unwrap().0, "demo");
    let keyed = place(&[bus[0], ("GROQ_API_KEY", "gsk_1")], chosen);
    assert_eq!(resolved(&keyed, false).unwrap().0, "groq");
    // Reading it may wait, so it is done beside the async tasks.
    assert!(models(&place(&bus, chosen)).may_wait(Some(&selection("groq".to_owned(), "m".to_owned()))));
}
