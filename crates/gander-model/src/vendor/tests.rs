//! The same scenarios in every dialect, over HTTP and as bytes.
//!
//! What servers in the wild get wrong, and where it is tested. OpenAI's chat has its own list in `openai/tests.rs`, read by
//! two decoders; what is told here holds for Anthropic, Google, Responses and Bedrock unless it says otherwise.
//!
//! | shape | chat | the others |
//! |---|---|---|
//! | two calls, split arguments, thoughts, usage | `plain` | `plain` |
//! | arguments of two calls alternate | `interleave` | `interleave` |
//! | calls without numbers, with the same, with huge ones | `noindex`, `sameidx`, `index1`, `hugeidx` | `noindex`, `sameidx`, `hugeidx` |
//! | one call announced again; one id for two calls | `dupidx`; a unit test | `responses/items.rs`; `anthropic/tests.rs` |
//! | arguments cut by the length limit | `badjson` | `badjson` (Google sends calls whole) |
//! | the connection or the body ends too early, at every byte | `trunc…`, unit test | `trunc…`, unit test |
//! | no marker at the end | `nodone` | `nodone` (Responses has no end without it) |
//! | an error inside the stream, or as a document with status 200 | `mid…` | `mid…`, `200-error` |
//! | usage in odd places, spellings and types | `usagetail`, unit test | typed leniently, unit tests |
//! | refusals of every status, pages of proxies, redirects, nothing at all | `429` … `html` | `401` … `empty-json` |
//! | CR LF cut in two, comments, letters that are no UTF-8, nulls | `crlf`, `comments`, unit test | `crlf`, `pings`, `badutf8`, `nulls` |
//! | every split of the bytes | unit test | unit test |
//! | the caller leaves, the server is silent | unit tests | unit test |

use std::time::Duration;

use futures::StreamExt as _;
use gander_domain::Usage;

use super::*;
use crate::{
    ModelEvent, ModelStop,
    testing::{
        FakeOpenAi,
        dialects::{self, COMPLETE, Dialect},
        fixtures::{info, request, user},
        scenarios::Piece,
    },
    wire::{SseDecoder, Step},
};

const KEY: &str = "sk-REAL-0123456789";
const DEADLINE: Duration = Duration::from_secs(20);

fn options(dialect: Dialect, root: &str) -> VendorOptions {
    let (format, path, header) = match dialect {
        Dialect::Anthropic => (Format::Anthropic, "/v1/messages", "x-api-key"),
        Dialect::Google => {
            (Format::Google, "/v1beta/models/{model}:streamGenerateContent?alt=sse", "x-goog-api-key")
        }
        Dialect::Responses => (Format::OpenAiResponses, "/v1/responses", "authorization"),
        Dialect::Bedrock => (Format::Bedrock, "/model/{model}/converse-stream", "authorization"),
    };
    VendorOptions::for_format(info(), format, format!("{root}{path}"))
        .with_credential(header, KEY, KEY)
        .unwrap()
}

type Said = Vec<Result<ModelEvent, ModelError>>;

async fn run(provider: &Vendor, model: &str) -> Said {
    let stream = provider.stream(request(model, vec![user("weather?")]));
    tokio::time::timeout(DEADLINE, stream.collect()).await.expect("the stream ends")
}

#[derive(Debug, Default, PartialEq)]
struct Summary {
    text: String,
    thought: String,
    thoughts: usize,
    /// Name, arguments, whether they are invalid, id.
    calls: Vec<(String, String, bool, String)>,
    usage: Option<Usage>,
    stop: Option<ModelStop>,
    error: Option<ModelErrorClass>,
}

fn summary(said: &Said) -> Summary {
    let mut out = Summary::default();
    let mut streamed: std::collections::BTreeMap<u32, String> = std::collections::BTreeMap::new();
    for item in said {
        assert!(out.stop.is_none() && out.error.is_none(), "nothing follows the end: {said:?}");
        match item {
            Ok(ModelEvent::TextDelta(text)) => out.text.push_str(text),
            Ok(ModelEvent::ThoughtDelta(text)) => out.thought.push_str(text),
            Ok(ModelEvent::ThoughtCompleted { .. }) => out.thoughts += 1,
            Ok(ModelEvent::ToolCallStarted { index, .. }) => {
                assert!(streamed.insert(*index, String::new()).is_none(), "{index} starts once");
            }
            Ok(ModelEvent::ToolArgumentsDelta { index, text }) => {
                streamed.get_mut(index).expect("a started call").push_str(text);
            }
            Ok(ModelEvent::ToolCallCompleted {
                index,
                call_id,
                name,
                arguments_json,
                invalid_arguments,
                ..
            }) => {
                let streamed = streamed.get(index).expect("a started call");
                assert!(streamed.is_empty() || streamed == arguments_json);
                let invalid = invalid_arguments.is_some();
                out.calls.push((name.clone(), arguments_json.clone(), invalid, call_id.clone()));
            }
            Ok(ModelEvent::Usage { usage, .. }) => out.usage = Some(*usage),
            Ok(ModelEvent::Finished { stop, .. }) => out.stop = Some(*stop),
            Err(error) => out.error = Some(error.class),
        }
    }
    assert!(out.stop.is_some() || out.error.is_some(), "a stream ends: {said:?}");
    out
}

