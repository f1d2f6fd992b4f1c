//! Text commands: messages that begin with `/name`. Reading and listing them is pure; the turn does what they say.
//!
//! What is no command stays ordinary text: nothing that somebody writes is ever refused for its slash.

use std::collections::BTreeMap;

use gander_domain::{Part, session::Command};
use gander_mcp::PromptInfo;
use serde::Deserialize;

use crate::{services::Services, turn::TurnWork};

/// Config key with recipes that have a command: a list of `{command, recipe_path}`.
pub(crate) const RECIPE_COMMANDS_KEY: &str = "slash_commands";

/// A recipe's command, as Goose's configuration keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RecipeCommand {
    pub command: String,
    pub recipe_path: String,
}

/// A message that begins like a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub name: String,
    pub arguments: String,
}

const BUILTINS: [(&str, &str, &str); 4] = [
    ("compact", "Summarize the conversation so far to make room", "what to pay attention to"),
    ("clear", "Hide the conversation from the model and start anew", ""),
    ("prompts", "List the prompts of the extensions", "extension"),
    ("prompt", "Use a prompt of an extension", "name key=value…"),
];

/// Reads a message of one text part that begins with a slash and a name.
pub(crate) fn parse(parts: &[Part]) -> Option<Invocation> {
    let [part] = parts else { return None };
    let text = part.as_text()?.trim();
    let rest = text.strip_prefix('/')?;
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (name, arguments) = rest.split_at(end);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return None;
    }
    Some(Invocation { name: name.to_owned(), arguments: arguments.trim().to_owned() })
}

/// What a message makes a turn do.
pub(crate) fn work(parts: &[Part], recipes: &[RecipeCommand]) -> TurnWork {
    let Some(Invocation { name, arguments }) = parse(parts) else { return TurnWork::Model };
    match name.as_str() {
        "compact" | "summarize" => TurnWork::Compact { instructions: arguments },
        "clear" if arguments.is_empty() => TurnWork::Clear,
        "prompts" => TurnWork::Prompts { extension: Some(arguments).filter(|a| !a.is_empty()) },
        "prompt" if !arguments.is_empty() => {
            let (prompt, rest) = arguments.split_once(char::is_whitespace).unwrap_or((&arguments, ""));
            TurnWork::Prompt { name: prompt.to_owned(), arguments: rest.trim().to_owned(), certain: true }
        }
        _ => match recipes.iter().find(|r| r.command.trim_start_matches('/') == name) {
            Some(recipe) => TurnWork::Recipe { path: recipe.recipe_path.clone(), arguments },
            None => TurnWork::Prompt { name, arguments, certain: false },
        },
    }
}

/// `key=value` pairs; values with blanks stand in quotes. Gives the text that is no pair as error.
pub(crate) fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').ok_or_else(|| rest.to_owned())?;
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(rest.to_owned());
        }
        let (value, tail) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).ok_or_else(|| rest.to_owned())?,
            _ => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        pairs.insert(key.to_owned(), value.to_owned());
        rest = tail.trim_start();
    }
    Ok(pairs)
}

/// The command of an extension's prompt.
pub(crate) fn prompt_command(prompt: &PromptInfo) -> String {
    format!("{}:{}", prompt.extension_name, prompt.name)
}

/// All commands: built-in ones, recipes, prompts.
pub(crate) fn all(recipes: &[RecipeCommand], prompts: &[PromptInfo]) -> Vec<Command> {
    let command = |name: String, help: String, input_hint: String, kind: &str, recipe_id| Command {
        name,
        help,
        input_hint,
        kind: kind.to_owned(),
        recipe_id,
    };
    let builtins = BUILTINS
        .iter()
        .map(|(name, help, hint)| command((*name).into(), (*help).into(), (*hint).into(), "builtin", None));
    let recipes = recipes.iter().map(|r| {
        let name = r.command.trim_start_matches('/').to_owned();
        let help = format!("Run the recipe {}", r.recipe_path);
        let recipe_id = crate::recipes::id_of_file(std::path::Path::new(&r.recipe_path));
        command(name, help, String::new(), "recipe", Some(recipe_id))
    });
    let prompts = prompts.iter().map(|p| {
        let hint: Vec<String> = p
            .arguments
            .iter()
            .map(|a| if a.required { format!("{}=…", a.name) } else { format!("[{}=…]", a.name) })
            .collect();
        let help = p.description.clone().or_else(|| p.title.clone()).unwrap_or_default();
        command(prompt_command(p), help, hint.join(" "), "prompt", None)
    });
    builtins.chain(recipes).chain(prompts).collect()
}

impl Services {
    /// Recipes with a command. An entry that cannot be read is left out.
    pub(crate) fn recipe_commands(&self) -> Vec<RecipeCommand> {
        let list = self.config.current().get_as::<Vec<serde_json::Value>>(RECIPE_COMMANDS_KEY);
        let list = list.ok().flatten().unwrap_or_default();
        list.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> TurnWork {
        let recipes = [RecipeCommand { command: "deploy".into(), recipe_path: "/r.yaml".into() }];
        work(&[Part::text(text)], &recipes)
    }

    #[test]
    fn what_is_a_command_and_what_is_text() {
        for text in ["hi", "/", "/etc/passwd is odd", "// comment", "see /compact", "/ä", ""] {
            assert_eq!(of(text), TurnWork::Model, "{text:?}");
        }
        assert_eq!(work(&[Part::text("/clear"), Part::text("x")], &[]), TurnWork::Model);
        assert_eq!(of(" /compact the tests "), TurnWork::Compact { instructions: "the tests".into() });
        assert_eq!(of("/clear"), TurnWork::Clear);
        assert_eq!(of("/prompts"), TurnWork::Prompts { extension: None });
        let prompt = |name: &str, arguments: &str, certain| TurnWork::Prompt {
            name: name.into(),
            arguments: arguments.into(),
            certain,
        };
        assert_eq!(of("/prompt review a=1"), prompt("review", "a=1", true));
        assert_eq!(of("/git:review a=1"), prompt("git:review", "a=1", false));
        assert_eq!(of("/deploy x"), TurnWork::Recipe { path: "/r.yaml".into(), arguments: "x".into() });
    }

    #[test]
    fn pairs_with_quotes() {
        let pairs_of = |text: &str| pairs(text).map(|p| p.into_iter().collect::<Vec<_>>());
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(pairs_of(""), Ok(vec![]));
        assert_eq!(
            pairs_of(r#"a=1 b="two words" c='x' d="#),
            Ok(vec![pair("a", "1"), pair("b", "two words"), pair("c", "x"), pair("d", "")])
        );
        for text in ["alone", "a=1 alone", "=x", r#"a="open"#] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }
}
