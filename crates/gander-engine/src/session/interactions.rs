//! Questions: asked by turns and extensions, answered by any client, expired by the actor.

use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Interaction, InteractionId, Payload, TurnId,
    error::FieldViolation,
    interaction::{
        Answer, DecisionKind, FormAction, InteractionKind, InteractionOutcome, InteractionState, Resolution,
    },
    item::Executor,
    permission::{PermissionRule, RememberScope, RuleDecision},
};
use gander_formats::form::check_form;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{core::Core, handle::SessionHandle};

/// Withdraws a question when its asker goes away before the answer.
pub(crate) struct Withdraw {
    session: SessionHandle,
    tasks: TaskTracker,
    interaction_id: Option<InteractionId>,
}

impl Withdraw {
    pub(crate) fn new(session: &SessionHandle, tasks: &TaskTracker, interaction_id: InteractionId) -> Self {
        Self { session: session.clone(), tasks: tasks.clone(), interaction_id: Some(interaction_id) }
    }

    /// The question is settled, or somebody else settles it.
    pub(crate) fn done(mut self) {
        self.interaction_id = None;
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let Some(interaction_id) = self.interaction_id.take() else { return };
        let session = self.session.clone();
        self.tasks.spawn(async move {
            // It fails only when the session has ended, which voids the question.
            let _ = session
                .edit(move |core: &mut Core| {
                    core.withdraw_interaction(&interaction_id);
                    Ok(())
                })
                .await;
        });
    }
}

impl Core {
    /// Appends a question; the receiver gets its resolution once that is committed.
    pub(crate) fn ask(&mut self, interaction: Interaction) -> oneshot::Receiver<Resolution> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.insert(interaction.interaction_id.clone(), sender);
        let turn_id = interaction.turn_id.clone();
        self.emit(turn_id, Payload::InteractionRequested { interaction: Box::new(interaction) });
        receiver
    }

    /// Appends the resolution of a pending question and wakes who asked.
    pub(super) fn resolve_interaction(&mut self, turn_id: Option<TurnId>, resolution: Resolution) {
        let waiter = self.waiters.remove(&resolution.interaction_id);
        self.emit(turn_id, Payload::InteractionResolved(Box::new(resolution.clone())));
        if let Some(waiter) = waiter {
            self.after_commit(move |_| {
                let _ = waiter.send(resolution);
            });
        }
    }

    /// Takes an answer. The same answer to a resolved question is fine, another one is not.
    pub(crate) fn respond(
        &mut self,
        interaction_id: &InteractionId,
        answer: &Answer,
        by: Actor,
    ) -> Result<Interaction, ErrorDetail> {
        let Some(interaction) = self.state.interactions.get(interaction_id).cloned() else {
            return Err(interaction_not_found(interaction_id));
        };
        let checked = validate_answer(&interaction, answer.clone());
        if interaction.state == InteractionState::Resolved {
            let taken = checked.as_ref().map_or(answer, |(taken, _)| taken);
            if interaction.answer.as_ref().is_some_and(|given| given == taken || given == answer) {
                return Ok(interaction);
            }
            let by = interaction.answered_by.as_ref().map(|a| a.client_name.clone()).unwrap_or_default();
            return Err(ErrorDetail::new(
                ErrorReason::InteractionResolved,
                format!("interaction {interaction_id} has been resolved already"),
            )
            .with("interactionId", interaction_id)
            .with("outcome", interaction.outcome.map(|o| format!("{o:?}").to_uppercase()).unwrap_or_default())
            .with("answeredBy", by));
        }
        let (answer, rule) = checked?;
        let remembered = rule.clone();
        self.act_as(by.clone());
        self.resolve_interaction(
            interaction.turn_id.clone(),
            Resolution {
                interaction_id: interaction_id.clone(),
                outcome: InteractionOutcome::Answered,
                answer: Some(answer),
                answered_by: Some(by),
                rule_created: rule,
            },
        );
        if let Some(rule) = remembered {
            self.after_commit(move |core| match rule.scope {
                RememberScope::Once => {}
                RememberScope::Session => core.forget_rule_edit(&rule.tool_pattern),
                RememberScope::Project => {
                    core.services.remember_rule(&rule, Some(&core.state.session.working_directory));
                }
                RememberScope::User => core.services.remember_rule(&rule, None),
            });
        }
        self.state
            .interactions
            .get(interaction_id)
            .cloned()
            .ok_or_else(|| interaction_not_found(interaction_id))
    }

    /// Resolves a question whose asker has gone, unless it has been resolved.
    pub(crate) fn withdraw_interaction(&mut self, interaction_id: &InteractionId) {
        let pending = self.state.interactions.get(interaction_id);
        let Some(pending) = pending.filter(|i| i.state == InteractionState::Pending) else { return };
        let resolution = Resolution {
            interaction_id: interaction_id.clone(),
            outcome: InteractionOutcome::Withdrawn,
            answer: None,
            answered_by: None,
            rule_created: None,
        };
        self.resolve_interaction(pending.turn_id.clone(), resolution);
    }

    pub(super) fn expire_interactions(&mut self) {
        let now = self.now();
        let expired: Vec<_> = self
            .state
            .pending_interactions(None)
            .into_iter()
            .filter(|i| i.expire_time <= now)
            .map(|i| (i.interaction_id.clone(), i.turn_id.clone()))
            .collect();
        for (interaction_id, turn_id) in expired {
            let resolution = Resolution {
                interaction_id,
                outcome: InteractionOutcome::Expired,
                answer: None,
                answered_by: None,
                rule_created: None,
            };
            self.resolve_interaction(turn_id, resolution);
        }
    }
}

