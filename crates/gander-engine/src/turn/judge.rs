//! Asks the model whether a call only reads, in mode smart_approve and where the configuration wants it.
//!
//! The judge can only spare a question, never forbid: whatever goes wrong, a person is asked.

use gander_domain::{item::ToolCall, tool::ToolDefinition, usage::UsagePurpose};
use serde_json::json;

use super::{TurnTask, usage::CallReport};
use crate::{completion::complete, templates};

/// Longest description and arguments that are shown to the judge, in bytes.
const MAX_SHOWN: usize = 8 * 1024;
/// Tokens of the answer: one word, after some models' thoughts.
const MAX_ANSWER_TOKENS: u64 = 512;

impl TurnTask {
    /// Whether the model is sure that the call changes nothing. The call's price is logged
    /// and counts against the turn's budget.
    pub(super) async fn judges_read_only(&self, tool: &ToolDefinition, call: &ToolCall) -> bool {
        let services = &self.start.services;
        if call.arguments_json.len() > MAX_SHOWN {
            return false;
        }
        let description: String = tool.description.chars().take(MAX_SHOWN / 4).collect();
        let shown = json!({
            "tool": tool.name,
            "description": description,
            "arguments": call.arguments_json,
        });
        let system = services.render_template(templates::JUDGE, &json!({}));
        let model = services.small_model(&self.start.model);
        let asked = complete(
            &model,
            &*services.source,
            system,
            format!("The call, as data:\n{shown}"),
            Some(MAX_ANSWER_TOKENS),
        );
        let Ok(answer) = self.unless_cancelled(asked).await else { return false };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(%error, "the permission judge did not answer; a person is asked");
                return false;
            }
        };
        let report = CallReport::beside(UsagePurpose::Judge, &answer);
        if report.is_known() && self.report(report).await.is_err() {
            return false;
        }
        says_read_only(&answer.text)
    }
}

fn says_read_only(answer: &str) -> bool {
    let words: Vec<String> = answer
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect();
    matches!(words.as_slice(), [only] if matches!(only.as_str(), "read_only" | "read-only" | "readonly"))
}

#[cfg(test)]
mod tests {
    use super::says_read_only;

    #[test]
    fn only_a_plain_yes_counts() {
        for (answer, yes) in [
            ("read_only", true),
            (" `Read-Only`.\n", true),
            ("changes", false),
            ("not read_only", false),
            ("read_only, unless it changes something", false),
            ("", false),
        ] {
            assert_eq!(says_read_only(answer), yes, "{answer:?}");
        }
    }
}
