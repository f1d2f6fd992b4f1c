use std::time::Duration;

use futures::StreamExt as _;
use http::HeaderValue;
use serde_json::{Value, json};

use super::*;
use crate::{
    Decoder, ModelError, ModelErrorClass, ModelEvent, ModelInfo, ModelProvider as _, ModelStop, ProviderInfo,
    Vendor, VendorOptions,
    testing::{
        FakeOpenAi,
        fixtures::{request, user},
        scenarios::{self, COMPLETE, Piece},
    },
    vendor::parse_models,
    wire::{ReplyDecoder as _, SseDecoder, Step, finish_arguments},
};

const KEY: &str = "sk-REAL-0123456789";
const DEADLINE: Duration = Duration::from_secs(20);

fn info() -> ProviderInfo {
    ProviderInfo {
        provider_id: "fake".to_owned(),
        display_name: "Fake".to_owned(),
        description: String::new(),
        default_model_id: None,
        models: Vec::new(),
        doc_url: None,
        config_keys: Vec::new(),
        allows_unlisted_models: true,
        kind: "custom".to_owned(),
    }
}

fn provider(fake: &FakeOpenAi, decoder: Decoder, change: impl FnOnce(&mut VendorOptions)) -> Vendor {
    let mut options = VendorOptions::new(info(), fake.chat_url()).with_bearer(KEY).unwrap();
    options.decoder = decoder;
    change(&mut options);
    Vendor::new(options).unwrap()
}

type Said = Vec<Result<ModelEvent, ModelError>>;

async fn run(provider: &Vendor, model: &str) -> Said {
    let stream = provider.stream(request(model, vec![user("weather?")]));
    tokio::time::timeout(DEADLINE, stream.collect()).await.expect("the stream ends")
}

/// What a stream said, without how it was cut and which ids were minted.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    text: String,
    thought: String,
    /// Name, arguments, whether they are invalid, id of the provider.
    calls: Vec<(String, String, bool, Option<String>)>,
    usage: Option<gander_domain::Usage>,
    stop: Option<ModelStop>,
    error: Option<ModelErrorClass>,
}

fn summary(said: &Said) -> Summary {
    let mut out = Summary::default();
    let mut arguments: std::collections::BTreeMap<u32, String> = std::collections::BTreeMap::new();
    for (at, item) in said.iter().enumerate() {
        assert!(out.stop.is_none() && out.error.is_none(), "nothing follows the end: {said:?}");
        match item {
            Ok(ModelEvent::TextDelta(text)) => out.text.push_str(text),
            Ok(ModelEvent::ThoughtDelta(text)) => out.thought.push_str(text),
            Ok(ModelEvent::ThoughtCompleted { .. }) => {}
            Ok(ModelEvent::ToolCallStarted { index, .. }) => {
                assert!(arguments.insert(*index, String::new()).is_none(), "{index} starts once");
            }
            Ok(ModelEvent::ToolArgumentsDelta { index, text }) => {
                arguments.get_mut(index).expect("a started call").push_str(text);
            }
            Ok(ModelEvent::ToolCallCompleted {
                index,
                call_id,
                name,
                arguments_json,
                invalid_arguments,
                ..
            }) => {
                let streamed = arguments.get(index).expect("a started call");
                if !streamed.is_empty() {
                    assert_eq!(streamed, arguments_json);
                }
                out.calls.push((
                    name.clone(),
                    arguments_json.clone(),
                    invalid_arguments.is_some(),
                    call_id
                        .starts_with("call_a")
                        .then(|| call_id.clone())
                        .or_else(|| call_id.starts_with("call_b").then(|| call_id.clone())),
                ));
            }
            Ok(ModelEvent::Usage { usage, .. }) => out.usage = Some(*usage),
            Ok(ModelEvent::Finished { stop, .. }) => {
                assert_eq!(at + 1, said.len());
                out.stop = Some(*stop);
            }
            Err(error) => out.error = Some(error.class),
        }
    }
    assert!(out.stop.is_some() || out.error.is_some(), "a stream ends: {said:?}");
    out
}

