//! What a user message asks the demo provider to do.

use serde_json::Value;

use crate::ModelErrorClass;

/// Most tokens of `slow` and `burst`.
pub(super) const MAX_TOKENS: u64 = 100_000;
/// Most calls of `parallel`.
const MAX_CALLS: usize = 32;

/// A request in the demo provider's small language.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    ListFiles,
    ListTools,
    /// Tool and arguments, verbatim.
    Call(String, String),
    Parallel(Vec<(String, String)>),
    Tokens {
        count: u64,
        slow: bool,
    },
    Think(String),
    Fail(ModelErrorClass),
    Say(String),
    Help,
}

/// Reads a message.
pub(super) fn parse(message: &str) -> Command {
    let message = message.trim();
    let (word, rest) = split_word(message);
    let all = message.to_lowercase();
    let all = all.trim_end_matches(['.', '!', '?']);
    if matches!(all, "ls" | "list files") || (all.starts_with("list ") && all.contains("files")) {
        return Command::ListFiles;
    }
    if matches!(all, "list tools" | "list the tools" | "tools") {
        return Command::ListTools;
    }
    match word.to_lowercase().as_str() {
        "call" if !rest.is_empty() => {
            let (tool, arguments) = split_word(rest);
            let arguments = if arguments.is_empty() { "{}" } else { arguments };
            Command::Call(tool.to_owned(), arguments.to_owned())
        }
        "parallel" if !rest.is_empty() => Command::Parallel(parallel(rest)),
        "slow" | "burst" => match rest.parse::<u64>() {
            Ok(count) => {
                Command::Tokens { count: count.clamp(1, MAX_TOKENS), slow: word.eq_ignore_ascii_case("slow") }
            }
            Err(_) => Command::Help,
        },
        "think" => Command::Think(rest.to_owned()),
        "fail" => fail(rest),
        "say" if !rest.is_empty() => Command::Say(rest.to_owned()),
        _ => Command::Help,
    }
}

fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

fn fail(kind: &str) -> Command {
    use ModelErrorClass as Class;
    Command::Fail(match kind.to_lowercase().as_str() {
        "auth" => Class::Auth,
        "rate" => Class::RateLimited,
        "quota" => Class::QuotaExhausted,
        "context" => Class::ContextExceeded,
        "overloaded" => Class::Overloaded,
        "network" => Class::Network,
        "truncated" => Class::Truncated,
        "" | "server" => Class::Server,
        _ => return Command::Help,
    })
}

/// `shell={"command":"sleep 1"} list other={}`.
fn parallel(mut rest: &str) -> Vec<(String, String)> {
    let mut calls = Vec::new();
    while !rest.is_empty() && calls.len() < MAX_CALLS {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let (arguments, tail) = match tail.strip_prefix('=') {
            Some(json) => first_json(json),
            None => ("{}", tail),
        };
        if !name.is_empty() {
            calls.push((name.to_owned(), arguments.to_owned()));
        }
        rest = tail.trim_start();
    }
    calls
}

/// The JSON value that `text` begins with, or its first word, and what follows.
fn first_json(text: &str) -> (&str, &str) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let end = match values.next() {
        Some(Ok(_)) => values.byte_offset(),
        _ => text.find(char::is_whitespace).unwrap_or(text.len()),
    };
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_commands() {
        let call = |tool: &str, arguments: &str| (tool.to_owned(), arguments.to_owned());
        for (message, wanted) in [
            ("list the files here", Command::ListFiles),
            ("List files.", Command::ListFiles),
            ("list tools", Command::ListTools),
            (
                "call shell {\"command\": \"ls -l\"}",
                Command::Call("shell".into(), "{\"command\": \"ls -l\"}".into()),
            ),
            ("call list", Command::Call("list".into(), "{}".into())),
            ("slow 5", Command::Tokens { count: 5, slow: true }),
            ("burst 999999999", Command::Tokens { count: MAX_TOKENS, slow: false }),
            ("slow down", Command::Help),
            (
                "parallel shell={\"command\":\"sleep 1; echo a b\"} list  x={}",
                Command::Parallel(vec![
                    call("shell", "{\"command\":\"sleep 1; echo a b\"}"),
                    call("list", "{}"),
                    call("x", "{}"),
                ]),
            ),
            ("parallel a={broken b", Command::Parallel(vec![call("a", "{broken"), call("b", "{}")])),
            ("fail", Command::Fail(ModelErrorClass::Server)),
            ("fail rate", Command::Fail(ModelErrorClass::RateLimited)),
            ("fail gracefully", Command::Help),
            ("say  hello  there", Command::Say("hello  there".into())),
            ("think hard", Command::Think("hard".into())),
            ("what is the weather?", Command::Help),
            ("", Command::Help),
        ] {
            assert_eq!(parse(message), wanted, "{message}");
        }
    }
}
