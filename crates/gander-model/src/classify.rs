//! Classes of failed model calls: pure functions over status, headers and body.
//!
//! The order of the rules matters: what a body says outranks its status, since vendors answer an empty purse with 429
//! and a full context with 400, 413 or 500.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde_json::Value;

use crate::{ModelError, ModelErrorClass as Class, redact::Redactor};

/// Longest wait that a server may ask for.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(3600);
/// Longest part of a server's text that goes into a message, in characters.
const MESSAGE_CHARS: usize = 800;

/// What a server said about a failure.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// HTTP status; absent for an error inside a stream.
    pub status: Option<u16>,
    pub headers: Option<&'a HeaderMap>,
    pub body: &'a str,
    /// For `Retry-After` dates.
    pub now: SystemTime,
}

/// The error that a failure is, with a message without secrets.
pub fn classify(failure: &Failure<'_>, redactor: &Redactor) -> ModelError {
    let mut said = Said::parse(failure.body);
    // AWS names the exception here and only its text in the body.
    if let Some(kind) = failure.headers.and_then(|headers| headers.get("x-amzn-errortype")?.to_str().ok()) {
        said.codes.push_str(&kind.to_lowercase());
        said.codes.push(' ');
    }
    let status = failure.status.filter(|status| *status >= 300).or(said.status);
    let retry_after = retry_after(failure, &said);
    let class = class(status, &said, retry_after.is_some());
    let text = clip(&redactor.apply(&said.message));
    let message = match (status, text.is_empty()) {
        (Some(status), true) => format!("the model provider answered with HTTP status {status}"),
        (Some(status), false) => format!("the model provider answered {status}: {text}"),
        (None, true) => "the model provider reported an error without a text".to_owned(),
        (None, false) => format!("the model provider reported: {text}"),
    };
    let mut error = ModelError::new(class, message);
    error.status = failure.status.or(status);
    error.retry_after = retry_after;
    if class == Class::QuotaExhausted {
        error.help_url = first_url(&text);
    }
    error
}

/// The fields of an error body, wherever the vendor put them.
#[derive(Debug, Default)]
struct Said {
    message: String,
    /// `type`, `code` and `status`, lower case, separated by spaces.
    codes: String,
    /// A numeric code in the range of HTTP statuses.
    status: Option<u16>,
    retry_after: Option<Duration>,
}

impl Said {
    fn parse(body: &str) -> Self {
        let Ok(document) = serde_json::from_str::<Value>(body) else {
            return Self { message: plain_text(body), ..Self::default() };
        };
        let outer = match &document {
            Value::Array(list) => list.first().unwrap_or(&Value::Null),
            other => other,
        };
        let error = outer.get("error").filter(|error| !error.is_null()).unwrap_or(outer);
        let message = ["message", "detail", "error", "msg", "title"]
            .iter()
            .find_map(|key| text_of(error.get(*key)?))
            .or_else(|| text_of(error))
            .or_else(|| text_of(outer.get("message")?))
            .unwrap_or_else(|| plain_text(body));
        let mut said = Self { message, ..Self::default() };
        for key in ["type", "code", "status"] {
            for place in [error, outer] {
                match place.get(key) {
                    Some(Value::String(code)) => {
                        said.codes.push_str(&code.to_lowercase());
                        said.codes.push(' ');
                    }
                    Some(Value::Number(number)) => {
                        let code = number.as_u64().and_then(|code| u16::try_from(code).ok());
                        said.status = said.status.or(code.filter(|code| (400..600).contains(code)));
                    }
                    _ => {}
                }
            }
        }
        // OpenRouter forwards what the vendor behind it said.
        if let Some(raw) = error.pointer("/metadata/raw").and_then(Value::as_str) {
            said.message = format!("{}: {raw}", said.message);
        }
        said.retry_after = body_delay(error);
        said
    }

