//! The replies of the fake server, one per name: shapes that servers in the wild produce.

use serde_json::{Value, json};

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Written and flushed at once.
    Bytes(Vec<u8>),
    /// Waits until the client goes away.
    Hang,
    /// Closes the connection in the middle of the body.
    Cut,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<Piece>,
}

/// Scenarios whose reply is a complete stream, for tests that compare decoders.
pub(crate) const COMPLETE: &[&str] = &[
    "plain",
    "text",
    "interleave",
    "noindex",
    "index1",
    "sameidx",
    "dupidx",
    "hugeidx",
    "badjson",
    "nodone",
    "usagetail",
    "crlf",
    "length",
    "refusal",
    "comments",
    "details",
];

fn event(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-1",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

#[allow(clippy::needless_pass_by_value, reason = "callers write the value in place")]
fn delta(delta: Value) -> Vec<u8> {
    event(&chunk(&delta, None))
}

fn text(text: &str) -> Vec<u8> {
    delta(json!({ "content": text }))
}

#[allow(clippy::needless_pass_by_value, reason = "callers write the value in place")]
fn calls(parts: Value) -> Vec<u8> {
    delta(json!({ "tool_calls": parts }))
}

fn finish(reason: &str) -> Vec<u8> {
    event(&chunk(&json!({}), Some(reason)))
}

#[allow(clippy::needless_pass_by_value, reason = "callers write the value in place")]
fn usage(choices: Value) -> Vec<u8> {
    event(
        &json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake-1", "choices": choices,
        "usage": { "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
            "prompt_tokens_details": { "cached_tokens": 64 },
            "completion_tokens_details": { "reasoning_tokens": 5 } } }),
    )
}

fn done() -> Vec<u8> {
    b"data: [DONE]\n\n".to_vec()
}

fn part(index: Option<u64>, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    let mut part = json!({ "type": "function", "function": { "arguments": arguments } });
    if let Some(index) = index {
        part["index"] = index.into();
    }
    if let Some(id) = id {
        part["id"] = id.into();
    }
    if let Some(name) = name {
        part["function"]["name"] = name.into();
    }
    part
}

fn sse(pieces: Vec<Vec<u8>>) -> Reply {
    Reply {
        status: 200,
        headers: vec![("content-type", "text/event-stream".to_owned())],
        body: pieces.into_iter().map(Piece::Bytes).collect(),
    }
}

