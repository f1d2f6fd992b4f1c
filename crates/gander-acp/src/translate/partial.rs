//! The value of a JSON text that is still being written: what is open is closed, what is half said is left out.

use serde_json::Value;

/// What the text would be if it ended here. `None` when that is no object yet.
pub(crate) fn complete(text: &str) -> Option<Value> {
    let object = |text: &str| serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    let open = scan(text);
    let closed = |prefix: &str, closers: &[u8]| {
        let mut text = prefix.to_owned();
        text.extend(closers.iter().rev().map(|closer| char::from(*closer)));
        object(&text)
    };
    if !open.in_string
        && let Some(value) = closed(text, &open.closers)
    {
        return Some(value);
    }
    if open.in_string {
        // A half written escape is left out with its backslash.
        let mut string = text[..open.escape.unwrap_or(text.len())].to_owned();
        string.push('"');
        if let Some(value) = closed(&string, &open.closers) {
            return Some(value);
        }
    }
    // A key without its value, a number that may go on, a trailing comma: back to the last complete member.
    let (end, closers) = open.last_complete?;
    closed(&text[..end], &closers)
}

struct Open {
    closers: Vec<u8>,
    in_string: bool,
    /// Where an unfinished escape begins.
    escape: Option<usize>,
    /// Where the latest complete member ended, and what was open there.
    last_complete: Option<(usize, Vec<u8>)>,
}

fn scan(text: &str) -> Open {
    let mut open = Open { closers: Vec::new(), in_string: false, escape: None, last_complete: None };
    let mut unicode_left = 0_u8;
    for (at, byte) in text.bytes().enumerate() {
        if open.in_string {
            if unicode_left > 0 {
                unicode_left -= 1;
                if unicode_left == 0 {
                    open.escape = None;
                }
            } else if open.escape.is_some() {
                if byte == b'u' {
                    unicode_left = 4;
                } else {
                    open.escape = None;
                }
            } else if byte == b'\\' {
                open.escape = Some(at);
            } else if byte == b'"' {
                open.in_string = false;
            }
            continue;
        }
        match byte {
            b'"' => open.in_string = true,
            b'{' => {
                open.closers.push(b'}');
                open.last_complete = Some((at + 1, open.closers.clone()));
            }
            b'[' => {
                open.closers.push(b']');
                open.last_complete = Some((at + 1, open.closers.clone()));
            }
            b'}' | b']' => {
                open.closers.pop();
            }
            b',' => open.last_complete = Some((at, open.closers.clone())),
            _ => {}
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_prefix_of_an_object_is_a_prefix_of_its_members() {
        let whole = r#"{"path": "a\n\u00e9.rs", "n": [1, {"x": "y,{\"z"}], "deep": {"t": true}, "last": 5}"#;
        for end in (1..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let value = complete(&whole[..end]).unwrap_or_else(|| panic!("{}", &whole[..end]));
            assert!(value.is_object(), "{}", &whole[..end]);
        }
        for (text, wanted) in [
            ("", None),
            ("{", Some(json!({}))),
            (r#"{"path"#, Some(json!({}))),
            (r#"{"path": "src/ma"#, Some(json!({"path": "src/ma"}))),
            (r#"{"path": "src/ma\"#, Some(json!({"path": "src/ma"}))),
            (r#"{"path": "x\u00"#, Some(json!({"path": "x"}))),
            (r#"{"a": 1, "b": tr"#, Some(json!({"a": 1}))),
            (r#"{"a": [1, 2"#, Some(json!({"a": [1, 2]}))),
            (r#"{"a": 1}"#, Some(json!({"a": 1}))),
            ("[1", None),
            ("nonsense", None),
        ] {
            assert_eq!(complete(text), wanted, "{text}");
        }
    }
}
