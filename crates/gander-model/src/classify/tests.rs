use std::time::UNIX_EPOCH;

use super::*;

fn error_with(status: Option<u16>, headers: &[(&'static str, &str)], body: &str) -> ModelError {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    // Sun, 06 Nov 1994 08:49:37 GMT
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
    classify(
        &Failure { status, headers: Some(&map), body, now },
        &Redactor::new(["sk-REAL-KEY-1".to_owned()]),
    )
}

#[test]
fn classes_come_from_body_and_status() {
    use Class as C;
    let table: &[(Option<u16>, &str, Class)] = &[
        (Some(401), "", C::Auth),
        (Some(403), "{\"error\":{\"message\":\"Forbidden\"}}", C::Auth),
        (Some(403), "{\"error\":{\"message\":\"Not available in your region\"}}", C::InvalidRequest),
        (Some(403), "{\"error\":{\"message\":\"Input was flagged\",\"code\":403}}", C::InvalidRequest),
        (Some(403), "{\"error\":{\"message\":\"quota used up\"}}", C::QuotaExhausted),
        (Some(400), "{\"error\":{\"message\":\"x\",\"code\":\"invalid_api_key\"}}", C::Auth),
        (Some(429), "", C::RateLimited),
        (
            Some(429),
            "{\"error\":{\"type\":\"insufficient_quota\",\"message\":\"You exceeded your current quota\"}}",
            C::QuotaExhausted,
        ),
        (
            Some(429),
            "[{\"error\":{\"code\":429,\"message\":\"You exceeded your current quota, check your billing details\",\
             \"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"retryDelay\":\"34s\"}]}}]",
            C::RateLimited,
        ),
        (
            Some(413),
            "{\"error\":{\"message\":\"Request too large: tokens per minute (TPM) limit 6000\",\"code\":\"rate_limit_exceeded\"}}",
            C::RateLimited,
        ),
        (Some(400), "{\"message\":\"throttling_exception\",\"code\":\"throttling\"}", C::RateLimited),
        (Some(402), "{\"error\":{\"message\":\"Insufficient credits\"}}", C::QuotaExhausted),
        (
            Some(400),
            "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"Your credit balance is too low\"}}",
            C::QuotaExhausted,
        ),
        (
            Some(400),
            "{\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"too long\"}}",
            C::ContextExceeded,
        ),
        (Some(400), "{\"error\":{\"message\":\"prompt is too long: 1 > 0\"}}", C::ContextExceeded),
        (
            Some(400),
            "{\"error\":{\"type\":\"exceed_context_size_error\",\"message\":\"the request exceeds the available context size\",\"code\":400}}",
            C::ContextExceeded,
        ),
        (Some(500), "{\"error\":\"input length and max_tokens exceed context limit\"}", C::ContextExceeded),
        (Some(413), "", C::ContextExceeded),
        // A bad parameter is no full context.
        (Some(400), "{\"error\":{\"message\":\"max_tokens exceeds the allowed value\"}}", C::InvalidRequest),
        (Some(422), "{\"detail\":\"bad field\"}", C::InvalidRequest),
        (
            Some(404),
            "{\"error\":{\"message\":\"The model `x` does not exist\",\"code\":\"model_not_found\"}}",
            C::ModelUnknown,
        ),
        (Some(404), "{\"error\":\"model 'x' not found, try pulling it first\"}", C::ModelUnknown),
        (Some(400), "{\"error\":{\"message\":\"x is not a valid model ID\",\"code\":400}}", C::ModelUnknown),
        (Some(404), "<html>Not Found</html>", C::InvalidRequest),
        (Some(500), "<html>oops</html>", C::Server),
        (Some(502), "", C::Server),
        (Some(408), "", C::Server),
        (Some(503), "", C::Overloaded),
        (
            Some(529),
            "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
            C::Overloaded,
        ),
        (Some(307), "", C::InvalidRequest),
        // Inside a stream.
        (None, "{\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\"}}", C::Overloaded),
        (None, "{\"error\":{\"code\":502,\"message\":\"Upstream broke\"}}", C::Server),
        (None, "{\"error\":{\"code\":429,\"message\":\"slow down\"}}", C::RateLimited),
        (None, "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"bad\"}}", C::InvalidRequest),
        (None, "{\"error\":{\"message\":\"prompt is too long\"}}", C::ContextExceeded),
        (None, "{\"error\":\"something\"}", C::Server),
        (None, "", C::Server),
    ];
    for (status, body, wanted) in table {
        assert_eq!(error_with(*status, &[], body).class, *wanted, "{status:?} {body}");
    }
}

#[test]
fn waiting_times_are_read_in_order_of_trust() {
    let ms = Duration::from_millis;
    type Row<'a> = (&'a [(&'static str, &'a str)], &'a str, Option<Duration>);
    let table: &[Row<'_>] = &[
        (&[("retry-after", "7")], "", Some(ms(7000))),
        (&[("retry-after", "1.5")], "", Some(ms(1500))),
        (&[("retry-after-ms", "250"), ("retry-after", "7")], "", Some(ms(250))),
        (&[("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT")], "", Some(ms(20_000))),
        (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], "", Some(ms(0))),
        (&[("retry-after", "999999")], "", Some(ms(3_600_000))),
        (&[("retry-after", "-3")], "", None),
        (&[("retry-after", "soon")], "", None),
        (&[], "{\"error\":{\"message\":\"x\",\"metadata\":{\"retry_after_seconds\":12}}}", Some(ms(12_000))),
        (&[], "{\"error\":{\"message\":\"Please try again in 7.66s. Visit\"}}", Some(ms(7660))),
        (&[], "{\"error\":{\"message\":\"Please try again in 1m30s.\"}}", Some(ms(90_000))),
        (&[], "{\"error\":{\"message\":\"Please try again in 20ms.\"}}", Some(ms(20))),
        (&[], "{\"error\":{\"message\":\"Please try again in a while.\"}}", None),
        (&[("retry-after", "3")], "{\"error\":{\"message\":\"try again in 9s\"}}", Some(ms(3000))),
    ];
    for (headers, body, wanted) in table {
        assert_eq!(error_with(Some(429), headers, body).retry_after, *wanted, "{headers:?} {body}");
    }
}

#[test]
fn messages_are_redacted_clipped_and_name_the_status() {
    let error = error_with(
        Some(401),
        &[],
        "{\"error\":{\"message\":\"Incorrect API key provided: sk-REAL-KEY-1.\"}}",
    );
    assert!(!error.message.contains("REAL") && error.message.contains("401"), "{}", error.message);
    assert_eq!(error.status, Some(401));
    let error = error_with(Some(400), &[], &"x".repeat(100_000));
    assert!(error.message.len() < 1000);
    let error = error_with(Some(500), &[], "<html>page</html>");
    assert!(!error.message.contains('<'), "{}", error.message);
}

#[test]
fn an_empty_purse_comes_with_an_address() {
    let body =
        "{\"error\":{\"message\":\"No credits. Top up at https://example.test/credits.\",\"code\":402}}";
    assert_eq!(error_with(Some(402), &[], body).help_url.as_deref(), Some("https://example.test/credits"));
}

/// What real vendors say, each in its own words and with its own status.
#[test]
fn vendors_are_understood_in_their_own_words() {
    use Class as C;
    let table: &[(&str, u16, &str, &str, Class)] = &[
        (
            "OpenAI",
            400,
            "This model's maximum context length is 128000 tokens. However, your messages resulted in \
          140000 tokens.",
            "context_length_exceeded",
            C::ContextExceeded,
        ),
        (
            "OpenAI",
            400,
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
            "",
            C::ContextExceeded,
        ),
        (
            "OpenAI",
            429,
            "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, \
          Requested 50000. The input or output tokens must be reduced in order to run successfully.",
            "rate_limit_exceeded",
            C::ContextExceeded,
        ),
        (
            "OpenAI",
            429,
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000. Please try \
          again in 1.2s.",
            "rate_limit_exceeded",
            C::RateLimited,
        ),
        (
            "OpenAI",
            429,
            "Your account is not active, please check your billing details on our website.",
            "billing_not_active",
            C::QuotaExhausted,
        ),
        (
            "OpenAI",
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
          'max_completion_tokens' instead.",
            "unsupported_parameter",
            C::InvalidRequest,
        ),
        (
            "OpenAI",
            400,
            "max_tokens is too large: 50000. This model supports at most 16384 completion tokens.",
            "invalid_value",
            C::InvalidRequest,
        ),
        (
            "OpenAI",
            403,
            "Project `proj_x` does not have access to model `gpt-9`",
            "model_not_found",
            C::ModelUnknown,
        ),
        (
            "OpenAI",
            403,
            "Country, region, or territory not supported",
            "unsupported_country_region_territory",
            C::InvalidRequest,
        ),
        ("OpenAI", 503, "The engine is currently overloaded, please try again later", "", C::Overloaded),
        (
            "Anthropic",
            400,
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease \
          input length or `max_tokens` and try again",
            "",
            C::ContextExceeded,
        ),
        (
            "Anthropic",
            400,
            "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens for \
          claude-sonnet-4",
            "",
            C::InvalidRequest,
        ),
        ("Anthropic", 413, "Request exceeds the maximum size", "request_too_large", C::ContextExceeded),
        (
            "Anthropic",
            429,
            "This request would exceed your organization's rate limit of 40,000 input tokens per minute",
            "rate_limit_error",
            C::RateLimited,
        ),
        (
            "Anthropic",
            403,
            "Your API key does not have permission to use the specified resource.",
            "permission_error",
            C::Auth,
        ),
        ("Anthropic", 504, "The request timed out", "timeout_error", C::Server),
        (
            "Google",
            400,
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "INVALID_ARGUMENT",
            C::ContextExceeded,
        ),
        ("Google", 400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", C::Auth),
        (
            "Google",
            400,
            "User location is not supported for the API use.",
            "FAILED_PRECONDITION",
            C::InvalidRequest,
        ),
        (
            "Google",
            404,
            "models/gemini-9 is not found for API version v1beta, or is not supported for generateContent.",
            "NOT_FOUND",
            C::ModelUnknown,
        ),
        (
            "Google",
            429,
            "Resource has been exhausted (e.g. check quota).",
            "RESOURCE_EXHAUSTED",
            C::RateLimited,
        ),
        ("Google", 503, "The model is overloaded. Please try again later.", "UNAVAILABLE", C::Overloaded),
        ("Bedrock", 400, "Input is too long for requested model.", "", C::ContextExceeded),
        ("Bedrock", 400, "The provided model identifier is invalid.", "", C::ModelUnknown),
        ("Bedrock", 429, "Too many tokens, please wait before trying again.", "", C::RateLimited),
        ("Bedrock", 403, "The security token included in the request is expired", "", C::Auth),
        (
            "Azure",
            404,
            "The API deployment for this resource does not exist.",
            "DeploymentNotFound",
            C::ModelUnknown,
        ),
        ("Azure", 401, "Access denied due to invalid subscription key", "401", C::Auth),
        (
            "Mistral",
            400,
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "3051",
            C::ContextExceeded,
        ),
        ("Mistral", 429, "Service tier capacity exceeded for this model.", "3505", C::RateLimited),
        (
            "Groq",
            413,
            "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 12000, \
          please reduce your message size and try again.",
            "rate_limit_exceeded",
            C::ContextExceeded,
        ),
        ("Groq", 498, "Flex tier capacity exceeded", "capacity_exceeded", C::Overloaded),
        ("DeepSeek", 402, "Insufficient Balance", "", C::QuotaExhausted),
        (
            "xAI",
            400,
            "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
            "",
            C::ContextExceeded,
        ),
        (
            "xAI",
            403,
            "Your team has used all available credits or reached its monthly spending limit.",
            "",
            C::QuotaExhausted,
        ),
        (
            "Together",
            422,
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 \
          `inputs` tokens",
            "",
            C::ContextExceeded,
        ),
        (
            "Fireworks",
            400,
            "The prompt is too long: 140000, model maximum context length: 131071",
            "",
            C::ContextExceeded,
        ),
        (
            "Cerebras",
            400,
            "Please reduce the length of the messages or completion. Current length is 9000 while limit \
          is 8192",
            "context_length_exceeded",
            C::ContextExceeded,
        ),
        (
            "Cerebras",
            429,
            "Tokens per minute limit exceeded - too many tokens processed.",
            "too_many_tokens_error",
            C::RateLimited,
        ),
        (
            "OpenRouter",
            402,
            "This request requires more credits, or fewer max_tokens.",
            "",
            C::QuotaExhausted,
        ),
        ("OpenRouter", 404, "No endpoints found for x/y.", "", C::ModelUnknown),
        (
            "OpenRouter",
            429,
            "x/y is temporarily rate-limited upstream. Please retry shortly.",
            "",
            C::RateLimited,
        ),
        (
            "Hugging Face",
            400,
            "The requested model 'x' is not supported by any provider you have enabled.",
            "model_not_supported",
            C::ModelUnknown,
        ),
        (
            "Moonshot",
            400,
            "Invalid request: Your request exceeded model token limit: 131072",
            "",
            C::ContextExceeded,
        ),
        (
            "Moonshot",
            429,
            "Your account is suspended, please check your plan",
            "exceeded_current_quota_error",
            C::QuotaExhausted,
        ),
        (
            "Z.ai",
            429,
            "Insufficient balance or no resource package. Please recharge.",
            "1113",
            C::QuotaExhausted,
        ),
        ("Z.ai", 400, "Prompt exceeds max length", "1261", C::ContextExceeded),
        ("MiniMax", 400, "invalid params, context window exceeds limit (2013)", "", C::ContextExceeded),
        ("Ollama", 404, "model \"x\" not found, try pulling it first", "", C::ModelUnknown),
        ("Ollama", 400, "registry.ollama.ai/library/x does not support tools", "", C::InvalidRequest),
        ("llama.cpp", 503, "Loading model", "unavailable_error", C::Overloaded),
        (
            "LM Studio",
            400,
            "Trying to keep the first 5000 tokens when context the overflows. However, the model is \
          loaded with context length of only 4096 tokens",
            "",
            C::ContextExceeded,
        ),
        (
            "vLLM",
            400,
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            "",
            C::ContextExceeded,
        ),
        ("vLLM", 400, "max_tokens must be at least 1, got 0.", "", C::InvalidRequest),
    ];
    for (vendor, status, message, code, wanted) in table {
        let body = serde_json::json!({ "error": { "message": message, "code": code } }).to_string();
        let error = error_with(Some(*status), &[], &body);
        assert_eq!(error.class, *wanted, "{vendor} {status} {message}");
        assert_eq!(error.status, Some(*status), "{vendor}");
    }
    // AWS names the exception in a header.
    let throttled = error_with(
        Some(400),
        &[("x-amzn-errortype", "ThrottlingException:http://x/")],
        "{\"message\":\"no\"}",
    );
    assert_eq!(throttled.class, C::RateLimited);
}

#[test]
fn waiting_times_have_every_form_of_http_and_of_prose() {
    let ms = |ms| Some(Duration::from_millis(ms));
    for (header, wanted) in [
        ("Sun, 06 Nov 1994 08:49:57 GMT", ms(20_000)),
        ("Sunday, 06-Nov-94 08:49:57 GMT", ms(20_000)),
        ("Sun Nov  6 08:49:57 1994", ms(20_000)),
        (" 7 ", ms(7000)),
        ("0", ms(0)),
        ("NaN", None),
        ("inf", None),
        ("1e99", None),
        ("", None),
    ] {
        assert_eq!(error_with(Some(503), &[("retry-after", header)], "").retry_after, wanted, "{header:?}");
    }
    for (text, wanted) in [
        ("Please retry in 34.074824224s.", Some(Duration::from_nanos(34_074_824_224))),
        ("exceeded token rate limit. Please retry after 6 seconds.", ms(6000)),
        ("Try later: retry after 2 minutes, then", ms(120_000)),
        ("please try again in 500ms", ms(500)),
        ("please try again in 59m3s", ms(3_543_000)),
        ("try again in 5", None),
        ("try again in 5 days", None),
        ("retry in ", None),
    ] {
        let body = serde_json::json!({ "error": { "message": text } }).to_string();
        assert_eq!(error_with(Some(429), &[], &body).retry_after, wanted, "{text}");
    }
    let google = "{\"error\":{\"code\":429,\"details\":[{\"@type\":\"a\"},{\"retryDelay\":\"0.5s\"}]}}";
    assert_eq!(error_with(Some(429), &[], google).retry_after, ms(500));
}
