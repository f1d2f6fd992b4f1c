//! Permission questions of agents: their options as ours, and our answers as their options. Pure.

use gander_domain::{
    interaction::{
        Answer, DecisionKind, InteractionOutcome, PermissionOption, PermissionQuestion, Resolution,
    },
    item::{PermissionRecord, ToolCall},
    permission::RememberScope,
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
};
use gander_model::{AgentPermissionKind, AgentPermissionOption};

/// The call as rules see it.
pub(super) fn definition(call: &ToolCall) -> ToolDefinition {
    ToolDefinition {
        name: call.name.clone(),
        extension_name: String::new(),
        tool_name: call.tool_name.clone(),
        title: None,
        description: String::new(),
        input_schema_json: "{}".to_owned(),
        output_schema_json: None,
        annotations: ToolAnnotations::default(),
        icons_json: None,
        meta_json: None,
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        // An agent's word about its tools is no promise.
        trusted: false,
    }
}

/// Whether an agent's call is one of a tool that it was given: agents call them by several schemes, all with the names of
/// server and tool.
pub(super) fn is_given_tool(call: &ToolCall, tool: &ToolDefinition) -> bool {
    let (server, name) = (&tool.extension_name, &tool.tool_name);
    if server.is_empty() || name.is_empty() {
        return false;
    }
    let by_name = [
        format!("mcp__{server}__{name}"),
        format!("mcp_{server}_{name}"),
        format!("{server}__{name}"),
        format!("{server}_{name}"),
        format!("{server}.{name}"),
        format!("{server}/{name}"),
    ];
    by_name.contains(&call.tool_name) || call.title == format!("{name} ({server} MCP Server)")
}

pub(super) fn offered(option: &AgentPermissionOption) -> PermissionOption {
    use AgentPermissionKind as K;
    let (kind, remember_scope) = match option.kind {
        K::AllowOnce => (DecisionKind::Allow, RememberScope::Once),
        // The agent remembers it, for as long as it likes.
        K::AllowAlways => (DecisionKind::Allow, RememberScope::Session),
        K::RejectOnce => (DecisionKind::Deny, RememberScope::Once),
        K::RejectAlways => (DecisionKind::Deny, RememberScope::Session),
    };
    let (option_id, label) = (option.option_id.clone(), option.label.clone());
    PermissionOption { option_id, label, kind, remember_scope }
}

/// The agent's option for a decision. What was meant for always may be said for once, but nothing is allowed for longer
/// than was meant.
pub(super) fn choose(options: &[AgentPermissionOption], allow: bool, always: bool) -> Option<String> {
    use AgentPermissionKind as K;
    let order: &[K] = match (allow, always) {
        (true, false) => &[K::AllowOnce],
        (true, true) => &[K::AllowAlways, K::AllowOnce],
        (false, false) => &[K::RejectOnce, K::RejectAlways],
        (false, true) => &[K::RejectAlways, K::RejectOnce],
    };
    let of = |kind: &K| options.iter().find(|option| option.kind == *kind);
    order.iter().find_map(of).map(|option| option.option_id.clone())
}