    fn mentions(&self, lower: &str, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| lower.contains(phrase) || self.codes.contains(phrase))
    }
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A body that is no JSON: HTML pages say nothing worth showing.
fn plain_text(body: &str) -> String {
    let text = body.trim();
    if text.starts_with('<') { String::new() } else { text.to_owned() }
}

const CONTEXT: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size",
    "model_context_window_exceeded",
    "prompt is too long",
    "maximum context length",
    "context window",
    "context length",
    "too many tokens",
    "input is too long",
    "input token count",
    "reduce the length of the messages",
    "maximum prompt length",
    "maximum model length",
    "prompt exceeds max length",
    "prompt token count",
    "model_max_prompt_tokens_exceeded",
    "exceeded model token limit",
    "range of input length should be",
    "`inputs` tokens + `max_new_tokens` must be",
];
/// One request that is larger than a whole minute's allowance: it never fits, however long one waits.
const NEVER_FITS: &[&str] = &["tokens must be reduced", "reduce your message size"];
const QUOTA: &[&str] = &[
    "insufficient_quota",
    "billing",
    "insufficient credit",
    "insufficient balance",
    "credit balance",
    "more credits",
    "payment required",
    "spending limit",
    "exceeded your current quota",
    "exceeded_current_quota",
];
const RATE: &[&str] = &[
    "rate_limit",
    "rate limit",
    "rate-limit",
    "ratelimit",
    "too_many_requests",
    "too many requests",
    "throttling",
    "tokens per minute",
    "resource_exhausted",
];
const AUTH: &[&str] = &[
    "authentication_error",
    "invalid_api_key",
    "incorrect api key",
    "invalid api key",
    "api key not valid",
    "api key expired",
    "unauthenticated",
    "unauthorized",
];
const NOT_AUTH: &[&str] =
    &["region", "country", "territory", "moderation", "flagged", "content policy", "safety"];
const MODEL: &[&str] = &[
    "model_not_found",
    "model_not_supported",
    "unknown_model",
    "unknown model",
    "no such model",
    "not a valid model",
    "model identifier is invalid",
    "could not resolve the foundation model",
    "deploymentnotfound",
    "no endpoints found for",
    "no models loaded",
];
const OVERLOADED: &[&str] = &["overloaded", "at capacity", "capacity exceeded"];

/// "The model `x` does not exist", but not "parameter `x` is not supported with this model".
fn names_unknown_model(lower: &str) -> bool {
    let Some(model) = lower.find("model") else { return false };
    !lower.contains("parameter")
        && ["does not exist", "not found", "not supported", "no longer available"]
            .iter()
            .any(|phrase| lower[model..].contains(phrase))
}

fn class(status: Option<u16>, said: &Said, has_delay: bool) -> Class {
    let lower = said.message.to_lowercase();
    let input_length = lower.contains("input length") && lower.contains("exceed");
    let client_fault = !matches!(status, Some(401 | 402 | 403 | 404 | 429));
    if matches!(status, Some(400 | 413 | 429) | None) && said.mentions(&lower, NEVER_FITS) {
        return Class::ContextExceeded;
    }
    if client_fault
        && !said.mentions(&lower, RATE)
        && (said.mentions(&lower, CONTEXT) || input_length || status == Some(413))
    {
        return Class::ContextExceeded;
    }
    if status == Some(402) {
        return Class::QuotaExhausted;
    }
    // A quota that names the time of its return is a rate.
    let quota = said.mentions(&lower, QUOTA) && (!has_delay || said.codes.contains("insufficient_quota"));
    if quota && status.is_none_or(|status| status < 500) && status != Some(401) {
        return Class::QuotaExhausted;
    }
    match status {
        Some(429) => return Class::RateLimited,
        Some(401) => return Class::Auth,
        Some(403) if said.mentions(&lower, NOT_AUTH) => return Class::InvalidRequest,
        Some(403) if lower.contains("quota") => return Class::QuotaExhausted,
        Some(403) if said.mentions(&lower, MODEL) => return Class::ModelUnknown,
        Some(403) => return Class::Auth,
        _ => {}
    }
    if said.mentions(&lower, RATE) {
        return Class::RateLimited;
    }
    if matches!(status, Some(503 | 529)) || said.mentions(&lower, OVERLOADED) {
        return Class::Overloaded;
    }
    if said.mentions(&lower, AUTH) {
        return Class::Auth;
    }
    let unknown_model = matches!(status, Some(400 | 404 | 422) | None) && names_unknown_model(&lower);
    if said.mentions(&lower, MODEL) || unknown_model {
        return Class::ModelUnknown;
    }
    match status {
        Some(408) => Class::Server,
        Some(status) if status >= 500 => Class::Server,
        Some(_) => Class::InvalidRequest,
        None if said.codes.contains("invalid_request") || said.codes.contains("bad_request") => {
            Class::InvalidRequest
        }
        None => Class::Server,
    }
}

