//! Questions to the person at the client: permissions, forms, pages.
//!
//! A question belongs to the session, not to this connection: any client may answer it. It is taken down here when it was
//! settled elsewhere, and a client that goes away has answered nothing.

use std::sync::Arc;

use agent_client_protocol_schema::v1 as acp;
use gander_client::ClientError;
use gander_proto::v1::{
    ErrorReason, FormAction, FormAnswer, FormQuestion, Interaction, InteractionAnswer, InteractionState,
    PermissionAnswer, PermissionDecision, PermissionOptionKind, PermissionQuestion, RememberScope,
    RespondToInteractionRequest, SamplingQuestion, UrlAction, UrlAnswer, UrlPurpose, UrlQuestion,
    interaction::Question, interaction_answer::Answer, part,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    watching::{Attached, Open},
};
use crate::{
    rpc::{self, RpcError},
    translate::{content::text_block, tool::fenced},
};

/// Text of a sampling question that is shown.
const MAX_SHOWN: usize = 4000;
/// How often a form is asked whose answers do not match.
const FORM_ATTEMPTS: u32 = 3;
/// Where the fields of a form stand in a request.
const FORM_FIELD: &str = "answer.form.content_json";

/// A question in ACP's form.
struct Asking {
    method: &'static str,
    params: Value,
    /// Sent before the question.
    before: Option<acp::SessionUpdate>,
    read: Reader,
}

/// How the client's answer is read.
enum Reader {
    Permission,
    Sampling {
        tool_call_id: String,
    },
    Form,
    /// `waits`: the browser comes back to the daemon by itself, and only then it is done. The client's "accept" says that
    /// the person opens the page.
    Url {
        elicitation_id: String,
        waits: bool,
    },
}

impl Inner {
    /// Asks the client, if it can be asked; the question is in the queue when this returns.
    pub(super) async fn question(self: &Arc<Self>, session: &Arc<Attached>, interaction: &Interaction) {
        if interaction.state() == InteractionState::Resolved {
            return;
        }
        let id = interaction.interaction_id.clone();
        let settled = CancellationToken::new();
        {
            let mut questions = session.questions();
            if questions.contains_key(&id) {
                return;
            }
            questions.insert(id.clone(), Open { settled: settled.clone(), request: None });
        }
        let mut question = interaction.clone();
        if let Some(Question::Permission(permission)) = &mut question.question
            && let Some(call) = &mut permission.tool_call
        {
            self.hydrate_call(&session.session_id, call).await;
        }
        let Some(asking) = self.asking(session, &question) else {
            self.tell_instead(session, &question, settled).await;
            return;
        };
        if let Some(update) = asking.before {
            self.queue.update(&session.session_id, update).await;
        }
        let mut asked = self.ask(Some(&session.session_id), asking.method, &asking.params).await;
        if let Some(open) = session.questions().get_mut(&id) {
            open.request = Some(asked.id);
        }
        let (inner, asker, read, mut params) = (self.clone(), session.clone(), asking.read, asking.params);
        session.spawn(self, async move {
            let question = params.get("message").and_then(Value::as_str).map(str::to_owned);
            for attempt in 1..=FORM_ATTEMPTS {
                let answer = tokio::select! {
                    answer = asked.answer() => Some(answer),
                    () = settled.cancelled() => None,
                };
                let Some(answer) = answer else {
                    asked.withdraw().await;
                    return inner.settled(&asker, &read).await;
                };
                let Some(problem) = inner.answer(&asker, &id, &read, answer).await else { break };
                if attempt == FORM_ATTEMPTS {
                    // A wrong answer is none: nobody declined, and another client may know better.
                    inner.say(&asker, &id, &format!("{problem}\n\nIt is not asked again here.\n")).await;
                    break;
                }
                if let Some(question) = &question {
                    params["message"] = Value::String(format!("{problem}\n\n{question}"));
                }
                asked = inner.ask(Some(&asker.session_id), asking.method, &params).await;
                if let Some(open) = asker.questions().get_mut(&id) {
                    open.request = Some(asked.id);
                }
            }
            // A page is done when whoever asked says so.
            settled.cancelled().await;
            inner.settled(&asker, &read).await;
        });
    }

