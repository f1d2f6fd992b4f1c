//! The scenarios of the fake server in the dialects besides OpenAI's chat: told once, written in each.

use serde_json::{Value, json};

use super::scenarios::{Piece, Reply, split_crlf};
use crate::bedrock::write_frame;

/// A dialect that the fake writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Anthropic,
    Google,
    Responses,
    Bedrock,
}

impl Dialect {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 4] = [Self::Anthropic, Self::Google, Self::Responses, Self::Bedrock];

    /// The dialect and model of a request, by its path.
    pub(crate) fn of(path: &str, body: &Value) -> Option<(Self, String)> {
        let path = path.split('?').next().unwrap_or_default();
        let in_body = || body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        let in_path = |path: &str| path.rsplit('/').next().unwrap_or_default().replace("%40", "@");
        if path.ends_with("/messages") {
            Some((Self::Anthropic, in_body()))
        } else if path.ends_with("/responses") {
            Some((Self::Responses, in_body()))
        } else if let Some(path) = path.strip_suffix(":streamGenerateContent") {
            Some((Self::Google, in_path(path)))
        } else {
            path.strip_suffix("/converse-stream").map(|path| (Self::Bedrock, in_path(path)))
        }
    }
}

/// A step of a reply.
enum Say {
    Thought(&'static str),
    /// Signs and ends the thought.
    Sign(&'static str),
    Redacted(&'static str),
    Text(&'static str),
    Call(u64, &'static str, &'static str),
    Args(u64, &'static str),
    /// The calls' arguments are complete.
    Close,
    Stop(Stop),
    Ping,
    Error(&'static str, &'static str),
    Raw(&'static [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    End,
    Calls,
    Length,
    Refusal,
}

/// Scenarios whose reply is a complete stream.
#[cfg(test)]
pub(crate) const COMPLETE: &[&str] = &[
    "plain",
    "text",
    "interleave",
    "hugeidx",
    "badjson",
    "noargs",
    "crlf",
    "pings",
    "length",
    "refusal",
    "redacted",
    "noindex",
    "sameidx",
    "nulls",
    "badutf8",
];

/// Fields that number a block or item.
const INDEXES: &[&str] = &["index", "output_index", "contentBlockIndex"];

/// Changes an event of a scenario before it is written.
fn edit(scenario: &str, event: &mut Value) {
    let inner = event.pointer("/candidates/0").is_some();
    let place = if inner { event.pointer_mut("/candidates/0") } else { Some(&mut *event) };
    let Some(Value::Object(fields)) = place else { return };
    match scenario {
        "noindex" => fields.retain(|key, _| !INDEXES.contains(&key.as_str())),
        "sameidx" => {
            fields
                .iter_mut()
                .filter(|(key, _)| INDEXES.contains(&key.as_str()))
                .for_each(|(_, value)| *value = 0.into());
        }
        "nulls" => {
            for key in [
                "error",
                "usage",
                "delta",
                "item",
                "response",
                "arguments",
                "summary_index",
                "finishReason",
                "finishMessage",
                "content",
                "message",
                "content_block",
                "start",
                "metrics",
            ]
            .iter()
            .chain(INDEXES)
            {
                fields.entry(*key).or_insert(Value::Null);
            }
            if inner && let Value::Object(chunk) = event {
                for key in ["usageMetadata", "promptFeedback", "modelVersion", "error"] {
                    chunk.entry(key).or_insert(Value::Null);
                }
            }
        }
        _ => {}
    }
}

/// The same for pieces that are server-sent events.
fn edit_piece(scenario: &str, piece: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&piece);
    let Some((head, data)) = text.split_once("data: ") else { return piece };
    let Ok(mut event) = serde_json::from_str::<Value>(data) else { return piece };
    edit(scenario, &mut event);
    let mut out = format!("{head}data: {event}\n\n").into_bytes();
    if scenario == "badutf8" {
        // A byte that is no UTF-8, in the place of the letters that stand for it.
        while let Some(at) = memchr::memmem::find(&out, b"BAD") {
            out.splice(at..at + 3, [0xFF]);
        }
    }
    out
}

fn script(scenario: &str) -> Option<Vec<Say>> {
    use Say::*;
    let weather = || [Call(1, "call_a", "get_weather"), Args(1, "{\"city\":"), Args(1, "\"Rome\"}")];
    Some(match scenario {
        "plain" => {
            let mut steps = vec![Thought("Let me "), Thought("think."), Sign("c2lnbmF0dXJl+/=")];
            steps.extend([Text("Hello"), Text(" wörld \u{1F30D}")]);
            steps.extend(weather());
            steps.extend([Call(2, "call_b", "get_time"), Args(2, "{}"), Close, Stop(self::Stop::Calls)]);
            steps
        }
        "text" | "crlf" => vec![Text("Just "), Text("text."), Stop(self::Stop::End)],
        "pings" => vec![Ping, Text("Just "), Ping, Text("text."), Ping, Stop(self::Stop::End)],
        "interleave" => vec![
            Call(1, "call_a", "get_weather"),
            Call(2, "call_b", "get_time"),
            Args(2, "{\"zone\":"),
            Args(1, "{\"city\":"),
            Args(2, "\"CET\"}"),
            Args(1, "\"Rome\"}"),
            Close,
            Stop(self::Stop::Calls),
        ],
        "hugeidx" => {
            vec![
                Call(u64::MAX >> 1, "call_a", "get_weather"),
                Args(u64::MAX >> 1, "{}"),
                Close,
                Stop(self::Stop::Calls),
            ]
        }
        "noargs" => vec![Call(0, "call_b", "get_time"), Close, Stop(self::Stop::Calls)],
        "badjson" => {
            vec![Call(0, "call_a", "get_weather"), Args(0, "{\"city\":\"Ro"), Close, Stop(self::Stop::Length)]
        }
        "noindex" | "sameidx" | "nulls" => {
            let mut steps = vec![Text("Two.")];
            steps.extend(weather());
            steps.extend([Call(2, "call_b", "get_time"), Args(2, "{}"), Close, Stop(self::Stop::Calls)]);
            steps
        }
        "badutf8" => vec![Text("a"), Text("BAD"), Text("b"), Stop(self::Stop::End)],
        "nodone" => vec![Text("No marker"), Stop(self::Stop::End)],
        "empty" => Vec::new(),
        "length" => vec![Text("Cut of"), Stop(self::Stop::Length)],
        "refusal" => vec![Text("I cannot do that."), Stop(self::Stop::Refusal)],
        "redacted" => vec![Redacted("b3BhcXVl"), Text("Answer"), Stop(self::Stop::End)],
        "trunc" | "trunc-clean" => {
            vec![Text("Partial"), Call(1, "call_a", "get_weather"), Args(1, "{\"city\":")]
        }
        "hang" => vec![Text("Partial")],
        "mid" => vec![Text("Partial"), Error("overloaded_error", "Overloaded, try later"), Text("never")],
        "mid-rate" => vec![Text("Partial"), Error("throttlingException", "Too many requests")],
        "mid-ctx" => {
            vec![
                Text("Partial"),
                Error("invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"),
            ]
        }
        "garbage" => vec![Text("Partial"), Raw(b"data: {not json}\n\n")],
        "hole" => vec![Text("Partial"), Args(7, "{\"city\":\"Rome\"}"), Close, Stop(self::Stop::Calls)],
        _ => return None,
    })
}

/// The reply to a request for this model; `key` is echoed by the scenario that leaks.
pub(crate) fn reply(dialect: Dialect, scenario: &str, key: &str) -> Option<Reply> {
    if let Some(reply) = failure(dialect, scenario, key) {
        return Some(reply);
    }
    let script = script(scenario)?;
    let mut pieces: Vec<Vec<u8>> = match dialect {
        Dialect::Anthropic => anthropic(&script),
        Dialect::Google => google(&script),
        Dialect::Responses => responses(&script),
        Dialect::Bedrock => bedrock(&script, scenario),
    };
    if dialect != Dialect::Bedrock {
        pieces = pieces.into_iter().map(|piece| edit_piece(scenario, piece)).collect();
    }
    match scenario {
        "empty" => pieces.clear(),
        // Anthropic's `message_stop`, Bedrock's `metadata`; the others have no event behind the reason to stop.
        "nodone" if matches!(dialect, Dialect::Anthropic | Dialect::Bedrock) => {
            pieces.pop();
        }
        _ => {}
    }
    if scenario == "crlf" && dialect != Dialect::Bedrock {
        pieces = split_crlf(&pieces);
    }
    let mut body: Vec<Piece> = pieces.into_iter().map(Piece::Bytes).collect();
    match scenario {
        "trunc" => body.push(Piece::Cut),
        "hang" => body.push(Piece::Hang),
        _ => {}
    }
    let kind =
        if dialect == Dialect::Bedrock { "application/vnd.amazon.eventstream" } else { "text/event-stream" };
    Some(Reply { status: 200, headers: vec![("content-type", kind.to_owned())], body })
}

/// Answers that are no reply of any dialect.
fn page(dialect: Dialect, scenario: &str) -> Option<Reply> {
    let page = |status: u16, kind: &str, body: &str| {
        let headers = vec![("content-type", kind.to_owned())];
        Reply { status, headers, body: vec![Piece::Bytes(body.as_bytes().to_vec())] }
    };
    Some(match scenario {
        "html" => page(200, "text/html; charset=utf-8", "<!doctype html><title>Welcome</title>"),
        "502-html" => page(502, "text/html", "<html><h1>502 Bad Gateway</h1><hr>nginx</html>"),
        "404-html" => page(404, "text/html", "<html>Not Found</html>"),
        "empty-json" => page(200, "application/json", ""),
        "200-error" => {
            let error = json!({ "error": { "type": "overloaded_error", "message": "Overloaded" } });
            let body = match dialect {
                // Without `alt=sse` everything is a list.
                Dialect::Google => json!([error]),
                Dialect::Anthropic => json!({ "type": "error", "error": error["error"] }),
                _ => error,
            };
            page(200, "application/json", &body.to_string())
        }
        "redirect" => Reply {
            status: 307,
            headers: vec![("location", "http://127.0.0.1:1/steal".to_owned())],
            body: Vec::new(),
        },
        _ => return None,
    })
}

fn failure(dialect: Dialect, scenario: &str, key: &str) -> Option<Reply> {
    let page = page(dialect, scenario);
    if page.is_some() {
        return page;
    }
    let (status, kind, google_status, text) = match scenario {
        "401" => (401, "authentication_error", "UNAUTHENTICATED", format!("invalid x-api-key: {key}")),
        "402" => (402, "billing_error", "FAILED_PRECONDITION", "Payment required".to_owned()),
        "403" => (403, "permission_error", "PERMISSION_DENIED", format!("the key {key} may not do this")),
        "408" => (408, "timeout_error", "DEADLINE_EXCEEDED", "Request timed out".to_owned()),
        "413" => {
            (413, "request_too_large", "INVALID_ARGUMENT", "Request exceeds the maximum size".to_owned())
        }
        "529" => (529, "overloaded_error", "UNAVAILABLE", "Overloaded".to_owned()),
        "429" => (429, "rate_limit_error", "RESOURCE_EXHAUSTED", "Rate limit reached".to_owned()),
        "quota" => {
            (400, "invalid_request_error", "FAILED_PRECONDITION", "Your credit balance is too low".to_owned())
        }
        "ctx" => (400, "invalid_request_error", "INVALID_ARGUMENT", "prompt is too long: 9 > 8".to_owned()),
        "bad" => {
            (400, "invalid_request_error", "INVALID_ARGUMENT", "temperature: must be at most 1".to_owned())
        }
        "503" => (503, "overloaded_error", "UNAVAILABLE", "The model is overloaded".to_owned()),
        "500" => (500, "api_error", "INTERNAL", "Internal server error".to_owned()),
        "nomodel" => (404, "not_found_error", "NOT_FOUND", "model: nomodel was not found".to_owned()),
        _ => return None,
    };
    let mut headers = vec![("content-type", "application/json".to_owned())];
    let body = match dialect {
        Dialect::Anthropic => json!({ "type": "error", "error": { "type": kind, "message": text } }),
        Dialect::Responses => json!({ "error": { "type": kind, "code": Value::Null, "message": text } }),
        Dialect::Google => {
            let mut error = json!({ "code": status, "message": text, "status": google_status });
            if status == 429 {
                error["details"] =
                    json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s" }]);
            }
            json!({ "error": error })
        }
        Dialect::Bedrock => {
            headers.push(("x-amzn-errortype", "SomeException".to_owned()));
            json!({ "message": text })
        }
    };
    if status == 429 && dialect != Dialect::Google {
        headers.push(("retry-after", "7".to_owned()));
    }
    Some(Reply { status, headers, body: vec![Piece::Bytes(body.to_string().into_bytes())] })
}

fn event(value: &Value) -> Vec<u8> {
    let name = value.get("type").and_then(Value::as_str).unwrap_or("message");
    format!("event: {name}\ndata: {value}\n\n").into_bytes()
}

/// The number of a block on the wire: calls have theirs from the script.
fn block_of(step: &Say) -> u64 {
    match step {
        Say::Call(key, ..) | Say::Args(key, _) => 10u64.saturating_add(*key),
        Say::Thought(_) | Say::Sign(_) => 0,
        Say::Redacted(_) => 1,
        _ => 2,
    }
}

#[allow(clippy::too_many_lines, reason = "one arm per step")]
fn anthropic(script: &[Say]) -> Vec<Vec<u8>> {
    let mut out =
        vec![event(&json!({ "type": "message_start", "message": { "id": "msg_1", "type": "message",
        "role": "assistant", "model": "fake-1", "content": [], "stop_reason": null,
        "usage": { "input_tokens": 30, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 6,
            "output_tokens": 1 } } }))];
    let start = |index: u64, block: Value| {
        event(&json!({ "type": "content_block_start", "index": index, "content_block": block }))
    };
    let delta = |index: u64, delta: Value| {
        event(&json!({ "type": "content_block_delta", "index": index, "delta": delta }))
    };
    let stop = |index: u64| event(&json!({ "type": "content_block_stop", "index": index }));
    let mut open: Option<u64> = None;
    let mut calls = Vec::new();
    for step in script {
        let at = block_of(step);
        let needs_block = matches!(step, Say::Thought(_) | Say::Text(_));
        if open.is_some_and(|open| open != at || !needs_block && !matches!(step, Say::Sign(_))) {
            out.extend(open.take().map(stop));
        }
        if needs_block && open.is_none() {
            let block = match step {
                Say::Thought(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
                _ => json!({ "type": "text", "text": "" }),
            };
            out.push(start(at, block));
            open = Some(at);
        }
        match step {
            Say::Thought(text) => out.push(delta(at, json!({ "type": "thinking_delta", "thinking": text }))),
            Say::Sign(text) => out.push(delta(at, json!({ "type": "signature_delta", "signature": text }))),
            Say::Redacted(data) => {
                out.push(start(at, json!({ "type": "redacted_thinking", "data": data })));
                out.push(stop(at));
            }
            Say::Text(text) => out.push(delta(at, json!({ "type": "text_delta", "text": text }))),
            Say::Call(_, id, name) => {
                calls.push(at);
                out.push(start(at, json!({ "type": "tool_use", "id": id, "name": name, "input": {} })));
            }
            Say::Args(_, text) => {
                out.push(delta(at, json!({ "type": "input_json_delta", "partial_json": text })));
            }
            Say::Close => out.extend(calls.drain(..).map(stop)),
            Say::Stop(reason) => {
                let reason = match reason {
                    Stop::End => "end_turn",
                    Stop::Calls => "tool_use",
                    Stop::Length => "max_tokens",
                    Stop::Refusal => "refusal",
                };
                out.push(event(&json!({ "type": "message_delta",
                    "delta": { "stop_reason": reason, "stop_sequence": null }, "usage": { "output_tokens": 20 } })));
                out.push(event(&json!({ "type": "message_stop" })));
            }
            Say::Ping => out.push(event(&json!({ "type": "ping" }))),
            Say::Error(kind, text) => {
                out.push(event(&json!({ "type": "error", "error": { "type": kind, "message": text } })));
            }
            Say::Raw(bytes) => out.push(bytes.to_vec()),
        }
    }
    out
}

fn google(script: &[Say]) -> Vec<Vec<u8>> {
    let frame = |value: &Value| format!("data: {value}\n\n").into_bytes();
    let part = |part: Value| {
        frame(&json!({ "candidates": [{ "index": 0, "content": { "role": "model", "parts": [part] } }],
            "modelVersion": "fake-1" }))
    };
    let mut out = Vec::new();
    let mut calls: Vec<(u64, &str, &str, String)> = Vec::new();
    let mut signature = None;
    for step in script {
        match step {
            Say::Thought(text) => out.push(part(json!({ "text": text, "thought": true }))),
            Say::Sign(text) => signature = Some(*text),
            Say::Redacted(data) => out.push(part(json!({ "text": "", "thoughtSignature": data }))),
            Say::Text(text) => out.push(part(json!({ "text": text }))),
            Say::Call(key, id, name) => calls.push((*key, id, name, String::new())),
            // Calls come whole: there is no hole and no cut in their arguments.
            Say::Args(key, text) => {
                calls.iter_mut().filter(|call| call.0 == *key).for_each(|call| call.3.push_str(text));
            }
            Say::Close => {
                for (_, id, name, arguments) in calls.drain(..) {
                    let mut call = json!({ "id": id, "name": name });
                    if let Ok(arguments) = serde_json::from_str::<Value>(&arguments) {
                        call["args"] = arguments;
                    }
                    let mut call = json!({ "functionCall": call });
                    if let Some(signature) = signature.take() {
                        call["thoughtSignature"] = signature.into();
                    }
                    out.push(part(call));
                }
            }
            Say::Stop(reason) => {
                let reason = match reason {
                    Stop::End | Stop::Calls => "STOP",
                    Stop::Length => "MAX_TOKENS",
                    Stop::Refusal => "SAFETY",
                };
                out.push(frame(&json!({ "candidates": [{ "index": 0, "finishReason": reason }],
                    "usageMetadata": { "promptTokenCount": 100, "candidatesTokenCount": 15,
                        "thoughtsTokenCount": 5, "cachedContentTokenCount": 64, "totalTokenCount": 120 } })));
            }
            Say::Ping => out.push(b": keep-alive\n\n".to_vec()),
            Say::Error(kind, text) => {
                out.push(frame(&json!({ "error": { "status": kind, "message": text } })));
            }
            Say::Raw(bytes) => out.push(bytes.to_vec()),
        }
    }
    out
}

#[allow(clippy::too_many_lines, reason = "one arm per step")]
fn responses(script: &[Say]) -> Vec<Vec<u8>> {
    let mut out = vec![event(&json!({ "type": "response.created", "response":
        { "id": "resp_1", "model": "fake-1", "status": "in_progress" } }))];
    let mut calls: Vec<(u64, &str, &str, String)> = Vec::new();
    let (mut thought, mut said) = (String::new(), String::new());
    for step in script {
        let at = block_of(step);
        match step {
            Say::Thought(text) => {
                thought.push_str(text);
                out.push(event(&json!({ "type": "response.reasoning_summary_text.delta", "item_id": "rs_1",
                    "output_index": at, "summary_index": 0, "delta": text })));
            }
            Say::Sign(data) | Say::Redacted(data) => {
                let summary = match thought.as_str() {
                    "" => json!([]),
                    text => json!([{ "type": "summary_text", "text": text }]),
                };
                out.push(event(&json!({ "type": "response.output_item.done", "output_index": at, "item":
                    { "type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": data,
                        "status": null } })));
            }
            Say::Text(text) => {
                said.push_str(text);
                out.push(event(&json!({ "type": "response.output_text.delta", "item_id": "msg_1",
                    "output_index": at, "content_index": 0, "delta": text })));
            }
            Say::Call(key, id, name) => {
                calls.push((*key, id, name, String::new()));
                out.push(event(&json!({ "type": "response.output_item.added", "output_index": at, "item":
                    { "type": "function_call", "id": format!("fc_{key}"), "call_id": id, "name": name,
                        "arguments": "" } })));
            }
            Say::Args(key, text) => {
                calls.iter_mut().filter(|call| call.0 == *key).for_each(|call| call.3.push_str(text));
                out.push(event(&json!({ "type": "response.function_call_arguments.delta",
                    "item_id": format!("fc_{key}"), "output_index": at, "delta": text })));
            }
            Say::Close => {
                for (key, id, name, arguments) in calls.drain(..) {
                    out.push(event(&json!({ "type": "response.output_item.done",
                        "output_index": 10u64.saturating_add(key), "item": { "type": "function_call",
                            "id": format!("fc_{key}"), "call_id": id, "name": name, "arguments": arguments } })));
                }
            }
            Say::Stop(reason) => {
                if !said.is_empty() {
                    out.push(event(&json!({ "type": "response.output_item.done", "output_index": 2, "item":
                        { "type": "message", "id": "msg_1", "content": [{ "type": "output_text", "text": said }] } })));
                }
                let (kind, details) = match reason {
                    Stop::End | Stop::Calls => ("completed", Value::Null),
                    Stop::Length => ("incomplete", json!({ "reason": "max_output_tokens" })),
                    Stop::Refusal => ("incomplete", json!({ "reason": "content_filter" })),
                };
                out.push(event(&json!({ "type": format!("response.{kind}"), "response": { "id": "resp_1",
                    "model": "fake-1", "status": kind, "incomplete_details": details, "error": null,
                    "usage": { "input_tokens": 100, "output_tokens": 20, "total_tokens": 120,
                        "input_tokens_details": { "cached_tokens": 64 },
                        "output_tokens_details": { "reasoning_tokens": 5 } } } })));
            }
            Say::Ping => out.push(b": keep-alive\n\n".to_vec()),
            Say::Error(kind, text) => {
                out.push(event(&json!({ "type": "error", "code": kind, "message": text, "param": null })));
            }
            Say::Raw(bytes) => out.push(bytes.to_vec()),
        }
    }
    out
}

fn bedrock(script: &[Say], scenario: &str) -> Vec<Vec<u8>> {
    let event = |name: &str, mut value: Value| {
        edit(scenario, &mut value);
        write_frame(&[(":message-type", "event"), (":event-type", name)], value.to_string().as_bytes())
    };
    let delta = |index: u64, delta: Value| {
        event("contentBlockDelta", json!({ "contentBlockIndex": index, "delta": delta, "p": "abc" }))
    };
    let mut out = vec![event("messageStart", json!({ "role": "assistant" }))];
    for step in script {
        let at = block_of(step);
        match step {
            Say::Thought(text) => out.push(delta(at, json!({ "reasoningContent": { "text": text } }))),
            Say::Sign(text) => {
                out.push(delta(at, json!({ "reasoningContent": { "signature": text } })));
                out.push(event("contentBlockStop", json!({ "contentBlockIndex": at })));
            }
            Say::Redacted(data) => {
                out.push(delta(at, json!({ "reasoningContent": { "redactedContent": data } })));
                out.push(event("contentBlockStop", json!({ "contentBlockIndex": at })));
            }
            Say::Text(text) => out.push(delta(at, json!({ "text": text }))),
            Say::Call(_, id, name) => out.push(event(
                "contentBlockStart",
                json!({ "contentBlockIndex": at, "start": { "toolUse": { "toolUseId": id, "name": name } } }),
            )),
            Say::Args(_, text) => out.push(delta(at, json!({ "toolUse": { "input": text } }))),
            Say::Close => out.push(event("contentBlockStop", json!({ "contentBlockIndex": 11 }))),
            Say::Stop(reason) => {
                let reason = match reason {
                    Stop::End => "end_turn",
                    Stop::Calls => "tool_use",
                    Stop::Length => "max_tokens",
                    Stop::Refusal => "content_filtered",
                };
                out.push(event("messageStop", json!({ "stopReason": reason })));
                out.push(event(
                    "metadata",
                    json!({ "usage": { "inputTokens": 30, "cacheReadInputTokens": 64, "cacheWriteInputTokens": 6,
                        "outputTokens": 20, "totalTokens": 120 }, "metrics": { "latencyMs": 5 } }),
                ));
            }
            Say::Ping => out.push(event("somethingNew", json!({}))),
            Say::Error(kind, text) => out.push(write_frame(
                &[(":message-type", "exception"), (":exception-type", kind)],
                json!({ "message": text }).to_string().as_bytes(),
            )),
            Say::Raw(bytes) => out.push(bytes.to_vec()),
        }
    }
    out
}
