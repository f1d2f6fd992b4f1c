//! Questions and answers.

use gander_domain::{
    Interaction, SessionId,
    interaction::{Answer, DecisionKind, InteractionKind, PermissionOption, PermissionQuestion, Resolution},
    permission::RememberScope,
};
use gander_proto::v1 as pb;

use super::{At, Violations, actor_to_pb, content, enums, int64, non_empty, or_empty, time_to_pb, tool};

pub(crate) fn interaction_to_pb(interaction: &Interaction, session_id: &SessionId) -> pb::Interaction {
    pb::Interaction {
        interaction_id: interaction.interaction_id.as_str().to_owned(),
        session_id: session_id.as_str().to_owned(),
        turn_id: or_empty(interaction.turn_id.as_ref()),
        item_id: or_empty(interaction.item_id.as_ref()),
        state: enums::interaction_state_to_pb(interaction.state),
        question: Some(question_to_pb(&interaction.kind)),
        create_time: Some(time_to_pb(interaction.create_time)),
        expire_time: Some(time_to_pb(interaction.expire_time)),
        outcome: interaction.outcome.map_or(0, enums::interaction_outcome_to_pb),
        answered_by: interaction.answered_by.as_ref().map(actor_to_pb),
        answer: interaction.answer.as_ref().map(answer_to_pb),
    }
}

fn question_to_pb(kind: &InteractionKind) -> pb::interaction::Question {
    use pb::interaction::Question;
    match kind {
        InteractionKind::Permission(question) => Question::Permission(Box::new(permission_to_pb(question))),
        InteractionKind::ElicitForm { extension_name, message, schema_json } => {
            Question::ElicitForm(pb::FormQuestion {
                extension_name: extension_name.clone(),
                message: message.clone(),
                schema_json: schema_json.clone(),
            })
        }
        InteractionKind::OpenUrl { purpose, extension_name, url, message, accepts_callback_url } => {
            Question::OpenUrl(pb::UrlQuestion {
                purpose: enums::url_purpose_to_pb(*purpose),
                extension_name: extension_name.clone(),
                url: url.clone(),
                message: message.clone(),
                accepts_callback_url: *accepts_callback_url,
            })
        }
        InteractionKind::Sampling { extension_name, messages, max_tokens } => {
            Question::Sampling(pb::SamplingQuestion {
                extension_name: extension_name.clone(),
                messages: messages
                    .iter()
                    .map(|m| pb::PromptMessage {
                        role: m.role.clone(),
                        parts: content::parts_to_pb(&m.parts),
                    })
                    .collect(),
                system_prompt: String::new(),
                max_tokens: Some(int64(*max_tokens)),
            })
        }
    }
}

fn permission_to_pb(question: &PermissionQuestion) -> pb::PermissionQuestion {
    pb::PermissionQuestion {
        tool_call: Some(tool::call_to_pb(&question.tool_call)),
        reason: enums::permission_reason_to_pb(question.reason),
        prompt: question.prompt.clone(),
        options: question.options.iter().map(option_to_pb).collect(),
    }
}

fn option_to_pb(option: &PermissionOption) -> pb::PermissionOption {
    let remembered = option.remember_scope != RememberScope::Once;
    let kind = match (option.kind, remembered) {
        (DecisionKind::Allow, false) => pb::PermissionOptionKind::AllowOnce,
        (DecisionKind::Allow, true) => pb::PermissionOptionKind::AllowAlways,
        (DecisionKind::Deny | DecisionKind::Cancel, false) => pb::PermissionOptionKind::RejectOnce,
        (DecisionKind::Deny | DecisionKind::Cancel, true) => pb::PermissionOptionKind::RejectAlways,
    };
    pb::PermissionOption {
        option_id: option.option_id.clone(),
        label: option.label.clone(),
        kind: kind as i32,
        remember_scopes: if remembered {
            vec![enums::remember_scope_to_pb(option.remember_scope)]
        } else {
            Vec::new()
        },
    }
}

pub(crate) fn resolution_to_pb(resolution: &Resolution, session_id: &SessionId) -> pb::InteractionResolved {
    pb::InteractionResolved {
        interaction_id: resolution.interaction_id.as_str().to_owned(),
        outcome: enums::interaction_outcome_to_pb(resolution.outcome),
        answer: resolution.answer.as_ref().map(answer_to_pb),
        answered_by: resolution.answered_by.as_ref().map(actor_to_pb),
        rule_created: resolution.rule_created.as_ref().map(|r| tool::rule_to_pb(r, Some(session_id))),
    }
}

pub(crate) fn answer_to_pb(answer: &Answer) -> pb::InteractionAnswer {
    use pb::interaction_answer::Answer as Pb;
    let answer = match answer {
        Answer::Option { option_id } => Pb::OptionId(option_id.clone()),
        Answer::Decision { kind, remember_scope, comment } => Pb::Decision(pb::PermissionAnswer {
            kind: enums::decision_kind_to_pb(*kind),
            remember_scope: enums::remember_scope_to_pb(*remember_scope),
            comment: or_empty(comment.as_ref()),
        }),
        Answer::Form { action, content_json } => Pb::Form(pb::FormAnswer {
            action: enums::form_action_to_pb(*action),
            content_json: or_empty(content_json.as_ref()),
        }),
        Answer::Url { done, callback_url } => {
            let action = if *done { pb::UrlAction::Done } else { pb::UrlAction::Decline };
            Pb::Url(pb::UrlAnswer { action: action as i32, callback_url: or_empty(callback_url.as_ref()) })
        }
    };
    pb::InteractionAnswer { answer: Some(answer) }
}

pub(crate) fn answer_from_pb(
    answer: Option<pb::InteractionAnswer>,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<Answer> {
    use pb::interaction_answer::Answer as Pb;
    let Some(answer) = answer.and_then(|a| a.answer) else {
        v.add(at, "must be option_id, decision, form or url");
        return None;
    };
    match answer {
        Pb::OptionId(option_id) => {
            Some(Answer::Option { option_id: v.name(&at.field("option_id"), option_id) })
        }
        Pb::Decision(decision) => {
            let at = at.field("decision");
            let scope = decision.remember_scope;
            let remember_scope = v
                .optional_enum(&at.field("remember_scope"), scope, enums::remember_scope_from_pb)
                .unwrap_or_default();
            let comment = v.text(&at.field("comment"), decision.comment);
            let kind = decision.kind;
            let kind = v.required_enum(&at.field("kind"), kind, enums::decision_kind_from_pb)?;
            Some(Answer::Decision { kind, remember_scope, comment: non_empty(comment) })
        }
        Pb::Form(form) => {
            let at = at.field("form");
            let content_json = v.json_object(&at.field("content_json"), form.content_json);
            let action = v.required_enum(&at.field("action"), form.action, enums::form_action_from_pb)?;
            Some(Answer::Form { action, content_json })
        }
        Pb::Url(url) => {
            let at = at.field("url");
            let action = v.required_enum(&at.field("action"), url.action, |number| {
                pb::UrlAction::try_from(number).ok().filter(|a| *a != pb::UrlAction::Unspecified)
            })?;
            let callback_url = non_empty(v.text(&at.field("callback_url"), url.callback_url));
            Some(Answer::Url { done: action == pb::UrlAction::Done, callback_url })
        }
    }
}
