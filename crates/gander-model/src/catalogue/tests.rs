use std::collections::HashMap;

use futures::StreamExt as _;
use http::HeaderValue;

use super::*;
use crate::{
    VendorOptions,
    testing::{
        FakeOpenAi,
        fixtures::{request, user},
    },
};

#[derive(Default)]
struct Given {
    values: HashMap<&'static str, String>,
    secrets: HashMap<&'static str, String>,
}

impl Given {
    fn value(mut self, key: &'static str, value: &str) -> Self {
        self.values.insert(key, value.to_owned());
        self
    }

    fn with_secret(mut self, key: &'static str, value: &str) -> Self {
        self.secrets.insert(key, value.to_owned());
        self
    }
}

impl Settings for Given {
    fn value(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    fn secret(&self, key: &str) -> Option<String> {
        self.secrets.get(key).cloned()
    }
}

fn options(id: &str, given: &Given) -> Result<VendorOptions, ProviderSetupError> {
    let registry = ProviderRegistry::bundled();
    let entry = registry.entries.iter().find(|entry| entry.file.name == id).unwrap();
    resolve::options(&entry.file, entry.info.clone(), given)
}

fn configured(registry: &ProviderRegistry, given: &Given) -> Vec<String> {
    registry.list(given).into_iter().filter(|(_, yes)| *yes).map(|(info, _)| info.provider_id).collect()
}

#[test]
fn bundled_files_are_valid_and_use_known_dialects() {
    let registry = ProviderRegistry::bundled();
    assert_eq!(registry.problems(), []);
    assert_eq!(registry.entries.len(), BUNDLED.len());
    for entry in &registry.entries {
        assert!(entry.file.unknown.is_empty(), "{}: {:?}", entry.file.name, entry.file.unknown);
        if let Some(dialect) = &entry.file.dialect {
            assert!(crate::rig_adapter::knows_dialect(dialect), "{dialect}");
        }
        let with_key = Given::default().with_secret("ANY", "x");
        // Every address is complete without settings, whether or not a key is needed.
        match resolve::options(&entry.file, entry.info.clone(), &with_key) {
            Ok(options) => {
                let path = options.url.split('?').next().unwrap();
                assert!(path.ends_with(options.format.path()), "{}", options.url);
            }
            Err(ProviderSetupError::MissingKey { provider_id, key }) => {
                let required =
                    entry.file.env_vars.iter().flatten().any(|var| var.required && var.name == key);
                assert!(required || key == entry.file.key_name(), "{provider_id} {key}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn addresses_follow_the_settings() {
    let key = || Given::default().with_secret("OPENAI_API_KEY", "sk-test-123456");
    for (id, given, wanted) in [
        ("openai", key(), "https://api.openai.com/v1/responses"),
        (
            "openai",
            key().value("OPENAI_BASE_PATH", "v1/chat/completions"),
            "https://api.openai.com/v1/chat/completions",
        ),
        ("openai", key().value("OPENAI_BASE_URL", "http://h/v1/responses"), "http://h/v1/responses"),
        ("openai", key().value("OPENAI_BASE_URL", "http://h"), "http://h/v1/chat/completions"),
        (
            "anthropic",
            Given::default().with_secret("ANTHROPIC_API_KEY", "sk-ant-1"),
            "https://api.anthropic.com/v1/messages",
        ),
        (
            "anthropic",
            Given::default()
                .with_secret("ANTHROPIC_API_KEY", "sk-ant-1")
                .value("ANTHROPIC_BASE_URL", "http://p/x"),
            "http://p/x/v1/messages",
        ),
        (
            "zai",
            Given::default().with_secret("ZAI_API_KEY", "k"),
            "https://api.z.ai/api/anthropic/v1/messages",
        ),
        (
            "google",
            Given::default().with_secret("GEMINI_API_KEY", "AIza-1"),
            "https://generativelanguage.googleapis.com/v1beta/models/{model}:streamGenerateContent?alt=sse",
        ),
        (
            "azure_openai",
            Given::default()
                .with_secret("AZURE_OPENAI_API_KEY", "k")
                .value("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com/"),
            "https://me.openai.azure.com/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
        ),
        (
            "azure_openai",
            Given::default()
                .with_secret("AZURE_OPENAI_API_KEY", "k")
                .value("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com")
                .value("AZURE_OPENAI_DEPLOYMENT_NAME", "mine")
                .value("AZURE_OPENAI_API_VERSION", "v"),
            "https://me.openai.azure.com/openai/deployments/mine/chat/completions?api-version=v",
        ),
        (
            "aws_bedrock",
            Given::default().with_secret("AWS_BEARER_TOKEN_BEDROCK", "k").value("AWS_REGION", "eu-west-1"),
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/{model}/converse-stream",
        ),
        (
            "openai",
            key().value("OPENAI_HOST", "https://proxy.test/"),
            "https://proxy.test/v1/chat/completions",
        ),
        (
            "openai",
            key().value("OPENAI_HOST", "http://h").value("OPENAI_BASE_PATH", "/x/chat/completions"),
            "http://h/x/chat/completions",
        ),
        ("openai", key().value("OPENAI_BASE_URL", "http://h/v2"), "http://h/v2/chat/completions"),
        ("ollama", Given::default(), "http://localhost:11434/v1/chat/completions"),
        ("ollama", Given::default().value("OLLAMA_HOST", "box"), "http://box:11434/v1/chat/completions"),
        ("ollama", Given::default().value("OLLAMA_HOST", "box:99"), "http://box:99/v1/chat/completions"),
        (
            "ollama",
            Given::default().value("OLLAMA_HOST", "https://o.test"),
            "https://o.test/v1/chat/completions",
        ),
        ("litellm", Given::default().value("LITELLM_HOST", "http://l:1"), "http://l:1/v1/chat/completions"),
        (
            "groq",
            Given::default().with_secret("GROQ_API_KEY", "gsk_0123456789"),
            "https://api.groq.com/openai/v1/chat/completions",
        ),
        (
            "mistral",
            Given::default().with_secret("MISTRAL_API_KEY", "0123456789"),
            "https://api.mistral.ai/v1/chat/completions",
        ),
    ] {
        assert_eq!(options(id, &given).map(|options| options.url), Ok(wanted.to_owned()), "{id}");
    }
    let check =
        options("openrouter", &Given::default().with_secret("OPENROUTER_API_KEY", "sk-or-12345678")).unwrap();
    assert_eq!(check.check_url.as_deref(), Some("https://openrouter.ai/api/v1/key"));
    assert_eq!(check.models_url.as_deref(), Some("https://openrouter.ai/api/v1/models"));
    let bad = options("openai", &key().value("OPENAI_HOST", "http://")).map(|_| ());
    assert!(matches!(bad, Err(ProviderSetupError::Invalid { .. })), "{bad:?}");
}

#[test]
fn headers_keys_and_timeouts_come_from_settings() {
    let given = Given::default()
        .with_secret("OPENAI_API_KEY", " sk-test-123456 ")
        .with_secret("OPENAI_CUSTOM_HEADERS", "X-One: 1, X-Two=2")
        .value("OPENAI_ORGANIZATION", "org-9")
        .value("OPENAI_TIMEOUT", "33");
    let options = options("openai", &given).unwrap();
    let header = |name: &str| options.headers.get(name).map(HeaderValue::as_bytes);
    assert_eq!(header("authorization"), Some(&b"Bearer sk-test-123456"[..]));
    assert_eq!(header("openai-organization"), Some(&b"org-9"[..]));
    assert_eq!(header("openai-project"), None);
    assert_eq!((header("x-one"), header("x-two")), (Some(&b"1"[..]), Some(&b"2"[..])));
    assert_eq!(options.read_timeout.as_secs(), 33);
    assert_eq!(options.connect_timeout.as_secs(), 10);
    assert!(!format!("{:?}", options.headers).contains("sk-test"));
    let bad = super::tests::options("openai", &given.value("OPENAI_TIMEOUT", "soon")).map(|_| ());
    assert!(
        matches!(&bad, Err(ProviderSetupError::Invalid { message, .. }) if message.contains("OPENAI_TIMEOUT"))
    );
}

#[test]
fn a_missing_key_is_named_and_local_servers_need_none() {
    let missing = options("openai", &Given::default()).map(|_| ());
    let wanted =
        ProviderSetupError::MissingKey { provider_id: "openai".to_owned(), key: "OPENAI_API_KEY".to_owned() };
    assert_eq!(missing, Err(wanted));
    // A server of one's own that speaks OpenAI needs no key.
    assert!(options("openai", &Given::default().value("OPENAI_HOST", "http://localhost:1")).is_ok());
    assert!(options("openai", &Given::default().value("OPENAI_HOST", "https://api.openai.com")).is_err());

    let registry = ProviderRegistry::bundled();
    assert_eq!(configured(&registry, &Given::default()), ["demo"]);
    let some =
        Given::default().with_secret("GROQ_API_KEY", "gsk_0123456789").value("OLLAMA_HOST", "localhost");
    assert_eq!(configured(&registry, &some), ["ollama", "groq", "demo"]);
    assert_eq!(configured(&registry, &Given::default().value("GOOSE_PROVIDER", "vllm")), ["vllm", "demo"]);
    assert!(matches!(
        registry.create("nobody", &Given::default()).map(|_| ()),
        Err(ProviderSetupError::Unknown(id)) if id == "nobody"
    ));
    assert_eq!(registry.create("demo", &Given::default()).unwrap().info().provider_id, "demo");
}

#[test]
fn config_keys_say_what_a_provider_needs() {
    let registry = ProviderRegistry::bundled();
    let keys = registry.info("openai").unwrap().config_keys;
    let names: Vec<(&str, bool, bool)> =
        keys.iter().map(|key| (key.name.as_str(), key.required, key.secret)).collect();
    assert_eq!(names[0], ("OPENAI_API_KEY", true, true));
    assert!(names.contains(&("OPENAI_HOST", false, false)));
    assert!(names.contains(&("OPENAI_CUSTOM_HEADERS", false, true)));
    assert_eq!(keys[1].default.as_deref(), Some("https://api.openai.com"));
    let info = registry.info("openai").unwrap();
    assert_eq!((info.default_model_id.as_deref(), info.kind.as_str()), (Some("gpt-4o"), "builtin"));
    assert_eq!(info.models[0].context_window_tokens, Some(128_000));
}

#[tokio::test]
async fn files_of_the_user_are_read_and_bad_ones_reported() {
    let fake = FakeOpenAi::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "custom_mine.json",
        &format!(
            "{{\"name\":\"custom_mine\",\"engine\":\"openai_compatible\",\"display_name\":\"Mine\",\"api_key_env\":\"\",\
             \"base_url\":\"{}/v1\",\"models\":[{{\"name\":\"text\",\"context_limit\":7,\"novelty\":1}}],\
             \"headers\":{{\"x-team\":\"a\"}},\"supports_streaming\":true,\"requires_auth\":true,\"future_field\":[1]}}",
            fake.url()
        ),
    );
    write("broken.json", "{ not json");
    write("engine.json", "{\"name\":\"e\",\"engine\":\"abacus\",\"base_url\":\"http://x\"}");
    write("name.json", "{\"name\":\"No Good\",\"engine\":\"openai\",\"base_url\":\"http://x\"}");
    write("groq.json", "{\"name\":\"groq\",\"engine\":\"openai\",\"base_url\":\"http://mine.test/v1\"}");
    write("notes.txt", "no provider");

    let registry = ProviderRegistry::with_directory(directory.path());
    let problems: Vec<String> = registry
        .problems()
        .iter()
        .map(|problem| {
            format!("{}: {}", problem.path.file_name().unwrap().to_string_lossy(), problem.message)
        })
        .collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[1].starts_with("engine.json: engine \"abacus\""), "{problems:?}");
    let file = registry.file("custom_mine").unwrap();
    assert_eq!(file.unknown["future_field"], serde_json::json!([1]));
    let again = serde_json::to_value(file).unwrap();
    assert_eq!(again["future_field"], serde_json::json!([1]));
    assert_eq!(again["models"][0]["novelty"], 1);
    assert_eq!(registry.info("custom_mine").unwrap().kind, "custom");
    assert_eq!(registry.info("groq").unwrap().kind, "custom");

    let given = Given::default().with_secret("CUSTOM_MINE_API_KEY", "sk-mine-123456");
    assert!(configured(&registry, &given).contains(&"custom_mine".to_owned()));
    let provider = registry.create("custom_mine", &given).unwrap();
    let said: Vec<_> = provider.stream(request("text", vec![user("hi")])).collect().await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
    let seen = fake.requests().pop().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer sk-mine-123456"));
    assert_eq!(seen.header("x-team"), Some("a"));
    let none = ProviderRegistry::with_directory(&directory.path().join("missing"));
    assert_eq!(none.problems(), []);
}

#[test]
fn keys_go_into_the_header_that_their_vendor_wants() {
    for (id, key_name, header, wanted) in [
        ("anthropic", "ANTHROPIC_API_KEY", "x-api-key", "key-1"),
        ("google", "GOOGLE_API_KEY", "x-goog-api-key", "key-1"),
        ("google", "GEMINI_API_KEY", "x-goog-api-key", "key-1"),
        ("azure_openai", "AZURE_OPENAI_API_KEY", "api-key", "key-1"),
        ("aws_bedrock", "AWS_BEARER_TOKEN_BEDROCK", "authorization", "Bearer key-1"),
        ("openai", "OPENAI_API_KEY", "authorization", "Bearer key-1"),
        ("minimax", "MINIMAX_API_KEY", "x-api-key", "key-1"),
    ] {
        let given =
            Given::default().with_secret(key_name, "key-1").value("AZURE_OPENAI_ENDPOINT", "https://a.test");
        let options = options(id, &given).unwrap();
        assert_eq!(options.headers.get(header).map(HeaderValue::as_bytes), Some(wanted.as_bytes()), "{id}");
        assert!(options.secrets.contains(&"key-1".to_owned()), "{id}");
        let version = options.headers.contains_key("anthropic-version");
        assert_eq!(version, options.format == crate::Format::Anthropic, "{id}");
    }
    let signed = Given::default()
        .with_secret("AWS_ACCESS_KEY_ID", "AKIA1")
        .with_secret("AWS_SECRET_ACCESS_KEY", "secret-1")
        .value("AWS_REGION", "eu-west-1");
    let options = super::tests::options("aws_bedrock", &signed).unwrap();
    assert_eq!(options.aws.as_ref().map(|aws| aws.region.as_str()), Some("eu-west-1"));
    assert!(options.secrets.contains(&"secret-1".to_owned()));
    assert!(!options.headers.contains_key("authorization"));
    let missing = super::tests::options("aws_bedrock", &Given::default()).map(|_| ());
    assert!(
        matches!(missing, Err(ProviderSetupError::MissingKey { key, .. }) if key == "AWS_BEARER_TOKEN_BEDROCK")
    );
}

#[test]
fn a_key_alone_names_its_provider() {
    let registry = ProviderRegistry::bundled();
    let keys = |given: Given| registry.with_key(&given);
    let pair = |id: &str, key: &str| (id.to_owned(), key.to_owned());
    assert_eq!(keys(Given::default()), []);
    let one = Given::default().with_secret("ANTHROPIC_API_KEY", "sk-ant-1").with_secret("HF_TOKEN", "hf_1");
    assert_eq!(keys(one), [pair("anthropic", "ANTHROPIC_API_KEY")]);
    let two = Given::default().with_secret("GEMINI_API_KEY", "AIza1").with_secret("GROQ_API_KEY", "gsk_1");
    assert_eq!(keys(two), [pair("google", "GEMINI_API_KEY"), pair("groq", "GROQ_API_KEY")]);
}

#[tokio::test]
async fn a_key_is_shown_only_to_providers_whose_keys_look_like_it() {
    let fake = FakeOpenAi::start().await.unwrap();
    let registry = ProviderRegistry::bundled();
    let given = Given::default().value("OPENAI_HOST", &fake.url()).value("ANTHROPIC_HOST", &fake.url());
    let ids = |key: &str| -> Vec<String> {
        registry.by_key(key, &given).iter().map(|provider| provider.info().provider_id.clone()).collect()
    };
    assert_eq!(ids("sk-ant-api03-x"), ["anthropic"]);
    assert_eq!(ids("sk-proj-abc"), ["openai"]);
    assert_eq!(ids("sk-0123456789"), ["openai", "deepseek"]);
    assert_eq!(ids("gsk_x"), ["groq"]);
    assert_eq!(ids("something-else"), Vec::<String>::new());
    registry.by_key("sk-proj-abc", &given)[0].check().await.unwrap();
    assert_eq!(fake.requests().pop().unwrap().header("authorization"), Some("Bearer sk-proj-abc"));
}

/// Every vendor that comes with gander: address, path, way of the key, headers and timeouts are settings.
#[test]
fn every_vendor_can_be_pointed_elsewhere() {
    let registry = ProviderRegistry::bundled();
    assert_eq!(registry.entries.len(), BUNDLED.len());
    for entry in &registry.entries {
        let file = &entry.file;
        let id = file.name.as_str();
        let name = |what: &str| -> &'static str { Box::leak(file.setting_name(what).into_boxed_str()) };
        let leak = |name: String| -> &'static str { Box::leak(name.into_boxed_str()) };
        let key_name = leak(file.key_name());
        let at = |base: &str| {
            Given::default().with_secret(key_name, "key-0123456789").value(leak(file.base_url_name()), base)
        };
        let options = |given: &Given| resolve::options(file, entry.info.clone(), given).unwrap();
        // The address alone: the dialect's usual path below it, and none of the vendor's own parameters.
        let moved = options(&at("http://10.1.2.3:99/proxy/v1"));
        let path = moved.format.path();
        let query = if moved.format == crate::Format::Google { "?alt=sse" } else { "" };
        assert_eq!(moved.url, format!("http://10.1.2.3:99/proxy/v1{path}{query}"), "{id}");
        assert!(configured(&registry, &at("http://10.1.2.3:99/v1")).contains(&id.to_owned()), "{id}");
        // With a path of one's own.
        if let Some(path_name) = file.base_path_name() {
            let there = options(&at("http://10.1.2.3:99").value(leak(path_name), "/a/b?c=d"));
            assert_eq!(there.url, "http://10.1.2.3:99/a/b?c=d", "{id}");
        }
        // The whole address, path included.
        let whole = format!("http://10.1.2.3:99/x{path}");
        assert!(options(&at(&whole)).url.starts_with(&whole), "{id}");
        // The way of the key.
        for (auth, header, value) in [
            ("bearer", "authorization", "Bearer key-0123456789"),
            ("api_key_header", "api-key", "key-0123456789"),
            ("x-api-key", "x-api-key", "key-0123456789"),
            ("x-goog-api-key", "x-goog-api-key", "key-0123456789"),
        ] {
            let sent = options(&at("http://h:1").value(name("AUTH"), auth));
            assert_eq!(sent.headers.get(header).unwrap().to_str().unwrap(), value, "{id} {auth}");
            let keys = ["authorization", "api-key", "x-api-key", "x-goog-api-key"];
            let sent = keys.iter().filter(|name| sent.headers.contains_key(**name)).count();
            assert_eq!(sent, 1, "{id} {auth}: the key goes into one header");
        }
        let open = options(&at("http://h:1").value(name("AUTH"), "none"));
        assert!(!format!("{:?}", open.headers).contains("key-0123456789"), "{id}");
        let wrong = at("http://h:1").value(name("AUTH"), "telepathy");
        let wrong = resolve::options(file, entry.info.clone(), &wrong).map(|_| ()).unwrap_err();
        assert!(wrong.to_string().contains("_AUTH"), "{wrong}");
        // Headers and timeouts.
        let given = at("http://h:1")
            .with_secret(leak(file.headers_name()), "X-Team: a, X-Trace=b")
            .value(leak(file.timeout_name()), "33")
            .value(name("CONNECT_TIMEOUT"), "4");
        let tuned = options(&given);
        assert_eq!(tuned.headers.get("x-team").unwrap(), "a", "{id}");
        assert_eq!(tuned.headers.get("x-trace").unwrap(), "b", "{id}");
        assert_eq!((tuned.read_timeout.as_secs(), tuned.connect_timeout.as_secs()), (33, 4), "{id}");
        let wrong = resolve::options(file, entry.info.clone(), &given.value(name("CONNECT_TIMEOUT"), "soon"));
        assert!(wrong.map(|_| ()).unwrap_err().to_string().contains("_CONNECT_TIMEOUT"), "{id}");
    }
}

#[test]
fn the_vendors_that_people_ask_for_are_there() {
    let registry = ProviderRegistry::bundled();
    for id in [
        "openai",
        "anthropic",
        "google",
        "ollama",
        "openrouter",
        "azure_openai",
        "aws_bedrock",
        "groq",
        "mistral",
        "deepseek",
        "xai",
        "together",
        "fireworks",
        "cerebras",
        "nvidia",
        "perplexity",
        "huggingface",
        "lmstudio",
        "llamacpp",
        "vllm",
        "litellm",
    ] {
        let info = registry.info(id).unwrap();
        assert!(
            !info.display_name.is_empty() && info.doc_url.is_some_and(|url| url.starts_with("https://")),
            "{id}"
        );
    }
}

/// Files as Goose writes them for its users: every field of its format, nulls included, and some that nobody knows yet.
#[test]
fn goose_files_are_taken_as_they_are() {
    for (text, key, url) in [
        (
            r#"{"name":"custom_acme_gateway","engine":"openai","display_name":"Acme","description":"Custom Acme provider",
            "api_key_env":"CUSTOM_ACME_GATEWAY_API_KEY","base_url":"https://llm.acme.test/api/v1/chat/completions",
            "models":[{"name":"acme-large","context_limit":200000,"input_token_cost":0.000002,"output_token_cost":0.00001,
            "currency":"$","supports_cache_control":null,"reasoning":true}],"headers":null,"timeout_seconds":null,
            "supports_streaming":true,"requires_auth":true,"catalog_provider_id":null,"base_path":null,"env_vars":null,
            "dynamic_models":null,"skip_canonical_filtering":false,"model_doc_link":null,"setup_steps":[],
            "fast_model":null,"preserves_thinking":true,"from_the_future":{"a":[1,{"b":null}]}}"#,
            "CUSTOM_ACME_GATEWAY_API_KEY",
            "https://llm.acme.test/api/v1/chat/completions",
        ),
        (
            r#"{"name":"custom_mirror","engine":"anthropic_compatible","display_name":"Mirror","api_key_env":"MIRROR_KEY",
            "base_url":"${MIRROR_HOST}/anthropic","models":[{"name":"claude-x","context_limit":128000}],
            "headers":{"x-tenant":"t"},"timeout_seconds":30,"supports_streaming":false,
            "env_vars":[{"name":"MIRROR_HOST","required":true,"secret":false,"primary":true,
            "description":"Where","default":"https://mirror.test","later":1}],"dynamic_models":false,
            "fast_model":"claude-y","catalog_provider_id":"anthropic"}"#,
            "MIRROR_KEY",
            "https://mirror.test/anthropic/v1/messages",
        ),
        (
            r#"{"name":"custom_box","engine":"ollama","display_name":"Box","api_key_env":"",
            "base_url":"http://box:11434","models":null,"requires_auth":false}"#,
            "CUSTOM_BOX_API_KEY",
            "http://box:11434/v1/chat/completions",
        ),
    ] {
        let file = ProviderFile::parse(text).unwrap();
        assert_eq!(file.key_name(), key);
        let given =
            Given::default().with_secret(Box::leak(key.to_owned().into_boxed_str()), "key-0123456789");
        let options = resolve::options(&file, info(&file, true), &given).unwrap();
        assert_eq!(options.url, url);
        // Written again, nothing that was said is gone.
        let said: serde_json::Value = serde_json::from_str(text).unwrap();
        let again = serde_json::to_value(&file).unwrap();
        for (field, value) in said.as_object().unwrap() {
            assert!(value.is_null() || again[field] == *value, "{field}: {value} became {}", again[field]);
        }
    }
    let priced = ProviderFile::parse(
        r#"{"name":"c","engine":"openai","base_url":"http://h","models":[{"name":"m","input_token_cost":0.000002,
        "output_token_cost":0.00001}]}"#,
    );
    let prices = info(&priced.unwrap(), true).models[0].price_micros_per_million;
    assert_eq!(prices, [Some(2_000_000), Some(10_000_000), None, None]);
}