/// `retry-after-ms`, then `retry-after` (seconds or an HTTP date), then the body.
fn retry_after(failure: &Failure<'_>, said: &Said) -> Option<Duration> {
    let header = |name: &str| failure.headers?.get(name)?.to_str().ok().map(str::trim);
    let delay = header("retry-after-ms")
        .and_then(|text| text.parse::<f64>().ok())
        .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
        .or_else(|| parse_retry_after(header("retry-after")?, failure.now))
        .or(said.retry_after)
        .or_else(|| delay_in_text(&said.message))?;
    Some(delay.min(RETRY_AFTER_CAP))
}

fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

/// OpenRouter's `metadata.retry_after_seconds` and Google's `RetryInfo.retryDelay`.
fn body_delay(error: &Value) -> Option<Duration> {
    let seconds = error.pointer("/metadata/retry_after_seconds").and_then(Value::as_f64).or_else(|| {
        let details = error.get("details")?.as_array()?;
        let text = details.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
        text.strip_suffix('s')?.parse().ok()
    })?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// "Please try again in 7.66s", "… in 20ms", "… in 1m30s", "Please retry in 34.07s", "retry after 6 seconds".
fn delay_in_text(message: &str) -> Option<Duration> {
    let after = |phrase: &str| message.find(phrase).map(|at| &message[at + phrase.len()..]);
    let rest = ["try again in ", "retry in ", "retry after "].into_iter().find_map(after)?;
    let mut words = rest.split_whitespace();
    let word = words.next()?.trim_end_matches(['.', ',', ';', ')']);
    if let Ok(number) = word.parse::<f64>() {
        let unit = words.next()?.trim_end_matches(['.', ',', ';', ')']);
        let seconds = match unit {
            "millisecond" | "milliseconds" | "ms" => number / 1000.0,
            "second" | "seconds" | "s" => number,
            "minute" | "minutes" | "m" => number * 60.0,
            "hour" | "hours" | "h" => number * 3600.0,
            _ => return None,
        };
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let (mut total, mut number) = (0.0, String::new());
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            continue;
        }
        let value: f64 = std::mem::take(&mut number).parse().ok()?;
        total += match c {
            'h' => value * 3600.0,
            'm' if chars.peek() == Some(&'s') => {
                chars.next();
                value / 1000.0
            }
            'm' => value * 60.0,
            's' => value,
            _ => return None,
        };
    }
    // What is left is a number without a unit, or there was nothing.
    if number.is_empty() && !word.is_empty() { Duration::try_from_secs_f64(total).ok() } else { None }
}

fn first_url(text: &str) -> Option<String> {
    let start = text.find("https://")?;
    let url: String = text[start..]
        .chars()
        .take_while(|c| !c.is_whitespace() && !matches!(c, '"' | '\'' | ')' | '>' | ','))
        .collect();
    let url = url.trim_end_matches(['.', ';']).to_owned();
    (url.len() > "https://".len()).then_some(url)
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARS) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
