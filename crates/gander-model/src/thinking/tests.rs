use ThoughtLevel::{High, Low, Max, Medium, Off};

use super::*;
use crate::{
    ModelRequest, ProviderRegistry, Settings, VendorOptions, anthropic, bedrock, google, responses,
    rig_adapter::{self, Profile},
    testing::fixtures::{done, info, request, user},
};

/// The document of a provider that comes with gander.
fn bundled(provider_id: &str) -> Thinking {
    let registry = ProviderRegistry::bundled();
    let file = registry.file(provider_id).unwrap();
    let field = file.thinking.as_deref().map(|name| ThinkingField::parse(name).unwrap()).unwrap_or_default();
    Thinking { field, words: file.thinking_words.clone().unwrap_or_default() }
}

fn asked(model: &str, level: ThoughtLevel) -> ModelRequest {
    ModelRequest { thought_level: Some(level), ..request(model, vec![user("hi")]) }
}

fn vendor(format: Format) -> VendorOptions {
    VendorOptions::for_format(info(), format, "http://127.0.0.1:1/v1")
}

fn json_of(body: Result<Vec<u8>, crate::ModelError>) -> Value {
    serde_json::from_slice(&body.unwrap()).unwrap()
}

fn chat(thinking: &Thinking, dialect: Option<&str>, request: &ModelRequest) -> Value {
    let profile = Profile {
        provider_id: "fake".to_owned(),
        base_url: "http://localhost/v1".to_owned(),
        dialect: dialect.map(str::to_owned),
        streaming: true,
        thinking: thinking.clone(),
        ..Profile::default()
    };
    json_of(rig_adapter::encode(&profile, request))
}

#[test]
fn the_tables_make_sense() {
    let mut seen = std::collections::HashSet::new();
    assert!(families().len() > 20, "the table is read");
    for family in families() {
        assert!(!family.models.is_empty());
        for name in &family.models {
            assert!(seen.insert(name.clone()), "{name} stands twice");
            assert!(!name.contains(['.', '/', ':']), "{name}");
        }
        for words in [&family.effort, &family.adaptive, &family.level] {
            let ranks: Vec<_> =
                words.iter().map(|word| WORDS.iter().position(|known| known == word)).collect();
            assert!(ranks.iter().all(Option::is_some), "{words:?}");
            assert!(ranks.is_sorted(), "{words:?}");
        }
        assert!(family.budget.is_none_or(|[least, most]| least < most));
    }
    for facts in facts::all() {
        // Whoever thinks has a row, and whoever has one that lets choose thinks.
        let chosen = matches!(known(&facts.id), Known::Family(_));
        assert_eq!(
            family(&facts.id).is_some() && facts.supports_reasoning,
            facts.supports_reasoning,
            "{}",
            facts.id
        );
        assert!(!chosen || facts.supports_reasoning, "{}", facts.id);
    }
    let registry = ProviderRegistry::bundled();
    for (provider, _) in registry.list(&Nowhere) {
        if registry.file(&provider.provider_id).is_none() {
            continue;
        }
        for words in bundled(&provider.provider_id).words.values() {
            assert!(words.iter().all(|word| WORDS.contains(&word.as_str())), "{words:?}");
        }
    }
}

struct Nowhere;

impl Settings for Nowhere {
    fn value(&self, _: &str) -> Option<String> {
        None
    }

    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}

