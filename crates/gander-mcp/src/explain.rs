//! What went wrong with a server behind HTTP, in words that name what to do about it. Pure.
//!
//! Addresses appear without credentials and queries, which may hold secrets; bodies only as a short beginning.

use std::error::Error;

use rmcp::transport::{
    common::unix_socket::UnixSocketError,
    streamable_http_client::{SseError, StreamableHttpError},
};
use url::{Position, Url};

use crate::{
    connection::Failure,
    wire::{MAX_LINE, WireFailure},
};

/// Longest part of somebody else's text.
const MAX_TEXT: usize = 200;
/// Longest text of our own around somebody else's address; its end says what to do.
const MAX_REDIRECT: usize = 1000;

type HttpError = StreamableHttpError<reqwest::Error>;
type SocketError = StreamableHttpError<UnixSocketError>;

/// An address as it may be shown.
pub(crate) fn bare(url: &Url) -> String {
    let host = &url[Position::BeforeHost..Position::AfterPath];
    format!("{}://{host}", url.scheme())
}

/// Why a connection could not be made.
pub(crate) fn transport(error: &(dyn Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<HttpError>() {
        return http(error, client);
    }
    if let Some(error) = error.downcast_ref::<SocketError>() {
        return http(error, |error| format!("its socket cannot be used: {}", chain(error)));
    }
    format!("it cannot be reached: {}", chain(error))
}

/// Why a request brought no answer.
pub(crate) fn request(error: &(dyn Error + 'static)) -> Failure {
    let too_large = match (error.downcast_ref::<HttpError>(), error.downcast_ref::<SocketError>()) {
        (Some(StreamableHttpError::ResponseBodyTooLarge { max_size }), _)
        | (_, Some(StreamableHttpError::ResponseBodyTooLarge { max_size })) => Some(*max_size),
        (None, None) => return Failure::Gone(format!("the request could not be sent: {}", chain(error))),
        _ => None,
    };
    match too_large {
        Some(limit) => Failure::Wire(WireFailure::TooLarge(limit)),
        None => Failure::Gone(transport(error)),
    }
}

/// What is wrong with the stream of an answer.
pub(crate) fn stream(error: &SseError) -> WireFailure {
    let text = chain(error);
    // The library keeps the type of this to itself.
    if text.contains("maximum size") || text.contains("too large") {
        return WireFailure::TooLarge(MAX_LINE);
    }
    WireFailure::Unreadable(shorten(&text))
}

fn http<E: Error + Send + Sync + 'static>(
    error: &StreamableHttpError<E>,
    client: impl Fn(&E) -> String,
) -> String {
    match error {
        StreamableHttpError::Client(error) => client(error),
        StreamableHttpError::HttpStatus(_) | StreamableHttpError::UnexpectedServerResponse(_) => {
            let text = error.to_string();
            let text = text.trim_start_matches("unexpected server response: ").trim_end_matches([' ', ':']);
            match text.strip_prefix("HTTP ").and_then(|rest| rest.get(..3)?.parse().ok()) {
                Some(code) => format!("it answered {}; {}", shorten(text), remedy(code)),
                None => format!("its answer is not MCP ({}); check its uri", shorten(text)),
            }
        }
        StreamableHttpError::UnexpectedContentType(kind) => {
            let kind = kind.as_deref().unwrap_or("something without a type");
            format!(
                "it answered with {}, which is not MCP; check its uri (a login page or a proxy may answer there)",
                shorten(kind)
            )
        }
        StreamableHttpError::ResponseBodyTooLarge { max_size } => {
            format!("its answer exceeds the limit of {} MiB", max_size / (1024 * 1024))
        }
        StreamableHttpError::ReservedHeaderConflict(name) => {
            format!("the header {name} belongs to the protocol; remove it from the extension's headers")
        }
        StreamableHttpError::SessionExpired | StreamableHttpError::SessionRecoveryTimeout => {
            "it forgot the connection's session, and no new one could be begun; restart the extension"
                .to_owned()
        }
        other => format!("it cannot be reached: {}", shorten(&chain(other))),
    }
}

fn remedy(code: u16) -> &'static str {
    match code {
        401 | 403 | 407 => "check the credentials in the extension's headers",
        404 | 405 | 406 | 410 => {
            "check its uri: it must be the streamable HTTP endpoint, which often ends in /mcp (the older SSE transport \
             is not supported)"
        }
        408 | 425 | 429 => "it has too much to do; try again later",
        500.. => "the failure is the server's own: its log may tell more",
        _ => "check its uri",
    }
}

fn client(error: &reqwest::Error) -> String {
    if error.is_redirect()
        && let Some(source) = error.source()
    {
        return cut(&chain(source), MAX_REDIRECT);
    }
    let place = error.url().map_or_else(|| "the server".to_owned(), bare);
    let cause = causes(error);
    if error.is_connect() || error.is_timeout() {
        format!(
            "there is no connection to {place}: {cause}; check that the server runs and that its uri is right"
        )
    } else if error.is_builder() {
        format!("the request to {place} cannot be made: {cause}; check the extension's uri and headers")
    } else {
        format!("the connection to {place} broke: {cause}")
    }
}

/// What is behind an error of the HTTP client, whose own text has the whole address in it.
fn causes(error: &reqwest::Error) -> String {
    match error.source() {
        Some(source) => shorten(&chain(source)),
        None if error.is_timeout() => "it took too long".to_owned(),
        None => "no reason is known".to_owned(),
    }
}

/// An error with everything that is behind it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn shorten(text: &str) -> String {
    cut(text, MAX_TEXT)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_what_may_be_secret() {
        let url = Url::parse("https://me:pw@h.example:81/mcp?key=k#f").unwrap();
        assert_eq!(bare(&url), "https://h.example:81/mcp");
    }

    #[test]
    fn every_answer_that_is_none_names_a_remedy() {
        let told = |error: HttpError| transport(&error);
        for (text, parts) in [
            ("HTTP 404 Not Found: <html>", ["HTTP 404 Not Found", "often ends in /mcp"]),
            ("HTTP 403 Forbidden: ", ["HTTP 403 Forbidden;", "credentials"]),
            ("HTTP 503 Service Unavailable: x", ["HTTP 503", "log may tell more"]),
            ("could not parse JSON response", ["is not MCP", "check its uri"]),
        ] {
            let told = told(StreamableHttpError::UnexpectedServerResponse(text.into()));
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
        let told = told(StreamableHttpError::UnexpectedContentType(Some("text/html".to_owned())));
        assert!(told.contains("text/html") && told.contains("login page"), "{told}");
        let large = HttpError::ResponseBodyTooLarge { max_size: 5 };
        assert!(matches!(request(&large), Failure::Wire(WireFailure::TooLarge(5))));
        let long = HttpError::UnexpectedServerResponse("x".repeat(10_000).into());
        assert!(transport(&long).len() < 400);
    }
}