/// What an answer means to the agent: its option, what to note with the call, and whether the turn ends.
pub(super) fn answered(
    question: &PermissionQuestion,
    options: &[AgentPermissionOption],
    resolution: &Resolution,
) -> (Option<String>, Option<PermissionRecord>, bool) {
    let record = |allowed, source: &str| Some(PermissionRecord { allowed, source: source.to_owned() });
    let Some(answer) = &resolution.answer else {
        return match resolution.outcome {
            InteractionOutcome::Voided => (None, None, false),
            _ => (choose(options, false, false), record(false, "expired"), false),
        };
    };
    let Ok((kind, scope, _)) = question.decide(answer) else { return (None, None, false) };
    let chosen = match answer {
        Answer::Option { option_id } => Some(option_id.clone()),
        _ => choose(options, kind == DecisionKind::Allow, scope != RememberScope::Once),
    };
    match kind {
        DecisionKind::Allow => (chosen, record(true, "answer"), false),
        DecisionKind::Deny => (chosen, record(false, "answer"), false),
        DecisionKind::Cancel => (None, record(false, "answer"), true),
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::{InteractionId, interaction::PermissionReason};

    use super::*;

    fn options(kinds: &[AgentPermissionKind]) -> Vec<AgentPermissionOption> {
        let option = |kind: &AgentPermissionKind| AgentPermissionOption {
            option_id: format!("{kind:?}"),
            label: "x".into(),
            kind: *kind,
        };
        kinds.iter().map(option).collect()
    }

    fn resolved(outcome: InteractionOutcome, answer: Option<Answer>) -> Resolution {
        Resolution {
            interaction_id: InteractionId::new("i").unwrap(),
            outcome,
            answer,
            answered_by: None,
            rule_created: None,
        }
    }

    #[test]
    fn answers_become_the_agents_options_by_kind() {
        use AgentPermissionKind as K;
        let all = [K::AllowOnce, K::AllowAlways, K::RejectOnce, K::RejectAlways];
        let decision = |kind, remember_scope| Some(Answer::Decision { kind, remember_scope, comment: None });
        let (once, session) = (RememberScope::Once, RememberScope::Session);
        let by_id = |id: &str| Some(Answer::Option { option_id: id.into() });
        for (kinds, answer, id, allowed, stop) in [
            (&all[..], by_id("AllowAlways"), Some("AllowAlways"), Some(true), false),
            (&all[..], by_id("RejectOnce"), Some("RejectOnce"), Some(false), false),
            (&all[..], decision(DecisionKind::Allow, once), Some("AllowOnce"), Some(true), false),
            (&all[..], decision(DecisionKind::Allow, session), Some("AllowAlways"), Some(true), false),
            (&all[..1], decision(DecisionKind::Allow, session), Some("AllowOnce"), Some(true), false),
            (&all[1..2], decision(DecisionKind::Allow, once), None, Some(true), false),
            (&all[3..], decision(DecisionKind::Deny, once), Some("RejectAlways"), Some(false), false),
            (&all[..], decision(DecisionKind::Cancel, once), None, Some(false), true),
        ] {
            let options = options(kinds);
            let question = PermissionQuestion {
                tool_call: ToolCall::streaming("x", "1"),
                reason: PermissionReason::Policy,
                prompt: String::new(),
                options: options.iter().map(offered).collect(),
            };
            let shown = format!("{kinds:?} {answer:?}");
            let got = answered(&question, &options, &resolved(InteractionOutcome::Answered, answer));
            assert_eq!(got.0.as_deref(), id, "{shown}");
            assert_eq!((got.1.map(|r| r.allowed), got.2), (allowed, stop), "{shown}");
        }
    }

    #[test]
    fn tools_that_an_agent_was_given_are_recognised() {
        let tool = ToolDefinition {
            extension_name: "memory".into(),
            tool_name: "remember".into(),
            ..definition(&ToolCall::streaming("x", "1"))
        };
        for (name, title, given) in [
            ("mcp__memory__remember", "", true),
            ("memory__remember", "", true),
            ("memory.remember", "", true),
            ("other", "remember (memory MCP Server)", true),
            ("remember", "", false),
            ("mcp__memory__forget", "remember", false),
            ("Bash", "memory__remember", false),
        ] {
            let mut call = ToolCall::streaming(name, "1");
            name.clone_into(&mut call.tool_name);
            title.clone_into(&mut call.title);
            assert_eq!(is_given_tool(&call, &tool), given, "{name} {title}");
        }
    }

    #[test]
    fn silence_is_a_refusal() {
        use AgentPermissionKind as K;
        let options = options(&[K::AllowOnce, K::RejectOnce]);
        let question = PermissionQuestion {
            tool_call: ToolCall::streaming("x", "1"),
            reason: PermissionReason::Policy,
            prompt: String::new(),
            options: Vec::new(),
        };
        let expired = answered(&question, &options, &resolved(InteractionOutcome::Expired, None));
        assert_eq!(
            (expired.0.as_deref(), expired.1.unwrap().source.as_str()),
            (Some("RejectOnce"), "expired")
        );
        assert_eq!(answered(&question, &options, &resolved(InteractionOutcome::Voided, None)).0, None);
    }
}
