//! Assembly of the system prompt: pure, so that tests can state what a model is told.
//!
//! The order is fixed and nothing in it changes within a day unless the session does, so that prompt caches hold:
//! template, hints of user and project, instructions of clients.

use gander_domain::session::{Instruction, Mode};
use serde_json::json;

use crate::templates::{self, SUBAGENT, SYSTEM, TINY_SYSTEM};

/// Windows up to this many tokens get the short prompt.
const TINY_WINDOW: u64 = 16_384;

/// What the prompt is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct PromptInput<'a> {
    pub working_directory: &'a str,
    pub additional_directories: &'a [String],
    /// `YYYY-MM-DD`.
    pub date: &'a str,
    pub os: &'a str,
    /// (extension name, its instructions).
    pub extensions: &'a [(String, Option<String>)],
    pub instructions: &'a [Instruction],
    pub tools_available: bool,
    pub mode: Mode,
    /// The user's text of the template, see [`template_name`].
    pub template: Option<&'a str>,
    pub template_name: &'a str,
    /// Hints of user and project; empty when there are none.
    pub hints: &'a str,
}

/// Which template a session uses.
pub(crate) fn template_name(subagent: bool, window: Option<u64>) -> &'static str {
    match window {
        _ if subagent => SUBAGENT,
        Some(window) if window <= TINY_WINDOW => TINY_SYSTEM,
        _ => SYSTEM,
    }
}

/// The system prompt, and what is wrong with the user's template. Instructions that replace come instead of template and
/// hints, the others behind them.
pub(crate) fn system_prompt(input: &PromptInput<'_>) -> (String, Option<String>) {
    let mut parts: Vec<String> = Vec::new();
    let mut problem = None;
    let replacements: Vec<_> = input.instructions.iter().filter(|i| i.replace).collect();
    if replacements.is_empty() {
        let rendered = templates::render(input.template_name, input.template, &values(input));
        parts.push(rendered.text);
        problem = rendered.problem;
        if !input.hints.is_empty() {
            parts.push(format!("# Additional Instructions\n\n{}", input.hints));
        }
    }
    let others = input.instructions.iter().filter(|i| !i.replace);
    parts.extend(replacements.into_iter().chain(others).map(|i| i.text.trim().to_owned()));
    parts.retain(|p| !p.is_empty());
    (parts.join("\n\n"), problem)
}

/// What templates may name.
fn values(input: &PromptInput<'_>) -> serde_json::Value {
    let extensions: Vec<_> = input
        .extensions
        .iter()
        .map(|(name, instructions)| {
            let instructions = instructions.as_deref().map(str::trim).unwrap_or_default();
            json!({ "name": name, "instructions": instructions })
        })
        .collect();
    json!({
        "working_directory": input.working_directory,
        "additional_directories": input.additional_directories,
        "current_date": input.date,
        "current_date_time": input.date,
        "os": input.os,
        "extensions": extensions,
        "tools_available": input.tools_available,
        "goose_mode": input.mode.as_str(),
        "is_autonomous": input.mode == Mode::Auto,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(key: &str, text: &str, replace: bool) -> Instruction {
        Instruction { key: key.into(), text: text.into(), replace }
    }

    #[test]
    fn instructions_follow_or_replace() {
        let extensions = [("dev".to_owned(), Some("use rg".to_owned())), ("quiet".to_owned(), None)];
        let mut input = PromptInput {
            working_directory: "/w",
            date: "2026-01-02",
            os: "linux",
            extensions: &extensions,
            tools_available: true,
            template_name: SYSTEM,
            ..PromptInput::default()
        };
        let (plain, _) = system_prompt(&input);
        assert!(
            plain.contains("Working directory: /w") && plain.contains("## Extension dev\nuse rg"),
            "{plain}"
        );
        assert!(!plain.contains("quiet") && !plain.contains("may be asked"));
        let list = [instruction("a", "be terse", false)];
        input.instructions = &list;
        assert_eq!(system_prompt(&input).0, format!("{plain}\n\nbe terse"));
        input.hints = "Use tabs.";
        assert_eq!(
            system_prompt(&input).0,
            format!("{plain}\n\n# Additional Instructions\n\nUse tabs.\n\nbe terse")
        );
        let list = [instruction("a", "be terse", false), instruction("b", "you are a pirate", true)];
        input.instructions = &list;
        assert_eq!(system_prompt(&input).0, "you are a pirate\n\nbe terse");
    }

    #[test]
    fn templates_of_users_and_small_windows() {
        assert_eq!(template_name(false, Some(8_192)), TINY_SYSTEM);
        assert_eq!(template_name(false, None), SYSTEM);
        assert_eq!(template_name(true, Some(8_192)), SUBAGENT);
        let mut input = PromptInput {
            template: Some("{{ goose_mode }} in {{ working_directory }}"),
            template_name: SYSTEM,
            working_directory: "/w",
            mode: Mode::SmartApprove,
            ..PromptInput::default()
        };
        assert_eq!(system_prompt(&input), ("smart_approve in /w".to_owned(), None));
        input.template = Some("{{ broken");
        let (text, problem) = system_prompt(&input);
        assert!(text.contains("run by gander") && problem.is_some_and(|p| p.contains("system.md")));
    }
}