    fn asking(&self, session: &Attached, interaction: &Interaction) -> Option<Asking> {
        let session_id = &session.session_id;
        let caps = self.caps();
        match interaction.question.as_ref()? {
            Question::Permission(question) => permission(session, interaction, question),
            Question::Sampling(question) => Some(sampling(session_id, interaction, question)),
            Question::ElicitForm(question) if caps.elicit_form => form(session_id, interaction, question),
            Question::OpenUrl(question) if caps.elicit_url => {
                let mut params = json!({
                    "sessionId": session_id,
                    "mode": "url",
                    "elicitationId": interaction.interaction_id,
                    "url": question.url,
                    "message": url_message(question),
                });
                tool_call_id(&mut params, interaction);
                let waits = question.purpose() == UrlPurpose::Oauth;
                let read = Reader::Url { elicitation_id: interaction.interaction_id.clone(), waits };
                Some(Asking { method: "elicitation/create", params, before: None, read })
            }
            _ => None,
        }
    }

    /// Shows the question in another way than asking.
    async fn tell_instead(
        self: &Arc<Self>,
        session: &Arc<Attached>,
        interaction: &Interaction,
        settled: CancellationToken,
    ) {
        let Some(Question::ElicitForm(form)) = &interaction.question else {
            return self.say_instead(session, interaction).await;
        };
        if !self.caps().goose_notifications {
            return self.say_instead(session, interaction).await;
        }
        // The answer comes as a request of the client's.
        let (inner, shown, id) = (self.clone(), session.clone(), interaction.interaction_id.clone());
        self.goose_form(&session.session_id, &id, Some(form)).await;
        session.spawn(self, async move {
            settled.cancelled().await;
            inner.goose_form(&shown.session_id, &id, None).await;
        });
    }

    /// What a client that cannot be asked is told.
    async fn say_instead(&self, session: &Attached, interaction: &Interaction) {
        let text = match &interaction.question {
            Some(Question::OpenUrl(question)) => {
                format!("{}\n\nOpen this page in a browser: {}\n", url_message(question), question.url)
            }
            Some(Question::ElicitForm(question)) => {
                let asker = asker(&question.extension_name);
                format!(
                    "{asker} asks: {}\n\nThis program cannot show the form; another client can.\n",
                    question.message
                )
            }
            _ => return,
        };
        self.say(session, &interaction.interaction_id, &text).await;
    }

    /// Words about a question.
    async fn say(&self, session: &Attached, interaction_id: &str, text: &str) {
        let chunk = acp::ContentChunk::new(text_block(text)).message_id(interaction_id);
        self.queue.update(&session.session_id, acp::SessionUpdate::AgentMessageChunk(chunk)).await;
    }

    /// Hands the client's answer on. What is wrong with it, if it is to be asked for again.
    async fn answer(
        &self,
        session: &Attached,
        id: &str,
        read: &Reader,
        answer: Result<Value, RpcError>,
    ) -> Option<String> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // The client could not show it, or is gone: that is no answer. Others may give one.
                tracing::info!(code = error.code, "the client did not answer a question");
                return None;
            }
        };
        let answer = read.read(&answer)?;
        let request = RespondToInteractionRequest {
            interaction_id: id.to_owned(),
            session_id: session.session_id.clone(),
            answer: Some(InteractionAnswer { answer: Some(answer) }),
            idempotency_key: String::new(),
        };
        let responded = self.client.interactions().respond_to_interaction(request).await;
        let error = responded.map_err(ClientError::from).err()?;
        if error.is(ErrorReason::ElicitationContentInvalid) {
            return Some(form_problem(&error));
        }
        // Somebody else was quicker: normal.
        if !error.is(ErrorReason::InteractionResolved) {
            tracing::warn!(error = %error, "an answer was not taken");
        }
        None
    }

    /// The question is settled, here or elsewhere.
    async fn settled(&self, session: &Attached, read: &Reader) {
        match read {
            Reader::Url { elicitation_id, .. } => {
                let params = json!({"elicitationId": elicitation_id});
                let json = rpc::notification("elicitation/complete", &params);
                self.queue.push(Some(&session.session_id), json).await;
            }
            Reader::Sampling { tool_call_id } => {
                let fields = acp::ToolCallUpdateFields::new().status(acp::ToolCallStatus::Completed);
                let update = acp::ToolCallUpdate::new(tool_call_id.clone(), fields);
                self.queue.update(&session.session_id, acp::SessionUpdate::ToolCallUpdate(update)).await;
            }
            Reader::Permission | Reader::Form => {}
        }
    }
}

/// What is wrong with a filled-in form, in the names of its fields.
fn form_problem(error: &ClientError) -> String {
    let fields = error.violations.iter().map(|violation| {
        let field = violation.field.trim_start_matches(FORM_FIELD).trim_start_matches('.');
        format!("{field} {}", violation.description).trim().to_owned()
    });
    let told: Vec<String> = fields.collect();
    let told = if told.is_empty() { error.message.clone() } else { told.join("; ") };
    format!("The answer was not accepted: {told}.")
}