fn error(status: u16, headers: Vec<(&'static str, String)>, body: &Value) -> Reply {
    let mut all = vec![("content-type", "application/json".to_owned())];
    all.extend(headers);
    Reply { status, headers: all, body: vec![Piece::Bytes(body.to_string().into_bytes())] }
}

fn tail(pieces: &mut Vec<Vec<u8>>, reason: &str) {
    pieces.push(finish(reason));
    pieces.push(usage(json!([])));
    pieces.push(done());
}

/// The reply to a request for this model; `authorization` is echoed by the scenarios that leak.
pub(crate) fn reply(model: &str, authorization: &str) -> Option<Reply> {
    failures(model, authorization).or_else(|| streams(model)).or_else(|| odd_streams(model))
}

fn failures(model: &str, authorization: &str) -> Option<Reply> {
    let openai = |message: &str, kind: &str, code: &str| json!({ "error": { "message": message, "type": kind, "code": code } });
    Some(match model {
        "429" => error(
            429,
            vec![("retry-after", "7".to_owned())],
            &openai("Rate limit reached for requests", "requests", "rate_limit_exceeded"),
        ),
        "quota" => error(
            429,
            vec![],
            &openai(
                "You exceeded your current quota, see https://example.test/billing.",
                "insufficient_quota",
                "insufficient_quota",
            ),
        ),
        "401" => {
            let key = authorization.trim_start_matches("Bearer ");
            error(
                401,
                vec![],
                &openai(
                    &format!("Incorrect API key provided: {key}."),
                    "invalid_request_error",
                    "invalid_api_key",
                ),
            )
        }
        "ctx" => error(
            400,
            vec![],
            &openai(
                "This model's maximum context length is 8192 tokens.",
                "invalid_request_error",
                "context_length_exceeded",
            ),
        ),
        "503" => error(503, vec![], &openai("The server is overloaded", "server_error", "")),
        "500" => Reply {
            status: 500,
            headers: vec![("content-type", "text/html".to_owned())],
            body: vec![Piece::Bytes(b"<html>oops</html>".to_vec())],
        },
        "nomodel" => error(
            404,
            vec![],
            &openai("The model `nomodel` does not exist", "invalid_request_error", "model_not_found"),
        ),
        "redirect" => Reply {
            status: 307,
            headers: vec![("location", "http://127.0.0.1:1/steal".to_owned())],
            body: Vec::new(),
        },
        "html" => Reply {
            status: 200,
            headers: vec![("content-type", "text/html; charset=utf-8".to_owned())],
            body: vec![Piece::Bytes(b"<html>Welcome</html>".to_vec())],
        },
        _ => return None,
    })
}

fn streams(model: &str) -> Option<Reply> {
    let mut pieces = vec![delta(json!({ "role": "assistant", "content": "" }))];
    match model {
        "plain" => {
            pieces.push(delta(json!({ "reasoning_content": "Let me " })));
            pieces.push(delta(json!({ "reasoning_content": "think." })));
            pieces.push(text("Hello"));
            pieces.push(text(" wörld \u{1F30D}"));
            pieces.push(calls(json!([part(Some(0), Some("call_a"), Some("get_weather"), "")])));
            pieces.push(calls(json!([part(Some(0), None, None, "{\"city\":")])));
            pieces.push(calls(json!([part(Some(0), None, None, "\"Rome\"}")])));
            pieces.push(calls(json!([part(Some(1), Some("call_b"), Some("get_time"), "")])));
            pieces.push(calls(json!([part(Some(1), None, None, "{}")])));
            tail(&mut pieces, "tool_calls");
        }
        "text" => {
            pieces.push(text("Just text."));
            tail(&mut pieces, "stop");
        }
        "interleave" => {
            pieces.push(calls(json!([
                part(Some(0), Some("call_a"), Some("get_weather"), ""),
                part(Some(1), Some("call_b"), Some("get_time"), "")
            ])));
            pieces.push(calls(json!([part(Some(1), None, None, "{\"zone\":")])));
            pieces.push(calls(json!([part(Some(0), None, None, "{\"city\":")])));
            pieces.push(calls(json!([
                part(Some(0), None, None, "\"Rome\"}"),
                part(Some(1), None, None, "\"CET\"}")
            ])));
            tail(&mut pieces, "tool_calls");
        }
        "noindex" => {
            pieces.push(calls(json!([part(
                None,
                Some("call_a"),
                Some("get_weather"),
                "{\"city\":\"Rome\"}"
            )])));
            pieces.push(calls(json!([part(None, Some("call_b"), Some("get_time"), "{}")])));
            tail(&mut pieces, "tool_calls");
        }
        "index1" => {
            pieces.push(calls(json!([part(Some(1), Some("call_a"), Some("get_weather"), "{\"city\":")])));
            pieces.push(calls(json!([part(Some(1), None, None, "\"Rome\"}")])));
            tail(&mut pieces, "tool_calls");
        }
        "sameidx" => {
            pieces.push(calls(json!([part(
                Some(0),
                Some("call_a"),
                Some("get_weather"),
                "{\"city\":\"Rome\"}"
            )])));
            pieces.push(calls(json!([part(Some(0), Some("call_b"), Some("get_time"), "{}")])));
            tail(&mut pieces, "tool_calls");
        }
        "dupidx" => {
            pieces.push(calls(json!([part(
                Some(0),
                Some("call_a"),
                Some("get_weather"),
                "{\"city\":\"Rome\"}"
            )])));
            pieces.push(calls(json!([part(Some(1), None, Some("get_weather"), "{\"city\":\"Rome\"}")])));
            pieces.push(calls(json!([part(Some(2), None, Some("get_weather"), "{\"city\":\"Rome\"}")])));
            tail(&mut pieces, "tool_calls");
        }
        "hugeidx" => {
            pieces.push(calls(json!([part(Some(200_000), Some("call_a"), Some("get_weather"), "{}")])));
            tail(&mut pieces, "tool_calls");
        }
        "badjson" => {
            pieces.push(calls(json!([part(Some(0), Some("call_a"), Some("get_weather"), "{\"city\":\"Ro")])));
            tail(&mut pieces, "length");
        }
        "nodone" => {
            pieces.push(text("No marker"));
            pieces.push(finish("stop"));
            pieces.push(usage(json!([])));
        }
        "usagetail" => {
            pieces.push(text("Tail"));
            pieces.push(finish("stop"));
            pieces.push(usage(json!([{ "index": 0, "delta": {} }])));
            pieces.push(done());
        }
        "crlf" => {
            pieces.push(text("One"));
            pieces.push(text("Two"));
            tail(&mut pieces, "stop");
            pieces = split_crlf(&pieces);
        }
        "length" => {
            pieces.push(text("Cut of"));
            tail(&mut pieces, "length");
        }
        "refusal" => {
            pieces.push(delta(json!({ "refusal": "I cannot do that." })));
            tail(&mut pieces, "content_filter");
        }
        "comments" => {
            pieces.insert(0, b": OPENROUTER PROCESSING\n\n".to_vec());
            pieces.push(text("Slow"));
            pieces.push(b": keep-alive\n\n".to_vec());
            tail(&mut pieces, "stop");
        }
        "details" => {
            let detail = |fields: Value| delta(json!({ "reasoning_details": [fields] }));
            pieces.push(delta(json!({ "reasoning": "Hm ", "reasoning_details":
                [{ "type": "reasoning.text", "index": 0, "text": "Hm " }] })));
            pieces.push(delta(json!({ "reasoning": "yes", "reasoning_details":
                [{ "type": "reasoning.text", "index": 0, "text": "yes" }] })));
            pieces.push(detail(json!({ "type": "reasoning.text", "index": 0, "signature": "c2ln" })));
            pieces.push(text("Answer"));
            tail(&mut pieces, "stop");
        }
        _ => return None,
    }
    Some(sse(pieces))
}

/// The same events with CRLF line ends, cut between CR and LF.
pub(crate) fn split_crlf(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut current = Vec::new();
    for byte in pieces.concat() {
        if byte == b'\n' {
            current.push(b'\r');
            out.push(std::mem::take(&mut current));
        }
        current.push(byte);
    }
    out.push(current);
    out
}

/// Streams that break or that only one decoder is asked to read.
fn odd_streams(model: &str) -> Option<Reply> {
    let start = delta(json!({ "role": "assistant", "content": "" }));
    let mut reply = sse(vec![start, text("Partial")]);
    let mut add = |bytes: Vec<u8>| reply.body.push(Piece::Bytes(bytes));
    match model {
        // The connection breaks inside the body.
        "trunc" => {
            add(calls(json!([part(Some(0), Some("call_a"), Some("get_weather"), "{\"city\":")])));
            reply.body.push(Piece::Cut);
        }
        // The body ends well, the reply does not.
        "trunc-clean" => {}
        "trunc-done" => add(done()),
        "trunc-frame" => add(b"data: {\"id\":\"chatcmpl-1\",\"choi".to_vec()),
        "hang" => reply.body.push(Piece::Hang),
        "mid" => {
            add(event(
                &json!({ "error": { "message": "Overloaded, try later", "type": "overloaded_error", "code": 503 } }),
            ));
            add(text("never"));
        }
        "mid-event" => {
            add(b"event: error\ndata: {\"message\":\"upstream exploded\",\"type\":\"server_error\"}\n\n"
                .to_vec());
        }
        "mid-ctx" => {
            add(event(
                &json!({ "error": { "message": "prompt is too long: 250000 tokens > 200000 maximum" } }),
            ));
        }
        "garbage" => add(b"data: {not json}\n\n".to_vec()),
        // Mistral: content as parts; others: arguments as an object.
        "parts" => {
            add(delta(json!({ "content": [
                { "type": "thinking", "thinking": [{ "type": "text", "text": "Hm." }] }] })));
            add(delta(json!({ "content": [{ "type": "text", "text": "Parts" }] })));
            add(calls(json!([{ "index": "0", "id": 7, "function":
                { "name": "get_weather", "arguments": { "city": "Rome" } } }])));
            add(finish("tool_calls"));
        }
        // The server ignores `stream` and answers with one document.
        "whole" => {
            let body = json!({ "id": "chatcmpl-1", "object": "chat.completion", "model": "fake-1",
                "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": {
                    "role": "assistant", "content": "Whole", "tool_calls": [
                        { "id": "call_a", "type": "function", "function":
                            { "name": "get_weather", "arguments": "{\"city\":\"Rome\"}" } }] } }],
                "usage": { "prompt_tokens": 3, "completion_tokens": 4 } });
            return Some(error(200, vec![], &body));
        }
        _ => return None,
    }
    Some(reply)
}
