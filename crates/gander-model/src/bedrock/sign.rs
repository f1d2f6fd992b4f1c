//! AWS Signature Version 4, as far as a POST with a body needs it. Pure but for the time, which is given.

use std::{fmt, time::SystemTime};

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::{ModelError, ModelErrorClass};

/// What requests are signed with.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
    pub region: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("region", &self.region).finish_non_exhaustive()
    }
}

/// The headers that a signed POST of `body` to `url` has.
///
/// # Errors
/// The URL is none, or the clock stands before 1970.
pub(crate) fn sign(
    credentials: &Credentials,
    url: &str,
    body: &[u8],
    now: SystemTime,
) -> Result<Vec<(&'static str, String)>, ModelError> {
    let wrong = |what: &str| ModelError::new(ModelErrorClass::InvalidRequest, what.to_owned());
    let url = reqwest::Url::parse(url).map_err(|_| wrong("the provider's address is no URL"))?;
    let date = date(now).ok_or_else(|| wrong("the clock of this machine is wrong"))?;
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let mut headers = vec![("host", host), ("x-amz-date", date.clone())];
    if let Some(token) = &credentials.session_token {
        headers.push(("x-amz-security-token", token.expose_secret().to_owned()));
    }
    let request = Request {
        method: "POST",
        path: &encode_path(url.path()),
        query: url.query().unwrap_or_default(),
        headers: &headers,
        body,
    };
    let authorization = authorization(credentials, "bedrock", &date, &request);
    headers.retain(|(name, _)| *name != "host");
    headers.push(("authorization", authorization));
    Ok(headers)
}

struct Request<'a> {
    method: &'a str,
    /// Encoded once more than on the wire.
    path: &'a str,
    /// Encoded and sorted.
    query: &'a str,
    /// Sorted by name.
    headers: &'a [(&'static str, String)],
    body: &'a [u8],
}

fn authorization(credentials: &Credentials, service: &str, date: &str, request: &Request<'_>) -> String {
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String =
        request.headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{names}\n{}",
        request.method,
        request.path,
        request.query,
        hex(&Sha256::digest(request.body))
    );
    let day = &date[..8];
    let scope = format!("{day}/{}/{service}/aws4_request", credentials.region);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let secret = format!("AWS4{}", credentials.secret_access_key.expose_secret());
    let key = [day, &credentials.region, service, "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part.as_bytes()).to_vec());
    let signature = hex(&hmac(&key, text.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        credentials.access_key_id
    )
}

/// HMAC with SHA-256, as of RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5C)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A path as it is signed: encoded once more, slashes left.
fn encode_path(path: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `YYYYMMDDTHHMMSSZ`.
fn date(now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Some(format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: SecretString::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
            region: "us-east-1".to_owned(),
        }
    }

    /// The example of AWS's documentation of the signature.
    #[test]
    fn the_documented_example_has_the_documented_signature() {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
            ("host", "iam.amazonaws.com".to_owned()),
            ("x-amz-date", "20150830T123600Z".to_owned()),
        ];
        let request = Request {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            body: b"",
        };
        let said = authorization(&credentials(), "iam", "20150830T123600Z", &request);
        assert!(
            said.ends_with("Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
            "{said}"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "19700101T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(date(now).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), known);
        let long = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(hex(&hmac(&[0xAA; 131], text)), long);
    }

    #[test]
    fn headers_hold_the_token_and_no_secret() {
        let with_token =
            Credentials { session_token: Some(SecretString::from("token-1234")), ..credentials() };
        let url = "http://127.0.0.1:99/model/a.b-v1%3A0/converse-stream";
        let headers = sign(&with_token, url, b"{}", SystemTime::UNIX_EPOCH).unwrap();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["x-amz-date", "x-amz-security-token", "authorization"]);
        let all = format!("{headers:?} {with_token:?}");
        assert!(all.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"), "{all}");
        assert!(!all.contains("wJalrXUtn"), "{all}");
        assert_eq!(encode_path("/model/a%3A0/x"), "/model/a%253A0/x");
    }
}