impl Reader {
    fn read(&self, answer: &Value) -> Option<Answer> {
        match self {
            Self::Permission | Self::Sampling { .. } => {
                let outcome = answer.get("outcome").unwrap_or(answer);
                let option = outcome.get("optionId").and_then(Value::as_str);
                let decision = |kind| {
                    Some(Answer::Decision(PermissionAnswer {
                        kind: kind as i32,
                        remember_scope: RememberScope::Once as i32,
                        comment: String::new(),
                    }))
                };
                match (self, option) {
                    // "Cancelled" means that the person stopped the turn instead of deciding.
                    (_, None) => decision(PermissionDecision::Cancel),
                    (Self::Sampling { .. }, Some("allow_once")) => decision(PermissionDecision::Allow),
                    (Self::Sampling { .. }, Some(_)) => decision(PermissionDecision::Deny),
                    (_, Some(option)) => Some(Answer::OptionId(option.to_owned())),
                }
            }
            Self::Form => {
                let action = match action(answer) {
                    "accept" => FormAction::Accept,
                    "decline" => FormAction::Decline,
                    _ => FormAction::Cancel,
                };
                let content = answer.get("content").filter(|content| content.is_object());
                let content_json = match (action, content) {
                    (FormAction::Accept, Some(content)) => content.to_string(),
                    (FormAction::Accept, None) => "{}".to_owned(),
                    _ => String::new(),
                };
                Some(Answer::Form(FormAnswer { action: action as i32, content_json }))
            }
            Self::Url { waits: true, .. } if action(answer) == "accept" => None,
            Self::Url { .. } => {
                let action = if action(answer) == "accept" { UrlAction::Done } else { UrlAction::Decline };
                Some(Answer::Url(UrlAnswer { action: action as i32, callback_url: String::new() }))
            }
        }
    }
}

fn action(answer: &Value) -> &str {
    answer.get("action").and_then(Value::as_str).unwrap_or_default()
}

fn asker(extension: &str) -> String {
    if extension.is_empty() { "gander".to_owned() } else { format!("The extension {extension}") }
}

fn url_message(question: &UrlQuestion) -> String {
    if !question.message.is_empty() {
        return question.message.clone();
    }
    let asker = asker(&question.extension_name);
    match question.purpose() {
        UrlPurpose::Oauth => format!("{asker} asks for authorization."),
        _ => format!("{asker} asks to open a page."),
    }
}

fn tool_call_id(params: &mut Value, interaction: &Interaction) {
    if let (false, Some(params)) = (interaction.item_id.is_empty(), params.as_object_mut()) {
        params.insert("toolCallId".to_owned(), json!(interaction.item_id));
    }
}

fn permission(
    session: &Attached,
    interaction: &Interaction,
    question: &PermissionQuestion,
) -> Option<Asking> {
    let call = question.tool_call.as_ref()?;
    let mut fields = session.dialect().snapshot(call);
    if !question.prompt.is_empty() {
        let text = acp::ToolCallContent::Content(acp::Content::new(text_block(&question.prompt)));
        let content = std::iter::once(text).chain(fields.content.take().unwrap_or_default());
        fields.content = Some(content.collect());
    }
    let id = if interaction.item_id.is_empty() { &interaction.interaction_id } else { &interaction.item_id };
    let options = question
        .options
        .iter()
        .map(|option| {
            let kind = match option.kind() {
                PermissionOptionKind::AllowOnce => acp::PermissionOptionKind::AllowOnce,
                PermissionOptionKind::AllowAlways => acp::PermissionOptionKind::AllowAlways,
                PermissionOptionKind::RejectAlways => acp::PermissionOptionKind::RejectAlways,
                PermissionOptionKind::RejectOnce | PermissionOptionKind::Unspecified => {
                    acp::PermissionOptionKind::RejectOnce
                }
            };
            let name = if option.label.is_empty() { &option.option_id } else { &option.label };
            acp::PermissionOption::new(option.option_id.clone(), name.clone(), kind)
        })
        .collect();
    let call = acp::ToolCallUpdate::new(id.clone(), fields);
    let request = acp::RequestPermissionRequest::new(session.session_id.clone(), call, options);
    let params = serde_json::to_value(request).ok()?;
    Some(Asking { method: "session/request_permission", params, before: None, read: Reader::Permission })
}