#[test]
fn openai_is_told_in_the_words_of_the_model() {
    for (provider, model, wanted) in [
        ("openai", "gpt-5", ["minimal", "low", "medium", "high", "high"]),
        ("openai", "gpt-5-mini-2025-08-07", ["minimal", "low", "medium", "high", "high"]),
        ("openai", "gpt-5-codex", ["low", "low", "medium", "high", "high"]),
        ("openai", "gpt-5.1", ["none", "low", "medium", "high", "high"]),
        ("openai", "gpt-5.2-2025-12-11", ["none", "low", "medium", "high", "xhigh"]),
        ("openai", "gpt-5.2-pro", ["medium", "medium", "medium", "high", "xhigh"]),
        ("openai", "o3", ["low", "low", "medium", "high", "high"]),
        ("openai", "o4-mini", ["low", "low", "medium", "high", "high"]),
        ("groq", "openai/gpt-oss-120b", ["low", "low", "medium", "high", "high"]),
        ("groq", "qwen/qwen3-32b", ["none", "default", "default", "default", "default"]),
        ("ollama", "qwen3:8b", ["none", "low", "medium", "high", "high"]),
        ("ollama", "gpt-oss:20b", ["low", "low", "medium", "high", "high"]),
        ("litellm", "claude-sonnet-4-5", ["none", "low", "medium", "high", "high"]),
        ("xai", "grok-3-mini", ["low", "low", "high", "high", "high"]),
        ("deepseek", "deepseek-v4-pro", ["low", "low", "high", "high", "max"]),
        // Nobody knows it, so somebody asked for it.
        ("vllm", "my-own-thinker", ["low", "low", "medium", "high", "high"]),
    ] {
        let thinking = bundled(provider);
        for (level, word) in ThoughtLevel::ALL.into_iter().zip(wanted) {
            let body = chat(&thinking, None, &asked(model, level));
            assert_eq!(body["reasoning_effort"], word, "{provider} {model} {level:?}");
            assert_eq!(body.get("reasoning"), None);
        }
    }
    for (provider, model) in [
        ("openai", "gpt-4o"),
        ("openai", "gpt-5-chat-latest"),
        ("openai", "o1-mini"),
        ("deepseek", "deepseek-reasoner"),
        ("deepseek", "deepseek-chat"),
        ("xai", "grok-4"),
        ("xai", "grok-code-fast-1"),
        ("mistral", "magistral-medium-latest"),
        ("perplexity", "sonar-reasoning-pro"),
        ("ollama", "qwen3-coder"),
        ("vllm", "qwen3"),
    ] {
        let body = chat(&bundled(provider), None, &asked(model, High));
        assert_eq!((body.get("reasoning_effort"), body.get("reasoning")), (None, None), "{provider} {model}");
    }
}

#[test]
fn the_field_survives_the_vendors_quirks() {
    for (provider, model) in
        [("openai", "gpt-5"), ("groq", "openai/gpt-oss-20b"), ("ollama", "qwen3"), ("xai", "grok-3-mini")]
    {
        let body = chat(&bundled(provider), Some(provider), &asked(model, High));
        assert_eq!(body["reasoning_effort"], "high", "{provider}: {body}");
        assert_eq!(body["messages"][1]["content"], "hi");
    }
}

#[test]
fn openrouter_has_a_field_of_its_own() {
    let thinking = bundled("openrouter");
    for (model, wanted) in [
        // Some cannot be switched off, and the server refuses to try.
        ("openai/gpt-5", ["minimal", "low", "medium", "high", "xhigh"]),
        ("google/gemini-2.5-pro", ["minimal", "low", "medium", "high", "xhigh"]),
        ("anthropic/claude-sonnet-4.5", ["none", "low", "medium", "high", "xhigh"]),
        ("someone/new-thinker", ["minimal", "low", "medium", "high", "xhigh"]),
    ] {
        for (level, word) in ThoughtLevel::ALL.into_iter().zip(wanted) {
            let body = chat(&thinking, Some("openrouter"), &asked(model, level));
            assert_eq!(body["reasoning"], json!({ "effort": word }), "{model} {level:?}");
            assert_eq!(body.get("reasoning_effort"), None);
        }
    }
    assert_eq!(chat(&thinking, Some("openrouter"), &asked("openai/gpt-4o", High)).get("reasoning"), None);
}

