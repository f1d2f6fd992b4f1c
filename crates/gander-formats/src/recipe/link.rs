//! Links: `goose://recipe?config=PAYLOAD&key=value`, the payload a recipe's JSON in base64.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use gander_domain::ErrorReason;
use serde_json::Value;

use super::{MAX_RECIPE_BYTES, read, text};
use crate::FormatError;

const PREFIXES: [&str; 2] = ["goose://recipe?", "goose://bot?"];

/// What a link says.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The recipe.
    pub document: Value,
    /// Values of parameters.
    pub values: BTreeMap<String, String>,
}

/// The payload of a recipe's link: base64 in its URL-safe alphabet, without padding.
///
/// # Errors
/// The document is no recipe.
pub fn encode_payload(document: &Value) -> Result<String, FormatError> {
    let recipe = read(document)?;
    Ok(URL_SAFE_NO_PAD.encode(recipe.document().to_string()))
}

/// The whole link.
pub fn encode_link(payload: &str, values: &BTreeMap<String, String>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in values {
        query.append_pair(key, value);
    }
    let query = query.finish();
    let separator = if query.is_empty() { "" } else { "&" };
    format!("{}config={payload}{separator}{query}", PREFIXES[0])
}

/// Reads a link or its payload. The payload may also be in the standard alphabet, padded, or percent-encoded.
///
/// # Errors
/// `LINK_INVALID`, with what is wrong.
pub fn decode_link(link: &str) -> Result<Link, FormatError> {
    let link = link.trim();
    if link.len() > 2 * MAX_RECIPE_BYTES {
        return Err(invalid("is too long"));
    }
    let query = PREFIXES.iter().find_map(|prefix| link.strip_prefix(prefix));
    let (payload, values) = match query {
        None if link.contains("://") => {
            return Err(invalid("is no recipe link; it must begin with goose://recipe?config="));
        }
        None => (link.to_owned(), BTreeMap::new()),
        Some(query) => {
            // A plus sign belongs to the standard alphabet and would read as a space.
            let payload = query.split('&').find_map(|pair| pair.strip_prefix("config="));
            let payload = payload.ok_or_else(|| invalid("has no config=…"))?.to_owned();
            let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned();
            (payload, pairs.filter(|(key, _)| key != "config").collect())
        }
    };
    let bytes = decode(&payload)
        .ok_or_else(|| invalid("what follows `config=` is no base64; copy the whole link again"))?;
    let value = serde_json::from_slice(&bytes).map_err(|_| invalid("holds no JSON"))?;
    let document = text::unwrapped(value).map_err(|e| invalid(&e.to_string()))?;
    read(&document).map_err(|e| invalid(&e.to_string()))?;
    Ok(Link { document, values })
}

fn invalid(message: &str) -> FormatError {
    FormatError { reason: ErrorReason::LinkInvalid, field: "link".to_owned(), message: message.to_owned() }
}

fn decode(payload: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let plain = percent_decoded(payload)?;
    [alphabet::URL_SAFE, alphabet::STANDARD]
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(&alphabet, config).decode(plain.trim()).ok())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