/// Sampling has no question of its own in ACP: it is asked like a tool call.
fn sampling(session_id: &str, interaction: &Interaction, question: &SamplingQuestion) -> Asking {
    let id = interaction.interaction_id.clone();
    let title = format!("{} wants to call the model", asker(&question.extension_name));
    let texts = question.messages.iter().flat_map(|message| &message.parts);
    let text: Vec<&str> = texts
        .filter_map(|part| match &part.body {
            Some(part::Body::Text(text)) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let shown: String = text.join("\n").chars().take(MAX_SHOWN).collect();
    let content = vec![acp::ToolCallContent::Content(acp::Content::new(text_block(&fenced("", &shown))))];
    let call =
        acp::ToolCall::new(id.clone(), title.clone()).kind(acp::ToolKind::Think).content(content.clone());
    let fields = acp::ToolCallUpdateFields::new().title(title).kind(acp::ToolKind::Think).content(content);
    let option = |id: &'static str, name: &str, kind| acp::PermissionOption::new(id, name, kind);
    let options = vec![
        option("allow_once", "Allow once", acp::PermissionOptionKind::AllowOnce),
        option("deny_once", "Deny", acp::PermissionOptionKind::RejectOnce),
    ];
    let update = acp::ToolCallUpdate::new(id.clone(), fields);
    let request = acp::RequestPermissionRequest::new(session_id.to_owned(), update, options);
    Asking {
        method: "session/request_permission",
        params: serde_json::to_value(request).unwrap_or_default(),
        before: Some(acp::SessionUpdate::ToolCall(call)),
        read: Reader::Sampling { tool_call_id: id },
    }
}

/// A form whose schema ACP can carry.
fn form(session_id: &str, interaction: &Interaction, question: &FormQuestion) -> Option<Asking> {
    let schema: acp::ElicitationSchema = serde_json::from_str(&question.schema_json).ok()?;
    let message = if question.message.is_empty() {
        format!("{} asks", asker(&question.extension_name))
    } else {
        question.message.clone()
    };
    let mut params = json!({
        "sessionId": session_id,
        "mode": "form",
        "message": message,
        "requestedSchema": serde_json::to_value(schema).ok()?,
    });
    tool_call_id(&mut params, interaction);
    Some(Asking { method: "elicitation/create", params, before: None, read: Reader::Form })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(kind: PermissionDecision) -> Option<Answer> {
        Some(Answer::Decision(PermissionAnswer {
            kind: kind as i32,
            remember_scope: RememberScope::Once as i32,
            comment: String::new(),
        }))
    }

    #[test]
    fn answers_are_read_by_what_was_offered() {
        let selected = |id: &str| json!({"outcome": {"outcome": "selected", "optionId": id}});
        let cancelled = json!({"outcome": {"outcome": "cancelled"}});
        let sampling = Reader::Sampling { tool_call_id: "i".into() };
        assert_eq!(
            Reader::Permission.read(&selected("allow_session")),
            Some(Answer::OptionId("allow_session".into()))
        );
        assert_eq!(Reader::Permission.read(&cancelled), decision(PermissionDecision::Cancel));
        assert_eq!(sampling.read(&selected("allow_once")), decision(PermissionDecision::Allow));
        assert_eq!(sampling.read(&selected("anything")), decision(PermissionDecision::Deny));
        let form = |answer: Value| match Reader::Form.read(&answer) {
            Some(Answer::Form(form)) => (form.action(), form.content_json),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            form(json!({"action": "accept", "content": {"a": 1}})),
            (FormAction::Accept, r#"{"a":1}"#.to_owned())
        );
        assert_eq!(form(json!({"action": "decline"})), (FormAction::Decline, String::new()));
        assert_eq!(form(json!({"nonsense": 1})), (FormAction::Cancel, String::new()));
        let url = Reader::Url { elicitation_id: "e".into(), waits: false };
        let done = |answer: Value| match url.read(&answer) {
            Some(Answer::Url(url)) => url.action(),
            other => panic!("{other:?}"),
        };
        assert_eq!(done(json!({"action": "accept"})), UrlAction::Done);
        assert_eq!(done(json!({"action": "cancel"})), UrlAction::Decline);
        let sign_in = Reader::Url { elicitation_id: "e".into(), waits: true };
        assert_eq!(sign_in.read(&json!({"action": "accept"})), None, "the person has only begun");
        assert_eq!(sign_in.read(&json!({"action": "decline"})), url.read(&json!({"action": "decline"})));
    }
}