#[test]
fn responses_takes_the_effort_beside_the_encrypted_thoughts() {
    for (model, level, wanted) in
        [("gpt-5", Off, "minimal"), ("gpt-5.1", Off, "none"), ("gpt-5.2", Max, "xhigh"), ("o3", Low, "low")]
    {
        let body = json_of(responses::encode(&vendor(Format::OpenAiResponses), &asked(model, level)));
        assert_eq!(body["reasoning"], json!({ "effort": wanted }), "{model}");
        assert_eq!(body["include"], json!(["reasoning.encrypted_content"]), "{model}");
    }
    let plain = json_of(responses::encode(&vendor(Format::OpenAiResponses), &asked("gpt-4.1", High)));
    assert_eq!(plain.get("reasoning"), None);
    let mut own = asked("gpt-5", High);
    own.extra_params_json = Some("{\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"}}".to_owned());
    let body = json_of(responses::encode(&vendor(Format::OpenAiResponses), &own));
    assert_eq!(body["reasoning"], json!({ "effort": "low", "summary": "auto" }));
}

#[test]
fn claude_gets_a_budget_below_its_output() {
    let body = |request: &ModelRequest| json_of(anthropic::encode(&vendor(Format::Anthropic), request));
    for (model, level, budget, most) in [
        ("claude-sonnet-4-5", Low, 4_096, 32_000),
        ("claude-sonnet-4-5", Medium, 10_240, 32_000),
        ("claude-sonnet-4-5-20250929", High, 24_576, 32_768),
        ("claude-sonnet-4-5", Max, 32_000, 40_192),
        ("claude-3-7-sonnet-latest", Max, 32_000, 40_192),
        // It gives no more than 32k tokens in all.
        ("claude-opus-4-1", Max, 23_808, 32_000),
        ("MiniMax-M2", Medium, 10_240, 18_432),
    ] {
        let mut wanted = asked(model, level);
        wanted.temperature_millis = Some(500);
        let body = body(&wanted);
        assert_eq!(
            body["thinking"],
            json!({ "type": "enabled", "budget_tokens": budget }),
            "{model} {level:?}"
        );
        assert_eq!(body["max_tokens"], most, "{model} {level:?}");
        assert_eq!(body.get("temperature"), None, "excluded by thinking");
    }
    let mut off = asked("claude-sonnet-4-5", Off);
    off.temperature_millis = Some(500);
    let quiet = body(&off);
    assert_eq!((&quiet["thinking"], &quiet["temperature"]), (&json!({ "type": "disabled" }), &json!(0.5)));
    // Who limits the output keeps the limit, and thoughts that do not fit are not asked for.
    for (limit, budget) in [(10_000, Some(7_500)), (20_000, Some(15_000)), (1_200, None)] {
        let mut limited = asked("claude-sonnet-4-5", High);
        limited.max_output_tokens = Some(limit);
        let body = body(&limited);
        assert_eq!(body["thinking"]["budget_tokens"].as_u64(), budget, "{limit}");
        assert_eq!(body["max_tokens"], limit);
    }
    for model in ["claude-3-5-haiku-latest", "claude-3-opus-20240229"] {
        assert_eq!(body(&asked(model, High)).get("thinking"), None, "{model}");
    }
}

#[test]
fn newer_claudes_choose_themselves_how_much() {
    let body = |request: &ModelRequest| json_of(anthropic::encode(&vendor(Format::Anthropic), request));
    for (model, level, effort) in [
        ("claude-opus-4-6", Low, "low"),
        ("claude-opus-4-6", Max, "max"),
        ("claude-sonnet-4-6", High, "high"),
        ("claude-opus-4-7", Medium, "medium"),
        ("claude-opus-5-5", Off, "low"),
        ("claude-nobody-knows-9", Max, "high"),
    ] {
        let mut wanted = asked(model, level);
        wanted.temperature_millis = Some(500);
        let body = body(&wanted);
        assert_eq!(body["thinking"], json!({ "type": "adaptive" }), "{model} {level:?}");
        assert_eq!(body["output_config"], json!({ "effort": effort }), "{model} {level:?}");
        assert_eq!(body.get("temperature"), None);
    }
    let off = body(&asked("claude-opus-4-7", Off));
    assert_eq!((&off["thinking"], off.get("output_config")), (&json!({ "type": "disabled" }), None));
}

