//! Permission policy: pure decisions whether a tool call runs, asks or is refused.

use serde::{Deserialize, Serialize};

use crate::{session::Mode, tool::ToolDefinition};

/// For how long a decision is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RememberScope {
    #[default]
    Once,
    Session,
    Project,
    User,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleDecision {
    AlwaysAllow,
    Ask,
    NeverAllow,
}

/// A rule for one tool, or for all tools of an extension with a trailing `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRule {
    /// Public tool name, exact, or a prefix followed by `*`.
    pub tool_pattern: String,
    pub decision: RuleDecision,
    pub scope: RememberScope,
}

impl PermissionRule {
    /// Whether the rule speaks of this public tool name.
    pub fn matches(&self, tool_name: &str) -> bool {
        match self.tool_pattern.strip_suffix('*') {
            Some(prefix) => tool_name.starts_with(prefix),
            None => self.tool_pattern == tool_name,
        }
    }
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Runs; the text names the source: `mode`, `rule`.
    Allow(&'static str),
    Ask,
    /// Is refused; the text is told to the model.
    Deny {
        source: &'static str,
        message: String,
    },
}

/// Decides about a call. Never-allow rules win over everything; then always-allow and ask rules, the narrowest scope
/// first; then the mode.
pub fn decide(mode: Mode, tool: &ToolDefinition, rules: &[PermissionRule]) -> Verdict {
    let matching = || rules.iter().filter(|r| r.matches(&tool.name));
    if matching().any(|r| r.decision == RuleDecision::NeverAllow) {
        return Verdict::Deny {
            source: "rule",
            message: format!("a permission rule never allows {}; do not call it again", tool.name),
        };
    }
    if mode == Mode::Chat {
        return Verdict::Deny {
            source: "mode",
            message: "tools are off in chat mode; answer without them".to_owned(),
        };
    }
    let rank = |scope: RememberScope| match scope {
        RememberScope::Once => 0,
        RememberScope::Session => 1,
        RememberScope::Project => 2,
        RememberScope::User => 3,
    };
    if let Some(rule) = matching().min_by_key(|r| rank(r.scope)) {
        return match rule.decision {
            RuleDecision::AlwaysAllow => Verdict::Allow("rule"),
            // Never-allow rules returned above; asking is the safe reading should that ever change.
            RuleDecision::Ask | RuleDecision::NeverAllow => Verdict::Ask,
        };
    }
    match mode {
        Mode::Auto => Verdict::Allow("mode"),
        Mode::SmartApprove if tool.trusted && tool.annotations.read_only == Some(true) => {
            Verdict::Allow("mode")
        }
        Mode::Approve | Mode::SmartApprove | Mode::Chat => Verdict::Ask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{ToolAnnotations, ToolVisibility};

    fn tool(read_only: bool, trusted: bool) -> ToolDefinition {
        ToolDefinition {
            name: "dev__read".into(),
            extension_name: "dev".into(),
            tool_name: "read".into(),
            title: None,
            description: String::new(),
            input_schema_json: "{}".into(),
            output_schema_json: None,
            annotations: ToolAnnotations { read_only: Some(read_only), ..ToolAnnotations::default() },
            icons_json: None,
            meta_json: None,
            visibility: ToolVisibility::default(),
            definition_hash: String::new(),
            quarantined: false,
            trusted,
        }
    }

    fn rule(pattern: &str, decision: RuleDecision, scope: RememberScope) -> PermissionRule {
        PermissionRule { tool_pattern: pattern.into(), decision, scope }
    }

    #[test]
    fn modes_without_rules() {
        for (mode, read_only, trusted, expected) in [
            (Mode::Auto, false, false, Verdict::Allow("mode")),
            (Mode::Approve, true, true, Verdict::Ask),
            (Mode::SmartApprove, true, true, Verdict::Allow("mode")),
            (Mode::SmartApprove, true, false, Verdict::Ask),
            (Mode::SmartApprove, false, true, Verdict::Ask),
        ] {
            assert_eq!(
                decide(mode, &tool(read_only, trusted), &[]),
                expected,
                "{mode:?} {read_only} {trusted}"
            );
        }
        assert!(matches!(decide(Mode::Chat, &tool(true, true), &[]), Verdict::Deny { source: "mode", .. }));
    }

    #[test]
    fn rules_win_over_modes_and_never_wins_over_all() {
        use RememberScope::{Session, User};
        let allow_user = rule("dev__*", RuleDecision::AlwaysAllow, User);
        let ask_session = rule("dev__read", RuleDecision::Ask, Session);
        let never = rule("dev__read", RuleDecision::NeverAllow, User);
        let t = tool(false, false);
        assert_eq!(decide(Mode::Approve, &t, std::slice::from_ref(&allow_user)), Verdict::Allow("rule"));
        assert_eq!(decide(Mode::Auto, &t, &[allow_user.clone(), ask_session.clone()]), Verdict::Ask);
        assert!(matches!(
            decide(Mode::Auto, &t, &[allow_user, ask_session, never]),
            Verdict::Deny { source: "rule", .. }
        ));
        assert_eq!(
            decide(Mode::Approve, &t, &[rule("other", RuleDecision::NeverAllow, User)]),
            Verdict::Ask,
            "a rule for another tool says nothing"
        );
    }
}