fn expected(dialect: Dialect, scenario: &str) -> Summary {
    let whole_calls = dialect == Dialect::Google;
    let splits_cache = matches!(dialect, Dialect::Anthropic | Dialect::Bedrock);
    let usage = Some(Usage {
        input_tokens: Some(100),
        output_tokens: Some(20),
        cache_read_tokens: Some(64),
        cache_write_tokens: splits_cache.then_some(6),
        reasoning_tokens: (!splits_cache).then_some(5),
        total_tokens: Some(120),
    });
    let call = |name: &str, arguments: &str, invalid: bool, id: &str| {
        (name.to_owned(), arguments.to_owned(), invalid, id.to_owned())
    };
    let weather = || call("get_weather", "{\"city\":\"Rome\"}", false, "call_a");
    let base = |stop: ModelStop| Summary { usage, stop: Some(stop), ..Summary::default() };
    let text = |text: &str, stop: ModelStop| Summary { text: text.to_owned(), ..base(stop) };
    let calls = |calls: Vec<_>| Summary { calls, ..base(ModelStop::ToolCalls) };
    match scenario {
        "plain" => Summary {
            text: "Hello wörld \u{1F30D}".to_owned(),
            thought: "Let me think.".to_owned(),
            thoughts: 1,
            ..calls(vec![weather(), call("get_time", "{}", false, "call_b")])
        },
        "text" | "crlf" | "pings" => text("Just text.", ModelStop::EndTurn),
        "noindex" | "sameidx" | "nulls" => Summary {
            text: "Two.".to_owned(),
            ..calls(vec![weather(), call("get_time", "{}", false, "call_b")])
        },
        // Bedrock's frames are written whole, with no letter replaced.
        "badutf8" if dialect == Dialect::Bedrock => text("aBADb", ModelStop::EndTurn),
        "badutf8" => text("a\u{FFFD}b", ModelStop::EndTurn),
        "nodone" => Summary {
            usage: usage.filter(|_| dialect != Dialect::Bedrock),
            ..text("No marker", ModelStop::EndTurn)
        },
        "interleave" => calls(vec![weather(), call("get_time", "{\"zone\":\"CET\"}", false, "call_b")]),
        "hugeidx" => calls(vec![call("get_weather", "{}", false, "call_a")]),
        "noargs" => calls(vec![call("get_time", "{}", false, "call_b")]),
        "badjson" => {
            // Google sends calls whole or not at all.
            let arguments = if whole_calls { "{}" } else { "{\"city\":\"Ro" };
            Summary {
                stop: Some(ModelStop::MaxOutputTokens),
                ..calls(vec![call("get_weather", arguments, !whole_calls, "call_a")])
            }
        }
        "length" => text("Cut of", ModelStop::MaxOutputTokens),
        "refusal" => text("I cannot do that.", ModelStop::Refusal),
        "redacted" => Summary { thoughts: 1, ..text("Answer", ModelStop::EndTurn) },
        other => panic!("no expectation for {other}"),
    }
}