#[test]
fn an_answer_that_began_without_a_thought_goes_on_without() {
    let begun = vec![user("weather?"), done("m1", "call_a", "get_weather", "sunny")];
    for (items, thinks) in [(begun.clone(), false), ([begun, vec![user("and now?")]].concat(), true)] {
        let asked = ModelRequest { thought_level: Some(High), ..request("claude-sonnet-4-5", items) };
        let body = json_of(anthropic::encode(&vendor(Format::Anthropic), &asked));
        assert_eq!(body.get("thinking").is_some(), thinks);
        assert_eq!(body["max_tokens"] == 32_000, !thinks);
        let at_bedrock = json_of(bedrock::encode(&vendor(Format::Bedrock), &asked));
        assert_eq!(at_bedrock.pointer("/additionalModelRequestFields/thinking").is_some(), thinks);
    }
}

#[test]
fn gemini_gets_a_budget_or_a_level() {
    let config = |model: &str, level| {
        let body = json_of(google::encode(&vendor(Format::Google), &asked(model, level)));
        body.pointer("/generationConfig/thinkingConfig").cloned().unwrap_or_default()
    };
    let budget = |tokens: u64| json!({ "includeThoughts": true, "thinkingBudget": tokens });
    let word = |word: &str| json!({ "includeThoughts": true, "thinkingLevel": word });
    for (model, level, wanted) in [
        ("gemini-2.5-pro", Off, budget(128)),
        ("gemini-2.5-pro", Low, budget(4_096)),
        ("gemini-2.5-pro", Max, budget(32_768)),
        ("gemini-2.5-flash", Off, json!({ "thinkingBudget": 0 })),
        ("gemini-2.5-flash", Medium, budget(10_240)),
        ("gemini-2.5-flash", Max, budget(24_576)),
        ("gemini-2.5-flash-lite", Off, json!({ "thinkingBudget": 0 })),
        ("gemini-3-pro-preview", Off, word("low")),
        ("gemini-3-pro-preview", Medium, word("high")),
        ("gemini-3-flash-preview", Off, word("minimal")),
        ("gemini-3-flash-preview", Medium, word("medium")),
        ("gemini-3.1-pro-preview", Max, word("high")),
        ("gemini-2.0-flash", High, Value::Null),
        ("gemma-3-27b-it", High, Value::Null),
    ] {
        assert_eq!(config(model, level), wanted, "{model} {level:?}");
    }
}

#[test]
fn bedrock_passes_it_on_to_claude_only() {
    let body = |request: &ModelRequest| json_of(bedrock::encode(&vendor(Format::Bedrock), request));
    let mut wanted = asked("us.anthropic.claude-sonnet-4-5-20250929-v1:0", High);
    wanted.temperature_millis = Some(500);
    let high = body(&wanted);
    assert_eq!(
        high["additionalModelRequestFields"],
        json!({ "thinking": { "type": "enabled", "budget_tokens": 24_576 } })
    );
    assert_eq!(high["inferenceConfig"], json!({ "maxTokens": 32_768 }));
    let adaptive = body(&asked("us.anthropic.claude-opus-4-6-v1", Max));
    assert_eq!(
        adaptive["additionalModelRequestFields"],
        json!({ "thinking": { "type": "adaptive" }, "output_config": { "effort": "max" } })
    );
    wanted.thought_level = Some(Off);
    assert_eq!(body(&wanted)["inferenceConfig"]["temperature"], 0.5);
    for model in ["us.amazon.nova-pro-v1:0", "deepseek.r1-v1:0", "anthropic.claude-3-haiku-20240307-v1:0"] {
        assert_eq!(body(&asked(model, High)).get("additionalModelRequestFields"), None, "{model}");
    }
}