fn expected(scenario: &str) -> Summary {
    let usage = Some(gander_domain::Usage {
        input_tokens: Some(100),
        output_tokens: Some(20),
        cache_read_tokens: Some(64),
        cache_write_tokens: None,
        reasoning_tokens: Some(5),
        total_tokens: Some(120),
    });
    let weather =
        || ("get_weather".to_owned(), "{\"city\":\"Rome\"}".to_owned(), false, Some("call_a".to_owned()));
    let time =
        |arguments: &str| ("get_time".to_owned(), arguments.to_owned(), false, Some("call_b".to_owned()));
    let calls =
        |calls: Vec<_>| Summary { calls, usage, stop: Some(ModelStop::ToolCalls), ..Summary::default() };
    let text = |text: &str, stop: ModelStop| Summary {
        text: text.to_owned(),
        usage,
        stop: Some(stop),
        ..Summary::default()
    };
    match scenario {
        "plain" => Summary {
            text: "Hello wörld \u{1F30D}".to_owned(),
            thought: "Let me think.".to_owned(),
            ..calls(vec![weather(), time("{}")])
        },
        "text" => text("Just text.", ModelStop::EndTurn),
        "interleave" => calls(vec![weather(), time("{\"zone\":\"CET\"}")]),
        "noindex" | "sameidx" => calls(vec![weather(), time("{}")]),
        "index1" | "dupidx" => calls(vec![weather()]),
        "hugeidx" => {
            calls(vec![("get_weather".to_owned(), "{}".to_owned(), false, Some("call_a".to_owned()))])
        }
        "badjson" => Summary {
            stop: Some(ModelStop::MaxOutputTokens),
            ..calls(vec![(
                "get_weather".to_owned(),
                "{\"city\":\"Ro".to_owned(),
                true,
                Some("call_a".to_owned()),
            )])
        },
        "nodone" => text("No marker", ModelStop::EndTurn),
        "usagetail" => text("Tail", ModelStop::EndTurn),
        "crlf" => text("OneTwo", ModelStop::EndTurn),
        "length" => text("Cut of", ModelStop::MaxOutputTokens),
        "refusal" => text("I cannot do that.", ModelStop::Refusal),
        "comments" => text("Slow", ModelStop::EndTurn),
        "details" => Summary { thought: "Hm yes".to_owned(), ..text("Answer", ModelStop::EndTurn) },
        other => panic!("no expectation for {other}"),
    }
}

#[tokio::test]
async fn complete_replies_are_read_the_same_by_both_decoders() {
    let fake = FakeOpenAi::start().await.unwrap();
    for decoder in [Decoder::Typed, Decoder::Rig] {
        let provider = provider(&fake, decoder, |_| {});
        for scenario in COMPLETE {
            let said = summary(&run(&provider, scenario).await);
            assert_eq!(said, expected(scenario), "{scenario} by {decoder:?}");
        }
    }
}

