//! What a documented setting may hold. Pure.
//!
//! A form says in one phrase what fits, so that a refusal names the remedy. Numbers and booleans also fit as text, as
//! variables have nothing else; `null` always fits and means "not set".

use serde_json::Value;

/// The values that a setting may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Anything: the setting has readers of its own, or belongs to another program.
    Any,
    /// Text on one line, not empty.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number, at least this.
    Count(u64),
    /// A number between these two.
    Number(f64, f64),
    /// True or false.
    Flag,
    /// A list of texts.
    Texts,
    /// A number of seconds with or without `s`, or one of these words.
    SecondsOr(&'static [&'static str]),
    /// `host:port`.
    Address,
}

impl Form {
    /// Whether `value` fits.
    pub fn fits(self, value: &Value) -> bool {
        let text = value.as_str().map(str::trim);
        match self {
            Self::Any => true,
            _ if value.is_null() => true,
            Self::Text => match value {
                Value::String(text) => !text.trim().is_empty() && !text.contains(['\n', '\r']),
                // A model may be called 4.1.
                other => other.is_number(),
            },
            Self::Word(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Count(least) => {
                let number = value.as_u64().or_else(|| text?.parse().ok());
                number.is_some_and(|number| number >= least)
            }
            Self::Number(least, most) => {
                let number = value.as_f64().or_else(|| text?.parse().ok());
                number.is_some_and(|number| (least..=most).contains(&number))
            }
            Self::Flag => match value {
                Value::Bool(_) => true,
                Value::Number(number) => matches!(number.as_u64(), Some(0 | 1)),
                _ => text.is_some_and(|text| {
                    ["true", "false", "0", "1"].iter().any(|word| text.eq_ignore_ascii_case(word))
                }),
            },
            Self::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
            Self::SecondsOr(words) => {
                let seconds = |text: &str| text.strip_suffix('s').unwrap_or(text).parse::<u64>().is_ok();
                value.is_u64() || text.is_some_and(|text| words.contains(&text) || seconds(text))
            }
            Self::Address => text.and_then(|text| text.rsplit_once(':')).is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
            }),
        }
    }

    /// What fits, as in "it must be …".
    pub fn phrase(self) -> String {
        match self {
            Self::Any => "anything".to_owned(),
            Self::Text => "a text on one line".to_owned(),
            Self::Word(words) => one_of(words),
            Self::Count(least) => format!("a whole number from {least}"),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Flag => "true or false".to_owned(),
            Self::Texts => "a list of texts, such as [\"a\", \"b\"]".to_owned(),
            Self::SecondsOr(words) => format!("a number of seconds such as 90s, or {}", one_of(words)),
            Self::Address => "host:port, such as 127.0.0.1:7717".to_owned(),
        }
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fits() {
        let words = Form::Word(&["auto", "chat"]);
        let fits = [
            (Form::Any, json!({"a": 1})),
            (Form::Text, json!("gpt-4o")),
            (Form::Text, json!(4.1)),
            (words, json!("chat")),
            (words, json!(null)),
            (Form::Count(1), json!(5)),
            (Form::Count(1), json!("5")),
            (Form::Number(0.0, 2.0), json!(0)),
            (Form::Number(0.0, 2.0), json!("0.7")),
            (Form::Flag, json!(true)),
            (Form::Flag, json!("False")),
            (Form::Flag, json!(1)),
            (Form::Texts, json!(["a"])),
            (Form::SecondsOr(&["always"]), json!("always")),
            (Form::SecondsOr(&["always"]), json!("90s")),
            (Form::SecondsOr(&["always"]), json!(90)),
            (Form::Address, json!("127.0.0.1:0")),
            (Form::Address, json!("[::1]:7717")),
        ];
        for (form, value) in fits {
            assert!(form.fits(&value), "{form:?} {value}");
        }
        let refused = [
            (Form::Text, json!("")),
            (Form::Text, json!("a\nb")),
            (Form::Text, json!(["a"])),
            (words, json!("Chat")),
            (words, json!(1)),
            (Form::Count(1), json!(0)),
            (Form::Count(1), json!(-3)),
            (Form::Count(1), json!("many")),
            (Form::Number(0.0, 2.0), json!(2.1)),
            (Form::Number(0.0, 2.0), json!("NaN")),
            (Form::Flag, json!("maybe")),
            (Form::Flag, json!(2)),
            (Form::Texts, json!("a")),
            (Form::Texts, json!([1])),
            (Form::SecondsOr(&["always"]), json!("abc")),
            (Form::SecondsOr(&["always"]), json!(-1)),
            (Form::Address, json!("nonsense")),
            (Form::Address, json!("http://a:1")),
            (Form::Address, json!("a:70000")),
        ];
        for (form, value) in refused {
            assert!(!form.fits(&value), "{form:?} {value}");
        }
    }

    #[test]
    fn phrases_name_what_fits() {
        assert_eq!(Form::Word(&["a", "b", "c"]).phrase(), "a, b or c");
        assert_eq!(Form::SecondsOr(&["always"]).phrase(), "a number of seconds such as 90s, or always");
    }
}