#[test]
fn what_the_caller_says_itself_wins() {
    let with = |model: &str, extra: &str| ModelRequest {
        extra_params_json: Some(extra.to_owned()),
        ..asked(model, High)
    };
    let openai = bundled("openai");
    let body = chat(&openai, None, &with("gpt-5", "{\"reasoning_effort\":\"low\"}"));
    assert_eq!(body["reasoning_effort"], "low");
    let body =
        chat(&bundled("openrouter"), None, &with("openai/gpt-5", "{\"reasoning\":{\"max_tokens\":9}}"));
    assert_eq!(body["reasoning"], json!({ "max_tokens": 9 }));
    let body = chat(&bundled("ollama"), None, &with("qwen3", "{\"think\":false}"));
    assert_eq!((&body["think"], body.get("reasoning_effort")), (&json!(false), None));
    let disabled = "{\"thinking\":{\"type\":\"disabled\"}}";
    let body = json_of(anthropic::encode(&vendor(Format::Anthropic), &with("claude-sonnet-4-5", disabled)));
    assert_eq!((&body["thinking"], &body["max_tokens"]), (&json!({ "type": "disabled" }), &json!(32_000)));
    let own = format!("{{\"additionalModelRequestFields\":{disabled}}}");
    let body = json_of(bedrock::encode(&vendor(Format::Bedrock), &with("anthropic.claude-sonnet-4-5", &own)));
    assert_eq!(body["additionalModelRequestFields"], json!({ "thinking": { "type": "disabled" } }));
    let own = "{\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":7}}}";
    let body = json_of(google::encode(&vendor(Format::Google), &with("gemini-2.5-pro", own)));
    assert_eq!(body["generationConfig"]["thinkingConfig"], json!({ "thinkingBudget": 7 }));
}

#[test]
fn without_a_level_nothing_is_said() {
    let plain = |model: &str| request(model, vec![user("hi")]);
    assert!(!chat(&bundled("openai"), None, &plain("gpt-5")).to_string().contains("reasoning"));
    let body = json_of(responses::encode(&vendor(Format::OpenAiResponses), &plain("gpt-5")));
    assert_eq!(body.get("reasoning"), None);
    let body = json_of(anthropic::encode(&vendor(Format::Anthropic), &plain("claude-opus-4-6")));
    assert_eq!((body.get("thinking"), body.get("output_config")), (None, None));
    let body = json_of(bedrock::encode(&vendor(Format::Bedrock), &plain("anthropic.claude-sonnet-4-5")));
    assert_eq!(body.get("additionalModelRequestFields"), None);
}

#[test]
fn what_can_be_chosen_is_known_by_dialect() {
    for (provider, format, model, wanted) in [
        ("openai", Format::OpenAiResponses, "gpt-5", true),
        ("openai", Format::OpenAiChat, "o3", true),
        ("openai", Format::OpenAiChat, "gpt-4o", false),
        ("openai", Format::OpenAiChat, "gpt-5-pro", false),
        ("openai", Format::OpenAiChat, "somebody-elses", false),
        ("vllm", Format::OpenAiChat, "qwen3", false),
        ("ollama", Format::OpenAiChat, "qwen3:8b", true),
        ("ollama", Format::OpenAiChat, "llama3.2", false),
        ("xai", Format::OpenAiChat, "grok-4", false),
        ("openrouter", Format::OpenAiChat, "anthropic/claude-sonnet-4", true),
        ("openrouter", Format::OpenAiChat, "openai/gpt-4o", false),
        ("mistral", Format::OpenAiChat, "gpt-oss-20b", false),
        ("anthropic", Format::Anthropic, "claude-sonnet-4-5", true),
        ("anthropic", Format::Anthropic, "claude-3-5-haiku-latest", false),
        ("zai", Format::Anthropic, "glm-4.6", true),
        ("google", Format::Google, "gemini-2.5-flash", true),
        ("google", Format::Google, "gemini-2.0-flash", false),
        ("aws_bedrock", Format::Bedrock, "us.anthropic.claude-haiku-4-5-20251001-v1:0", true),
        ("aws_bedrock", Format::Bedrock, "us.amazon.nova-pro-v1:0", false),
    ] {
        assert_eq!(bundled(provider).can_choose(format, model), wanted, "{provider} {model}");
    }
}
