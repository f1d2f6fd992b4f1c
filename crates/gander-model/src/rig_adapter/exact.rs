//! Arguments of calls, byte for byte, through an encoder that takes them as a JSON tree.
//!
//! A tree has no room for integers beyond 64 bits or for all digits of a fraction. Where a tree would say something else
//! than the model did, a mark goes through the encoder instead, and the text takes its place in the bytes.

use serde_json::{Map, Value};

/// The texts behind the marks of one request.
#[derive(Debug)]
pub(super) struct Exact {
    /// Different in every request, so that no text of a conversation can be taken for it.
    mark: String,
    texts: Vec<String>,
}

impl Exact {
    pub(super) fn new() -> Self {
        Self { mark: format!("gander-{}", uuid::Uuid::new_v4().simple()), texts: Vec::new() }
    }

    /// What the encoder gets for these arguments.
    pub(super) fn take(&mut self, text: String) -> Map<String, Value> {
        let tree = parse(&text);
        if serde_json::to_string(&tree).is_ok_and(|again| again == text) {
            return tree;
        }
        let mut marked = Map::new();
        marked.insert(self.mark.clone(), self.texts.len().into());
        self.texts.push(text);
        marked
    }

    /// The body with the texts in their places; `None` if the encoder did something else with a mark.
    pub(super) fn restore(&self, body: Vec<u8>) -> Option<Vec<u8>> {
        if self.texts.is_empty() {
            return Some(body);
        }
        let mut out = Vec::with_capacity(body.len() + self.texts.iter().map(String::len).sum::<usize>());
        let mut rest = body.as_slice();
        for (number, text) in self.texts.iter().enumerate() {
            // Arguments are a text in this dialect: JSON within JSON.
            let marked = serde_json::to_string(&format!("{{\"{}\":{number}}}", self.mark)).ok()?;
            let at = memchr::memmem::find(rest, marked.as_bytes())?;
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(serde_json::to_string(text).ok()?.as_bytes());
            rest = &rest[at + marked.len()..];
        }
        out.extend_from_slice(rest);
        memchr::memmem::find(&out, self.mark.as_bytes()).is_none().then_some(out)
    }
}

/// Arguments as a tree.
pub(super) fn parse(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_tree_would_change_is_marked() {
        let mut exact = Exact::new();
        assert_eq!(Value::Object(exact.take("{\"a\":1}".to_owned())), json!({ "a": 1 }));
        assert!(exact.texts.is_empty());
        for text in ["{\"a\":12345678901234567890123}", "{\"a\":0.1000000000000000055511151231257827}", "{ }"]
        {
            let marked = exact.take(text.to_owned());
            assert_eq!(exact.texts.last().map(String::as_str), Some(text));
            assert!(marked.contains_key(&exact.mark));
        }
    }

    #[test]
    fn texts_take_the_place_of_their_marks() {
        let mut exact = Exact::new();
        let texts = ["{\"n\":1e400,\"s\":\"\\\"x\\\\\"}", "{ \"n\":12345678901234567890123 }"];
        let marked: Vec<Value> = texts
            .iter()
            .map(|text| json!({ "arguments": Value::Object(exact.take((*text).to_owned())).to_string() }))
            .collect();
        let body = serde_json::to_vec(&json!({ "calls": marked, "after": true })).unwrap();
        let restored: Value = serde_json::from_slice(&exact.restore(body).unwrap()).unwrap();
        assert_eq!(
            restored,
            json!({ "calls": [{ "arguments": texts[0] }, { "arguments": texts[1] }], "after": true })
        );
        assert_eq!(exact.restore(b"{}".to_vec()), None, "a mark that went missing");
    }
}