#[tokio::test]
async fn complete_replies_are_read_the_same_in_every_dialect() {
    let fake = FakeOpenAi::start().await.unwrap();
    for dialect in Dialect::ALL {
        let provider = Vendor::new(options(dialect, &fake.url())).unwrap();
        for scenario in COMPLETE {
            let said = run(&provider, scenario).await;
            assert_eq!(summary(&said), expected(dialect, scenario), "{dialect:?} {scenario}: {said:?}");
        }
        let said = run(&provider, "nodone").await;
        assert_eq!(summary(&said), expected(dialect, "nodone"), "{dialect:?}: {said:?}");
        for size in [1, 3, 64] {
            let said = summary(&run(&provider, &format!("plain@{size}")).await);
            assert_eq!(said, expected(dialect, "plain"), "{dialect:?} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn failures_have_their_class_in_every_dialect() {
    use ModelErrorClass as C;
    let fake = FakeOpenAi::start().await.unwrap();
    for dialect in Dialect::ALL {
        let provider = Vendor::new(options(dialect, &fake.url())).unwrap();
        for (scenario, class) in [
            ("401", C::Auth),
            ("429", C::RateLimited),
            ("quota", C::QuotaExhausted),
            ("ctx", C::ContextExceeded),
            ("bad", C::InvalidRequest),
            ("503", C::Overloaded),
            ("500", C::Server),
            ("nomodel", C::ModelUnknown),
            ("trunc", C::Truncated),
            ("trunc-clean", C::Truncated),
            ("mid", C::Overloaded),
            ("mid-rate", C::RateLimited),
            ("mid-ctx", C::ContextExceeded),
            ("garbage", C::Truncated),
            ("no-such-scenario", C::InvalidRequest),
            ("402", C::QuotaExhausted),
            ("403", C::Auth),
            ("408", C::Server),
            ("413", C::ContextExceeded),
            ("529", C::Overloaded),
            ("html", C::InvalidRequest),
            ("404-html", C::InvalidRequest),
            ("502-html", C::Server),
            ("redirect", C::InvalidRequest),
            ("200-error", C::Overloaded),
            ("empty", C::Truncated),
            ("empty-json", C::Truncated),
        ] {
            let said = run(&provider, scenario).await;
            let got = summary(&said);
            assert_eq!(got.error, Some(class), "{dialect:?} {scenario}: {said:?}");
            assert!(got.calls.is_empty(), "no call of a broken reply is complete");
            let Some(Err(error)) = said.last() else { panic!("no error") };
            assert!(!error.message.contains("REAL"), "{}", error.message);
            match scenario {
                "429" => {
                    let told = (error.status, error.retry_after);
                    assert_eq!(told, (Some(429), Some(Duration::from_secs(7))), "{dialect:?}");
                }
                "mid" | "mid-ctx" | "trunc-clean" => {
                    assert_eq!(got.text, "Partial", "{dialect:?} {scenario}");
                }
                _ => {}
            }
        }
        // Arguments that belong to no call are a hole in the stream. Google's calls are whole.
        let hole = summary(&run(&provider, "hole").await).error;
        assert_eq!(hole, (dialect != Dialect::Google).then_some(C::Truncated), "{dialect:?}");
    }
}

fn bytes_of(dialect: Dialect, scenario: &str) -> Vec<u8> {
    let reply = dialects::reply(dialect, scenario, "").unwrap();
    let piece = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    reply.body.iter().flat_map(piece).collect()
}

fn decode(dialect: Dialect, parts: &[&[u8]]) -> Vec<ModelEvent> {
    let mut decoder = decoder(options(dialect, "http://127.0.0.1:1").format, "fake");
    let mut sse = SseDecoder::default();
    let mut over = false;
    for part in parts {
        if over {
            break;
        }
        if let Some(step) = decoder.bytes(part) {
            assert!(matches!(step, Step::More | Step::Done), "{step:?}");
            over = step == Step::Done;
            continue;
        }
        sse.feed(part).unwrap();
        over = drain(&mut sse, decoder.as_mut());
    }
    if !over {
        sse.end();
        drain(&mut sse, decoder.as_mut());
    }
    decoder.end().unwrap();
    std::iter::from_fn(|| decoder.pop()).collect()
}

fn drain(sse: &mut SseDecoder, decoder: &mut dyn ReplyDecoder) -> bool {
    while let Some(frame) = sse.next_frame() {
        match decoder.frame(frame.data, frame.is_error) {
            Step::More => {}
            Step::Done => return true,
            other => panic!("{other:?}"),
        }
    }
    false
}

#[test]
fn a_stream_split_at_every_byte_gives_the_same_events() {
    for dialect in Dialect::ALL {
        for scenario in COMPLETE {
            let body = bytes_of(dialect, scenario);
            let whole = decode(dialect, &[&body]);
            assert!(whole.len() > 2);
            for at in 0..=body.len() {
                assert_eq!(
                    decode(dialect, &[&body[..at], &body[at..]]),
                    whole,
                    "{dialect:?} {scenario} at {at}"
                );
            }
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(decode(dialect, &bytes), whole, "{dialect:?} {scenario} byte by byte");
        }
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_never_taken_for_complete() {
    for dialect in Dialect::ALL {
        let body = bytes_of(dialect, "plain");
        let mut complete_from = None;
        for at in 0..body.len() {
            let mut decoder = decoder(options(dialect, "http://127.0.0.1:1").format, "fake");
            let mut sse = SseDecoder::default();
            if decoder.bytes(&body[..at]).is_none() {
                sse.feed(&body[..at]).unwrap();
                while let Some(frame) = sse.next_frame() {
                    decoder.frame(frame.data, frame.is_error);
                }
            }
            match decoder.end() {
                Ok(()) => complete_from = complete_from.or(Some(at)),
                Err(error) => {
                    assert_eq!(error.class, ModelErrorClass::Truncated, "{dialect:?} at {at}");
                    let events: Vec<ModelEvent> = std::iter::from_fn(|| decoder.pop()).collect();
                    let completed = |event: &ModelEvent| {
                        matches!(event, ModelEvent::ToolCallCompleted { .. } | ModelEvent::Finished { .. })
                    };
                    assert!(!events.iter().any(completed), "{dialect:?} at {at}");
                }
            }
        }
        // Only what stands behind the stop reason may be missing.
        let from = complete_from.unwrap_or(body.len());
        assert!(from * 10 > body.len() * 7, "{dialect:?}: complete from {from} of {}", body.len());
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection_and_silence_ends_it() {
    let fake = FakeOpenAi::start().await.unwrap();
    for (number, dialect) in Dialect::ALL.into_iter().enumerate() {
        let provider = Vendor::new(options(dialect, &fake.url())).unwrap();
        let mut stream = provider.stream(request("hang", vec![user("hi")]));
        let first = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap();
        assert_eq!(first, Some(Ok(ModelEvent::TextDelta("Partial".to_owned()))), "{dialect:?}");
        drop(stream);
        tokio::time::timeout(DEADLINE, fake.wait_for_hangups(2 * number + 1)).await.expect("a hangup");
        let mut impatient = options(dialect, &fake.url());
        impatient.read_timeout = Duration::from_millis(50);
        let said = run(&Vendor::new(impatient).unwrap(), "hang").await;
        assert_eq!(summary(&said).error, Some(ModelErrorClass::Network), "{dialect:?}: {said:?}");
        tokio::time::timeout(DEADLINE, fake.wait_for_hangups(2 * number + 2)).await.expect("a hangup");
    }
}

#[test]
fn arguments_go_back_byte_for_byte_in_every_dialect() {
    use crate::testing::fixtures::done;
    for exact in [
        "{\"z\": 12345678901234567890123, \"a\":0.1000000000000000055511151231257827,\"f\":1.0}",
        "{\"b\":1,\"a\":{\"d\":\"\\u00e9\\/\",\"c\":-0.0}}",
        "{}",
    ] {
        let mut first = done("m1", "call_a", "get_weather", "sunny");
        exact.clone_into(&mut first.tool_call_mut().unwrap().arguments_json);
        // What the model never finished goes back as nothing, not as damage.
        let mut broken = done("m1", "call_b", "get_time", "no time");
        "{\"zone\":\"C".clone_into(&mut broken.tool_call_mut().unwrap().arguments_json);
        let asked = request("m", vec![user("hi"), first, broken]);
        let as_text = serde_json::to_string(exact).unwrap();
        for (format, path, wanted) in [
            (Format::OpenAiChat, "/v1/chat/completions", format!("\"arguments\":{as_text}")),
            (Format::OpenAiResponses, "/v1/responses", format!("\"arguments\":{as_text}")),
            (Format::Anthropic, "/v1/messages", format!("\"input\":{exact}")),
            (Format::Google, "/v1beta/models/m:streamGenerateContent", format!("\"args\":{exact}")),
            (Format::Bedrock, "/model/m/converse-stream", format!("\"input\":{exact}")),
        ] {
            let url = format!("http://127.0.0.1:1{path}");
            let vendor = Vendor::new(VendorOptions::for_format(info(), format, url)).unwrap();
            let body = String::from_utf8(vendor.encode(&asked).unwrap()).unwrap();
            assert!(body.contains(&wanted), "{format:?} {exact}: {body}");
            let tree: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(tree.is_object() && !body.contains("gander-"), "{format:?}: {body}");
            assert_eq!(body.matches("zone").count(), 0, "{format:?}: {body}");
        }
    }
}

/// What a server may send without end, as pieces of one dialect.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Calls,
    Arguments,
    Text,
}

fn piece(format: Format, flood: Flood, number: usize, filler: &str) -> serde_json::Value {
    use serde_json::json;
    let first = number == 0;
    match (format, flood) {
        (Format::OpenAiChat, Flood::Text) => json!({ "choices": [{ "delta": { "content": filler } }] }),
        (Format::OpenAiChat, Flood::Calls) => json!({ "choices": [{ "delta": { "tool_calls": [
            { "index": number, "id": format!("c{number}"), "function": { "name": "f", "arguments": "{}" } }] } }] }),
        (Format::OpenAiChat, Flood::Arguments) => json!({ "choices": [{ "delta": { "tool_calls": [
            { "index": 0, "function": { "name": first.then_some("f"), "arguments": filler } }] } }] }),
        (Format::Anthropic, Flood::Text) => json!({ "type": "content_block_delta", "index": 0,
            "delta": { "type": "text_delta", "text": filler } }),
        (Format::Anthropic, Flood::Arguments) if !first => json!({ "type": "content_block_delta", "index": 0,
            "delta": { "type": "input_json_delta", "partial_json": filler } }),
        (Format::Anthropic, _) => json!({ "type": "content_block_start", "index": number,
            "content_block": { "type": "tool_use", "id": format!("c{number}"), "name": "f", "input": {} } }),
        (Format::Google, Flood::Text) => {
            json!({ "candidates": [{ "content": { "parts": [{ "text": filler }] } }] })
        }
        (Format::Google, _) => json!({ "candidates": [{ "content": { "parts": [
            { "functionCall": { "name": "f", "args": { "x": filler } } }] } }] }),
        (Format::OpenAiResponses, Flood::Text) => {
            json!({ "type": "response.output_text.delta", "output_index": 0,
            "delta": filler })
        }
        (Format::OpenAiResponses, Flood::Arguments) if !first => json!({
            "type": "response.function_call_arguments.delta", "output_index": 0, "delta": filler }),
        (Format::OpenAiResponses, _) => json!({ "type": "response.output_item.added", "output_index": number,
            "item": { "type": "function_call", "call_id": format!("c{number}"), "name": "f", "arguments": "" } }),
        (Format::Bedrock, Flood::Text) => json!({ "contentBlockIndex": 0, "delta": { "text": filler } }),
        (Format::Bedrock, Flood::Arguments) if !first => json!({ "contentBlockIndex": 0,
            "delta": { "toolUse": { "input": filler } } }),
        (Format::Bedrock, _) => json!({ "contentBlockIndex": number,
            "start": { "toolUse": { "toolUseId": format!("c{number}"), "name": "f" } } }),
    }
}

#[test]
fn what_a_server_chooses_is_bounded_in_every_dialect() {
    let formats =
        [Format::OpenAiChat, Format::OpenAiResponses, Format::Anthropic, Format::Google, Format::Bedrock];
    for format in formats {
        for (flood, filler, most) in [
            (Flood::Calls, String::new(), wire::MAX_CALLS + 1),
            // Google's calls are whole: one is enough.
            (Flood::Arguments, "x".repeat(1024 * 1024), wire::MAX_ARGUMENTS / (1024 * 1024) + 2),
            (Flood::Text, "x".repeat(1024 * 1024), wire::MAX_TEXT / (1024 * 1024) + 1),
        ] {
            let filler = if format == Format::Google && matches!(flood, Flood::Arguments) {
                filler.repeat(5)
            } else {
                filler
            };
            let mut decoder = decoder(format, "fake");
            let broken = (0..most).find_map(|number| {
                let event = piece(format, flood, number, &filler).to_string();
                let step = if format == Format::Bedrock {
                    let kind =
                        if event.contains("\"delta\"") { "contentBlockDelta" } else { "contentBlockStart" };
                    let headers = [(":message-type", "event"), (":event-type", kind)];
                    decoder.bytes(&bedrock::write_frame(&headers, event.as_bytes())).unwrap()
                } else {
                    decoder.frame(event.as_bytes(), false)
                };
                while decoder.pop().is_some() {}
                match step {
                    Step::More => None,
                    Step::Broken(error) => Some((number, error)),
                    other => panic!("{format:?} {flood:?}: {other:?}"),
                }
            });
            let (number, error) = broken.unwrap_or_else(|| panic!("{format:?} {flood:?} has no bound"));
            assert_eq!(error.class, ModelErrorClass::InvalidRequest, "{format:?} {flood:?}: {error}");
            assert!(error.message.contains("limit"), "{error}");
            let early = format == Format::Google && matches!(flood, Flood::Arguments);
            assert!(early || number + 2 >= most, "{format:?} {flood:?}: refused at {number} of {most}");
        }
    }
}