pub(crate) fn interaction_not_found(interaction_id: &InteractionId) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::InteractionNotFound,
        format!("interaction {interaction_id} does not exist; ListInteractions shows those that do"),
    )
    .with("interactionId", interaction_id)
}

/// Checks that an answer fits its question; gives it as it is kept, and the rule that it creates.
fn validate_answer(
    interaction: &Interaction,
    answer: Answer,
) -> Result<(Answer, Option<PermissionRule>), ErrorDetail> {
    match &interaction.kind {
        InteractionKind::Permission(question) => {
            let (kind, scope, _) =
                question.decide(&answer).map_err(|why| ErrorDetail::invalid("answer", why))?;
            let decision = match kind {
                DecisionKind::Allow => RuleDecision::AlwaysAllow,
                DecisionKind::Deny | DecisionKind::Cancel => RuleDecision::NeverAllow,
            };
            // An agent remembers its own answers, and may mean less by them than a rule for the whole tool.
            let remembered = scope != RememberScope::Once && question.tool_call.executor != Executor::Backend;
            let rule = remembered.then(|| PermissionRule {
                tool_pattern: question.tool_call.name.clone(),
                decision,
                scope,
            });
            Ok((answer, rule))
        }
        InteractionKind::ElicitForm { schema_json, .. } => match answer {
            Answer::Form { action: FormAction::Accept, content_json } => {
                let content = form_content(schema_json, content_json.unwrap_or_default())?;
                Ok((Answer::Form { action: FormAction::Accept, content_json: Some(content) }, None))
            }
            Answer::Form { .. } => Ok((answer, None)),
            _ => Err(ErrorDetail::invalid("answer", "a form is answered by `form`")),
        },
        InteractionKind::OpenUrl { .. } => match answer {
            Answer::Url { .. } => Ok((answer, None)),
            _ => Err(ErrorDetail::invalid("answer", "a URL question is answered by `url`")),
        },
        InteractionKind::Sampling { .. } => match answer {
            Answer::Decision { .. } | Answer::Option { .. } => Ok((answer, None)),
            _ => Err(ErrorDetail::invalid("answer", "a sampling question is answered by `decision`")),
        },
    }
}

/// A filled-in form that matches the schema of its question: word for word, but for boxes that were left empty.
fn form_content(schema_json: &str, content: String) -> Result<String, ErrorDetail> {
    const FIELD: &str = "answer.form.content_json";
    let invalid = |text: String| ErrorDetail::new(ErrorReason::ElicitationContentInvalid, text);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&content)
        .map_err(|e| invalid(format!("{FIELD} must be a JSON object with the fields of the form: {e}")))?;
    // A schema that is no JSON is the asker's fault.
    let schema = serde_json::from_str(schema_json).unwrap_or(serde_json::Value::Bool(true));
    let given = object.len();
    let problems = match check_form(&schema, object) {
        Ok(kept) if kept.len() == given => return Ok(content),
        Ok(kept) => return Ok(serde_json::Value::Object(kept).to_string()),
        Err(problems) => problems,
    };
    let told: Vec<String> =
        problems.iter().map(|p| format!("{} {}", p.field, p.message).trim().to_owned()).collect();
    let mut error = invalid(format!(
        "{FIELD} does not match the form: {}. The question stays open: correct the answer and send it again, or decline",
        told.join("; ")
    ));
    error.violations = problems
        .into_iter()
        .map(|p| FieldViolation {
            field: if p.field.is_empty() { FIELD.to_owned() } else { format!("{FIELD}.{}", p.field) },
            description: p.message,
        })
        .collect();
    Err(error)
}
