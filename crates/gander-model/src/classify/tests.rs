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
