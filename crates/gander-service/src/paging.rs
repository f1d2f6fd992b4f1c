//! Page tokens: opaque, versioned, and bound to the method and filters they were made for.
//!
//! A token carries no authority: it says where to go on, and every page checks the request anew. The hash protects
//! against changed filters and mangled tokens, so that a caller gets an error instead of a wrong page.

use gander_domain::{ErrorDetail, ErrorReason};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::PAGE_BYTES;

const VERSION: u8 = 1;
const HASH_BYTES: usize = 8;
/// Longest position that a token may carry.
const MAX_POSITION_BYTES: usize = 512;

/// What a token must fit: the method and everything of the request but page size and token.
#[derive(Debug, Clone)]
pub(crate) struct Filters([u8; 32]);

impl Filters {
    /// `parts` are the request's filters in a fixed order, each in one canonical spelling.
    pub(crate) fn new(method: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(method.as_bytes()).chain(parts.iter().copied()) {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    fn seal(&self, position: &[u8]) -> [u8; HASH_BYTES] {
        let mut hash = Sha256::new();
        hash.update([VERSION]);
        hash.update(self.0);
        hash.update(position);
        let digest: [u8; 32] = hash.finalize().into();
        let mut seal = [0; HASH_BYTES];
        seal.copy_from_slice(&digest[..HASH_BYTES]);
        seal
    }

    /// A token for going on behind `position`.
    pub(crate) fn token(&self, position: &str) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.seal(position.as_bytes()));
        bytes.extend_from_slice(position.as_bytes());
        encode(&bytes)
    }

    /// The position in a token; `None` for the first page.
    ///
    /// # Errors
    /// `PAGE_TOKEN_INVALID` for a token that was not made for these filters.
    pub(crate) fn position(&self, token: &str) -> Result<Option<String>, ErrorDetail> {
        if token.is_empty() {
            return Ok(None);
        }
        let invalid = || {
            ErrorDetail::new(
                ErrorReason::PageTokenInvalid,
                "page_token does not belong to this request; start again without it, and keep all other fields the \
                 same from page to page",
            )
        };
        let bytes = decode(token).ok_or_else(invalid)?;
        let (version, rest) = bytes.split_first().ok_or_else(invalid)?;
        let (seal, position) = rest.split_at_checked(HASH_BYTES).ok_or_else(invalid)?;
        if *version != VERSION || seal != self.seal(position) {
            return Err(invalid());
        }
        String::from_utf8(position.to_vec()).map(Some).map_err(|_| invalid())
    }
}

/// Size of a page: 0 is `default`, more than `max` is `max`.
///
/// # Errors
/// `INVALID_FIELD` for a negative size.
pub(crate) fn page_size(size: i32, default: usize, max: usize) -> Result<usize, ErrorDetail> {
    match usize::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(ErrorDetail::invalid("page_size", format!("must not be negative, is {size}"))),
    }
}

/// Cuts one page out of a complete, ordered list, by count and by bytes. Positions are the keys of elements, which must
/// be unique.
///
/// # Errors
/// `PAGE_TOKEN_INVALID`, see [`Filters::position`].
pub(crate) fn cut_page<T, M: Message>(
    all: &[T],
    key: impl Fn(&T) -> String,
    encode: impl Fn(&T) -> M,
    filters: &Filters,
    token: &str,
    size: usize,
) -> Result<(Vec<M>, String), ErrorDetail> {
    let start = match filters.position(token)? {
        None => 0,
        // An element that has gone meanwhile ends the list rather than repeating it.
        Some(last) => all.iter().position(|e| key(e) == last).map_or(all.len(), |i| i + 1),
    };
    let rest = all.get(start..).unwrap_or_default();
    let page = fill(rest.iter().take(size).map(encode));
    let next = match page.len().checked_sub(1).and_then(|last| rest.get(last)) {
        Some(last) if page.len() < rest.len() => filters.token(&key(last)),
        _ => String::new(),
    };
    Ok((page, next))
}

/// As many messages as fit into a page, at least one.
pub(crate) fn fill<M: Message>(messages: impl Iterator<Item = M>) -> Vec<M> {
    let mut bytes = 0;
    let mut page = Vec::new();
    for message in messages {
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push(message);
    }
    page
}

/// Base64url without padding.
fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(token: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    if token.len() > (MAX_POSITION_BYTES + HASH_BYTES + 1) * 4 / 3 + 4 {
        return None;
    }
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(parts: &[&str]) -> Filters {
        Filters::new("ListTurns", &parts.iter().map(|p| p.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn a_token_gives_its_position_back() {
        let f = filters(&["s1", "running"]);
        assert_eq!(f.position("").unwrap(), None);
        for position in ["", "17", "20250101_3", "ü/…"] {
            assert_eq!(f.position(&f.token(position)).unwrap().as_deref(), Some(position));
        }
    }

    #[test]
    fn other_filters_and_mangled_tokens_are_refused() {
        let f = filters(&["ab", "c"]);
        let token = f.token("17");
        for other in [filters(&["a", "bc"]), filters(&["ab"]), filters(&["ab", "d"]), Filters::new("X", &[])]
        {
            let error = other.position(&token).unwrap_err();
            assert_eq!(error.reason, ErrorReason::PageTokenInvalid);
        }
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let mangled = String::from_utf8(bytes).unwrap();
            assert!(f.position(&mangled).is_err(), "byte {index} changed: {mangled}");
        }
        for wrong in ["x", "====", "not base64!", &token[..6], &"A".repeat(10_000)] {
            assert!(f.position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(page_size(0, 50, 200).unwrap(), 50);
        assert_eq!(page_size(7, 50, 200).unwrap(), 7);
        assert_eq!(page_size(i32::MAX, 50, 200).unwrap(), 200);
        assert_eq!(page_size(-1, 50, 200).unwrap_err().reason, ErrorReason::InvalidField);
    }

    #[test]
    fn pages_of_a_list_are_the_list() {
        let f = filters(&[]);
        let all: Vec<u32> = (0..10).collect();
        for size in 1..12 {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let (page, next) = cut_page(&all, u32::to_string, |n| *n, &f, &token, size).unwrap();
                assert!(page.len() <= size);
                seen.extend(page);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            assert_eq!(seen, all, "page size {size}");
        }
    }

    #[test]
    fn pages_are_cut_by_bytes_and_never_empty() {
        let f = filters(&[]);
        let all = ["a".repeat(PAGE_BYTES - 100), "b".repeat(200), "c".repeat(PAGE_BYTES * 2), "d".to_owned()];
        let (mut lengths, mut token) = (Vec::new(), String::new());
        loop {
            let (page, next) = cut_page(&all, |t| t[..1].to_owned(), String::clone, &f, &token, 10).unwrap();
            lengths.push(page.len());
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(lengths, [1, 1, 1, 1]);
        assert_eq!(fill(["x".to_owned(), "y".to_owned()].into_iter()).len(), 2);
    }
}
