//! Assembly of the system prompt: pure, so that tests can state what a model is told.

use std::fmt::Write as _;

use gander_domain::session::Instruction;

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
}

/// The system prompt. Instructions that replace come instead of the built-in text, the others behind it.
pub(crate) fn system_prompt(input: &PromptInput<'_>) -> String {
    let mut text = String::new();
    let replacements: Vec<_> = input.instructions.iter().filter(|i| i.replace).collect();
    if replacements.is_empty() {
        builtin(&mut text, input);
    }
    for instruction in replacements.into_iter().chain(input.instructions.iter().filter(|i| !i.replace)) {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(instruction.text.trim());
    }
    text
}

fn builtin(text: &mut String, input: &PromptInput<'_>) {
    text.push_str(
        "You are an AI agent run by gander. You work for the user on their machine: plan, act with the tools you \
         have, check the result, and report briefly what you did. Never invent the output of a tool.",
    );
    // Writing to a String cannot fail.
    let _ = write!(text, "\n\nDate: {}. Operating system: {}.", input.date, input.os);
    let _ = write!(text, "\nWorking directory: {}", input.working_directory);
    for directory in input.additional_directories {
        let _ = write!(text, "\nAlso part of the session: {directory}");
    }
    if !input.tools_available {
        text.push_str("\n\nNo tools are available in this conversation: answer from what you know.");
        return;
    }
    for (name, instructions) in input.extensions {
        if let Some(instructions) = instructions.as_deref().map(str::trim).filter(|i| !i.is_empty()) {
            let _ = write!(text, "\n\n## Extension {name}\n{instructions}");
        }
    }
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
            ..PromptInput::default()
        };
        let plain = system_prompt(&input);
        assert!(
            plain.contains("Working directory: /w") && plain.contains("## Extension dev\nuse rg"),
            "{plain}"
        );
        assert!(!plain.contains("quiet"));
        let list = [instruction("a", "be terse", false)];
        input.instructions = &list;
        assert_eq!(system_prompt(&input), format!("{plain}\n\nbe terse"));
        let list = [instruction("a", "be terse", false), instruction("b", "you are a pirate", true)];
        input.instructions = &list;
        assert_eq!(system_prompt(&input), "you are a pirate\n\nbe terse");
    }
}