#[tokio::test]
async fn failures_have_the_same_class_in_both_decoders() {
    use ModelErrorClass as C;
    let fake = FakeOpenAi::start().await.unwrap();
    for decoder in [Decoder::Typed, Decoder::Rig] {
        let provider = provider(&fake, decoder, |_| {});
        for (scenario, class) in [
            ("401", C::Auth),
            ("429", C::RateLimited),
            ("quota", C::QuotaExhausted),
            ("ctx", C::ContextExceeded),
            ("503", C::Overloaded),
            ("500", C::Server),
            ("nomodel", C::ModelUnknown),
            ("redirect", C::InvalidRequest),
            ("trunc", C::Truncated),
            ("trunc-clean", C::Truncated),
            ("trunc-done", C::Truncated),
            ("mid", C::Overloaded),
            ("mid-ctx", C::ContextExceeded),
        ] {
            let said = run(&provider, scenario).await;
            let got = summary(&said);
            assert_eq!(got.error, Some(class), "{scenario} by {decoder:?}: {said:?}");
            assert!(got.calls.is_empty(), "no call of a broken reply is complete");
            let Some(Err(error)) = said.last() else { panic!("no error") };
            assert!(!error.message.contains("REAL"), "{}", error.message);
            match scenario {
                "429" => {
                    assert_eq!((error.status, error.retry_after), (Some(429), Some(Duration::from_secs(7))));
                }
                "quota" => assert_eq!(error.help_url.as_deref(), Some("https://example.test/billing")),
                "mid" | "mid-ctx" | "trunc-clean" => assert_eq!(got.text, "Partial"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn odd_replies_are_read_by_the_typed_decoder() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    let weather = |id: Option<&str>| {
        vec![("get_weather".to_owned(), "{\"city\":\"Rome\"}".to_owned(), false, id.map(str::to_owned))]
    };
    let parts = summary(&run(&provider, "parts").await);
    assert_eq!((parts.text.as_str(), parts.thought.as_str()), ("PartialParts", "Hm."));
    assert_eq!(parts.calls, weather(None));
    let whole = summary(&run(&provider, "whole").await);
    assert_eq!((whole.text.as_str(), whole.calls), ("Whole", weather(Some("call_a"))));
    assert_eq!(whole.usage.unwrap().total_tokens, Some(7));
    for (scenario, class) in [
        ("html", ModelErrorClass::InvalidRequest),
        ("mid-event", ModelErrorClass::Server),
        ("garbage", ModelErrorClass::Truncated),
        ("trunc-frame", ModelErrorClass::Truncated),
        ("no-such-scenario", ModelErrorClass::InvalidRequest),
    ] {
        assert_eq!(summary(&run(&provider, scenario).await).error, Some(class), "{scenario}");
    }
}

#[tokio::test]
async fn thoughts_carry_what_their_provider_needs_back() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    let said = run(&provider, "details").await;
    let state = said.iter().find_map(|item| match item {
        Ok(ModelEvent::ThoughtCompleted { provider_state_json, .. }) => provider_state_json.clone(),
        _ => None,
    });
    let state: Value = serde_json::from_str(&state.unwrap()).unwrap();
    assert_eq!(state["provider"], "fake");
    assert_eq!(
        state["item"],
        json!({ "reasoning": "Hm yes", "reasoning_details":
            [{ "type": "reasoning.text", "index": 0, "text": "Hm yes", "signature": "c2ln" }] })
    );
}

#[tokio::test]
async fn network_cuts_of_any_size_change_nothing() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    for scenario in ["plain", "crlf"] {
        for size in [1, 2, 3, 7, 64] {
            let said = summary(&run(&provider, &format!("{scenario}@{size}")).await);
            assert_eq!(said, expected(scenario), "{scenario} in pieces of {size}");
        }
    }
}

/// Minted ids differ from run to run.
fn decode(parts: &[&[u8]]) -> Vec<ModelEvent> {
    let mut sse = SseDecoder::default();
    let mut assembler = Assembler::new("fake");
    let mut events = Vec::new();
    let mut done = false;
    let mut take = |sse: &mut SseDecoder, assembler: &mut Assembler| {
        while let Some(frame) = sse.next_frame() {
            match assembler.frame(frame.data, frame.is_error) {
                Step::More => {}
                Step::Done => done = true,
                other => panic!("{other:?}"),
            }
        }
    };
    for part in parts {
        sse.feed(part).unwrap();
        take(&mut sse, &mut assembler);
    }
    sse.end();
    take(&mut sse, &mut assembler);
    assembler.end().unwrap();
    while let Some(event) = assembler.pop() {
        events.push(event);
    }
    events
}

fn bytes_of(scenario: &str) -> Vec<u8> {
    let reply = scenarios::reply(scenario, "").unwrap();
    let piece = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    reply.body.iter().flat_map(piece).collect()
}

#[test]
fn a_stream_split_at_every_byte_gives_the_same_events() {
    for scenario in COMPLETE {
        let body = bytes_of(scenario);
        let whole = decode(&[&body]);
        assert!(whole.len() > 2);
        for at in 0..=body.len() {
            assert_eq!(decode(&[&body[..at], &body[at..]]), whole, "{scenario} split at {at}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(decode(&bytes), whole, "{scenario} byte by byte");
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_never_taken_for_complete() {
    let body = bytes_of("plain");
    let finish = memchr::memmem::find(&body, b"\"finish_reason\":\"tool_calls\"").unwrap();
    for at in 0..body.len() {
        let (mut sse, mut assembler) = (SseDecoder::default(), Assembler::new("fake"));
        sse.feed(&body[..at]).unwrap();
        while let Some(frame) = sse.next_frame() {
            assembler.frame(frame.data, frame.is_error);
        }
        let ended = assembler.end();
        assert!(at > finish || ended.is_err(), "complete at {at}, before the reason to stop");
        if let Err(error) = ended {
            assert_eq!(error.class, ModelErrorClass::Truncated, "at {at}");
            let events: Vec<ModelEvent> = std::iter::from_fn(|| assembler.pop()).collect();
            let completed = |event: &ModelEvent| {
                matches!(event, ModelEvent::ToolCallCompleted { .. } | ModelEvent::Finished { .. })
            };
            assert!(!events.iter().any(completed), "at {at}");
        }
    }
}

/// What frames of these data lead to.
fn read(frames: &[&[u8]]) -> Vec<ModelEvent> {
    let mut assembler = Assembler::new("fake");
    for frame in frames {
        assert_eq!(assembler.frame(frame, false), Step::More, "{}", String::from_utf8_lossy(frame));
    }
    assembler.end().unwrap();
    std::iter::from_fn(|| assembler.pop()).collect()
}

fn usage_of(events: &[ModelEvent]) -> gander_domain::Usage {
    let usage = events.iter().find_map(|event| match event {
        ModelEvent::Usage { usage, .. } => Some(*usage),
        _ => None,
    });
    usage.expect("a usage")
}

#[test]
fn usage_is_read_however_it_is_spelled() {
    let stop: &[u8] = b"{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}";
    for usage in [
        // LiteLLM in front of Anthropic: every name of the cache at once.
        "{\"completion_tokens\":20,\"prompt_tokens\":100,\"total_tokens\":120,\"completion_tokens_details\":\
         {\"reasoning_tokens\":5,\"text_tokens\":15},\"prompt_tokens_details\":{\"cache_write_tokens\":6,\
         \"cached_tokens\":64,\"text_tokens\":30,\"cache_creation_tokens\":6},\"cache_creation_input_tokens\":6,\
         \"cache_read_input_tokens\":64}",
        // Numbers of another type, and one that is nothing.
        "{\"completion_tokens\":\"20\",\"prompt_tokens\":100.0,\"total_tokens\":null,\
         \"prompt_tokens_details\":{\"cached_tokens\":64,\"cache_write_tokens\":6},\
         \"completion_tokens_details\":{\"reasoning_tokens\":5},\"cache_read_input_tokens\":[]}",
    ] {
        let chunk = format!("{{\"choices\":[{{\"delta\":{{}}}}],\"usage\":{usage}}}");
        let usage = usage_of(&read(&[stop, chunk.as_bytes()]));
        let wanted = gander_domain::Usage {
            input_tokens: Some(100),
            output_tokens: Some(20),
            cache_read_tokens: Some(64),
            cache_write_tokens: Some(6),
            reasoning_tokens: Some(5),
            total_tokens: Some(120),
        };
        assert_eq!(usage, wanted, "{chunk}");
    }
    // Thinking on top of the output, as the total tells, and thinking within it.
    for (total, output) in [(130, 30), (120, 20)] {
        let chunk = format!(
            "{{\"choices\":[],\"usage\":{{\"prompt_tokens\":100,\"completion_tokens\":20,\"total_tokens\":{total},\
             \"completion_tokens_details\":{{\"reasoning_tokens\":10}}}}}}"
        );
        let usage = usage_of(&read(&[stop, chunk.as_bytes()]));
        assert_eq!((usage.output_tokens, usage.reasoning_tokens), (Some(output), Some(10)), "{chunk}");
    }
    // A usage of an unknown shape costs the usage, not the reply.
    let events = read(&[
        b"{\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}],\"usage\":\"much\"}",
    ]);
    assert_eq!(events[0], ModelEvent::TextDelta("Hi".to_owned()));
    assert!(!events.iter().any(|event| matches!(event, ModelEvent::Usage { .. })));
}

#[test]
fn fields_that_are_null_twice_or_no_utf8_lose_nothing() {
    let events = read(&[
        b"{\"model\":null,\"error\":null,\"usage\":null,\"choices\":null}",
        b"{\"choices\":[{\"index\":null,\"delta\":{\"content\":null,\"tool_calls\":null,\"reasoning\":null},\
          \"message\":null,\"finish_reason\":null,\"usage\":null}],\"error\":null}",
        b"{\"choices\":[{\"delta\":{\"content\":\"One \"},\"message\":{\"content\":\"One \"}}]}",
        b"{\"choices\":[{\"delta\":null,\"message\":{\"content\":\"two\"}}]}",
        b"{\"choices\":[{\"delta\":{\"content\":\" a\xFFb\"},\"finish_reason\":\"stop\"}]}",
    ]);
    let text: String = events
        .iter()
        .filter_map(|event| match event {
            ModelEvent::TextDelta(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "One two a\u{FFFD}b");
}

/// Names, arguments and ids of the calls that frames of these tool-call deltas lead to.
fn calls_of(deltas: &[Value]) -> Vec<(String, String, String)> {
    let stop = json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] }).to_string();
    let mut frames: Vec<String> = deltas
        .iter()
        .map(|calls| json!({ "choices": [{ "delta": { "tool_calls": calls } }] }).to_string())
        .collect();
    frames.push(stop);
    let frames: Vec<&[u8]> = frames.iter().map(String::as_bytes).collect();
    read(&frames)
        .into_iter()
        .filter_map(|event| match event {
            ModelEvent::ToolCallCompleted { call_id, name, arguments_json, .. } => {
                Some((name, arguments_json, call_id))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn an_id_that_two_calls_share_glues_nothing_together() {
    let call = |index: u64, name: Option<&str>, arguments: &str| {
        json!([{ "index": index, "id": "functions.weather",
        "function": { "name": name, "arguments": arguments } }])
    };
    let cities = |calls: &[(String, String, String)]| -> Vec<String> {
        calls.iter().map(|(_, arguments, _)| arguments.clone()).collect()
    };
    let (rome, paris) = ("{\"city\":\"Rome\"}", "{\"city\":\"Paris\"}");
    // Whole at once, in pieces that repeat the id, and in pieces that do not.
    let whole = calls_of(&[call(0, Some("weather"), rome), call(1, Some("weather"), paris)]);
    let pieces = calls_of(&[
        call(0, Some("weather"), ""),
        call(0, None, rome),
        call(1, Some("weather"), ""),
        call(1, None, "{\"city\":"),
        call(1, None, "\"Paris\"}"),
    ]);
    let bare =
        |index: u64, arguments: &str| json!([{ "index": index, "function": { "arguments": arguments } }]);
    let mixed = calls_of(&[
        call(0, Some("weather"), ""),
        bare(0, rome),
        call(1, Some("weather"), ""),
        bare(1, paris),
    ]);
    for calls in [whole, pieces, mixed] {
        assert_eq!(cities(&calls), [rome, paris], "{calls:?}");
        assert_eq!(calls[0].2, "functions.weather");
        assert_ne!(calls[1].2, calls[0].2, "results must find their call");
    }
    // One call that is announced again elsewhere is still one.
    let again = calls_of(&[call(0, Some("weather"), rome), call(1, Some("weather"), rome)]);
    assert_eq!(cities(&again), [rome]);
}

#[test]
fn arguments_that_are_no_text_stay_exact() {
    for arguments in [
        "{\"z\": 12345678901234567890123, \"a\": 0.1000000000000000055511151231257827, \"f\": 1.0}",
        "{\"a\":1e400}",
    ] {
        for frame in [
            format!(
                "{{\"choices\":[{{\"delta\":{{\"content\":[{{\"type\":\"text\",\"text\":\"Hi\"}}],\"tool_calls\":\
                 [{{\"index\":\"0\",\"id\":7,\"function\":{{\"name\":\"f\",\"arguments\":{arguments}}}}}]}},\
                 \"finish_reason\":\"tool_calls\"}}]}}"
            ),
            format!(
                "{{\"choices\":[{{\"message\":{{\"content\":null,\"tool_calls\":[{{\"id\":\"7\",\"function\":\
                 {{\"name\":\"f\",\"arguments\":{}}}}}]}},\"finish_reason\":\"tool_calls\"}}]}}",
                serde_json::to_string(arguments).unwrap()
            ),
        ] {
            let events = read(&[frame.as_bytes()]);
            let call = events.iter().find_map(|event| match event {
                ModelEvent::ToolCallCompleted { call_id, arguments_json, .. } => {
                    Some((call_id.as_str(), arguments_json.as_str()))
                }
                _ => None,
            });
            assert_eq!(call, Some(("7", arguments)), "{frame}");
        }
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    let mut stream = provider.stream(request("hang", vec![user("hi")]));
    let first = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap();
    assert_eq!(first, Some(Ok(ModelEvent::TextDelta("Partial".to_owned()))));
    drop(stream);
    tokio::time::timeout(DEADLINE, fake.wait_for_hangups(1)).await.expect("the server sees the hangup");
}

#[tokio::test]
async fn silence_ends_with_a_network_error() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider =
        provider(&fake, Decoder::Typed, |options| options.read_timeout = Duration::from_millis(50));
    let said = run(&provider, "hang").await;
    let Some(Err(error)) = said.last() else { panic!("{said:?}") };
    assert_eq!(error.class, ModelErrorClass::Network);
    assert!(error.message.contains("sent nothing"), "{}", error.message);
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_a_network_error() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |options| {
        options.url = "http://127.0.0.1:1/v1/chat/completions".to_owned();
    });
    let said = run(&provider, "text").await;
    let Some(Err(error)) = said.last() else { panic!("{said:?}") };
    assert_eq!(error.class, ModelErrorClass::Network);
    assert!(error.message.contains("cannot connect to 127.0.0.1:1:"), "{}", error.message);
}

#[tokio::test]
async fn connections_are_used_again() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    // The body's end is read behind the caller's back, so the very next call may come too early.
    let reused = async {
        loop {
            let before = fake.connections();
            assert_eq!(summary(&run(&provider, "text").await).text, "Just text.");
            if before > 0 && fake.connections() == before {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reused).await.expect("a connection is used twice");
}

#[tokio::test]
async fn the_body_and_headers_are_what_was_configured() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |options| {
        options.headers.insert("x-extra", HeaderValue::from_static("yes"));
        options.extra_body.insert("store".to_owned(), json!(false));
        options.max_tokens_field = Some("max_completion_tokens".to_owned());
    });
    let mut call = request("text", vec![user("hi")]);
    call.temperature_millis = Some(250);
    call.max_output_tokens = Some(77);
    call.extra_params_json = Some("{\"seed\":5}".to_owned());
    let said: Said = provider.stream(call).collect().await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
    let seen = fake.requests().pop().unwrap();
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(seen.header("x-extra"), Some("yes"));
    let body = &seen.body;
    assert_eq!(body["model"], "text");
    assert_eq!(body["stream"], true);
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(
        (&body["store"], &body["seed"], &body["temperature"]),
        (&json!(false), &json!(5), &json!(0.25))
    );
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(77), None));
    assert_eq!(body["tools"][0]["function"]["name"], "get_weather");
    assert_eq!(body["messages"][0]["role"], "system");
}

#[tokio::test]
async fn models_are_listed_and_keys_proved() {
    let fake = FakeOpenAi::start().await.unwrap();
    let good = provider(&fake, Decoder::Typed, |options| {
        options.info.models = vec![ModelInfo {
            model_id: "plain".to_owned(),
            display_name: "Plain".to_owned(),
            context_window_tokens: Some(1),
            max_output_tokens: Some(2),
            price_micros_per_million: [Some(3), None, None, None],
        }];
    });
    good.check().await.unwrap();
    let models = good.list_models().await.unwrap();
    assert_eq!(models.len(), COMPLETE.len());
    let plain = models.iter().find(|model| model.model_id == "plain").unwrap();
    assert_eq!(plain.display_name, "Plain");
    assert_eq!((plain.context_window_tokens, plain.max_output_tokens), (Some(4096), Some(2)));
    assert_eq!(plain.price_micros_per_million[0], Some(3));
    let bad = Vendor::new(VendorOptions::new(info(), fake.chat_url()).with_bearer("bad-key").unwrap());
    let bad = bad.unwrap();
    assert_eq!(bad.check().await.unwrap_err().class, ModelErrorClass::Auth);
    assert_eq!(bad.list_models().await.unwrap_err().class, ModelErrorClass::Auth);
    // A server without a list: what the file says.
    let without = provider(&fake, Decoder::Typed, |options| {
        options.models_url = Some(format!("{}/nothing", fake.url()));
    });
    without.check().await.unwrap();
    assert_eq!(without.list_models().await.unwrap(), Vec::new());
}

#[test]
fn prices_are_read_from_usd_per_token() {
    let body = br#"{"data":[{"id":"m","pricing":{"prompt":"0.000003","completion":"0.000015"},"context_length":5}]}"#;
    let models = parse_models(body).unwrap();
    assert_eq!(models[0].price_micros_per_million, [Some(3_000_000), Some(15_000_000), None, None]);
    assert!(parse_models(b"{\"hello\":1}").is_none());
}

#[test]
fn arguments_are_finished_as_objects() {
    for (text, wanted, invalid) in [
        ("", "{}", false),
        ("  ", "{}", false),
        ("null", "{}", false),
        ("{\"big\":12345678901234567890123}", "{\"big\":12345678901234567890123}", false),
        ("\"{\\\"a\\\":1}\"", "{\"a\":1}", false),
        ("[1]", "[1]", true),
        ("{\"a\":", "{\"a\":", true),
    ] {
        let (json, reason) = finish_arguments(text);
        assert_eq!((json.as_str(), reason.is_some()), (wanted, invalid), "{text}");
    }
}

#[tokio::test]
async fn benchmark_streams_stamp_every_token() {
    let fake = FakeOpenAi::start().await.unwrap();
    let provider = provider(&fake, Decoder::Typed, |_| {});
    for (model, count) in [("bench-2000-0us", 2000), ("bench-300", 300), ("bench-20-1000us", 20)] {
        let said = run(&provider, model).await;
        let stamps: Vec<u128> = said
            .iter()
            .filter_map(|item| match item {
                Ok(ModelEvent::TextDelta(text)) => Some(text.trim_start_matches('t').trim().parse().unwrap()),
                _ => None,
            })
            .collect();
        assert_eq!(stamps.len(), count, "{model}");
        assert!(stamps.is_sorted());
        assert_eq!(summary(&said).usage.unwrap().output_tokens, Some(count as u64));
    }
}
