//! `POST /reply` and `POST /action-required/tool-confirmation`.

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::post,
};
use gander_client::{Client, ClientError};
use gander_formats::{
    goose_session::items::form_answer,
    session::{Content, Message, Metadata, NotificationType, Role},
};
use gander_proto::v1::{
    ErrorReason, FormAction, FormAnswer, GetInteractionRequest, Interaction, InteractionAnswer,
    ListInteractionsRequest, PermissionAnswer, PermissionDecision, RememberScope,
    RespondToInteractionRequest, Session, interaction_answer::Answer,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    App,
    chat::translate::{MessageEvent, TokenState},
    error::{ApiError, sentence},
    extract::{Json, REPLY_LIMIT, RawJson},
    follow::{follow, hold},
    sse,
    turns::{self, Refusal},
};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/reply", post(reply).layer(DefaultBodyLimit::max(REPLY_LIMIT)))
        .route("/action-required/tool-confirmation", post(confirm))
}

/// `conversation_so_far`, which older windows send, is not read: the log is the conversation.
#[derive(Debug, Deserialize)]
struct ReplyRequest {
    session_id: String,
    user_message: Message,
    /// Replaces the conversation, on purpose.
    #[serde(default)]
    override_conversation: Option<Vec<Message>>,
}

async fn reply(State(app): State<App>, body: RawJson<ReplyRequest>) -> Response {
    match open(&app, body).await {
        Ok(response) => response,
        Err(Refusal::Told(error)) => sse::refusal(error),
        Err(Refusal::Unreachable(error)) => error.into_response(),
    }
}

async fn open(app: &App, body: RawJson<ReplyRequest>) -> Result<Response, Refusal> {
    let RawJson { value: request, bytes } = body;
    let client = app.client();
    let session = turns::session(client, &request.session_id).await?;
    if let Some((id, answer)) = form_answer(&request.user_message) {
        let problem = match fill_in(client, &session, id, answer).await {
            Ok(_) => None,
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(error) => Some(remark(id, &error, &session)),
        };
        // Read again: what is held open is the turn that goes on after the answer, if it does.
        let session = turns::session(client, &request.session_id).await?;
        return Ok(sse::response(hold(app.clone(), session, problem)));
    }
    let followed = turns::start_or_attach(
        client,
        &request.session_id,
        &bytes,
        &request.user_message,
        request.override_conversation.as_deref(),
    )
    .await?;
    Ok(sse::response(follow(app.clone(), session, followed)))
}

/// Told as a remark: an error event would replace the whole conversation by an error page.
fn remark(id: &str, error: &ClientError, session: &Session) -> MessageEvent {
    let text = format!("The answer was not accepted: {}", sentence(error));
    let content = Content::notification(NotificationType::InlineMessage, text);
    MessageEvent::Message {
        message: Message {
            id: Some(format!("{id}-e")),
            role: Role::Assistant,
            created: turns::now(),
            content: vec![content],
            metadata: Metadata::USER_ONLY,
        },
        token_state: TokenState::of(session),
    }
}

/// Answers a form. `None`: it was answered or withdrawn before, which is nobody's fault.
pub(crate) async fn fill_in(
    client: &Client,
    session: &Session,
    interaction_id: &str,
    answer: &Value,
) -> Result<Option<Interaction>, ClientError> {
    let form = FormAnswer { action: FormAction::Accept as i32, content_json: answer.to_string() };
    respond(client, &session.session_id, interaction_id, Answer::Form(form)).await
}

async fn respond(
    client: &Client,
    session_id: &str,
    interaction_id: &str,
    answer: Answer,
) -> Result<Option<Interaction>, ClientError> {
    let request = RespondToInteractionRequest {
        interaction_id: interaction_id.to_owned(),
        answer: Some(InteractionAnswer { answer: Some(answer) }),
        session_id: session_id.to_owned(),
        ..Default::default()
    };
    match client.interactions().respond_to_interaction(request).await {
        Ok(response) => Ok(response.into_inner().interaction),
        Err(status) => {
            let error = ClientError::from(status);
            let late =
                error.is(ErrorReason::InteractionNotFound) || error.is(ErrorReason::InteractionResolved);
            if late { Ok(None) } else { Err(error) }
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    AlwaysAllow,
    AllowOnce,
    Cancel,
    DenyOnce,
    AlwaysDeny,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum PrincipalType {
    #[default]
    Tool,
    Extension,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Confirmation {
    id: String,
    action: Action,
    session_id: String,
    /// Goose tells tools from extensions here; a question is known by its id.
    #[serde(default, rename = "principalType")]
    _principal_type: PrincipalType,
}

/// Unknown, stale and settled questions are fine: the answer came late, which the window cannot change.
async fn confirm(
    State(app): State<App>,
    Json(confirmation): Json<Confirmation>,
) -> Result<Json<Value>, ApiError> {
    let client = app.client();
    match pending(client, &confirmation).await {
        Ok(Some(interaction_id)) => {
            let decision = Answer::Decision(decision(confirmation.action));
            respond(client, &confirmation.session_id, &interaction_id, decision).await?;
        }
        Ok(None) => tracing::debug!(id = %confirmation.id, "an answer to a question that is not open"),
        Err(error) if error.is_temporary() => return Err(error.into()),
        Err(error) => tracing::debug!(id = %confirmation.id, %error, "an answer to an unknown question"),
    }
    Ok(Json(json!({})))
}

fn decision(action: Action) -> PermissionAnswer {
    use PermissionDecision as D;
    let (kind, remember) = match action {
        Action::AlwaysAllow => (D::Allow, RememberScope::User),
        Action::AllowOnce => (D::Allow, RememberScope::Once),
        // Goose's own server takes it for a refusal of this one call.
        Action::Cancel | Action::DenyOnce => (D::Deny, RememberScope::Once),
        Action::AlwaysDeny => (D::Deny, RememberScope::User),
    };
    PermissionAnswer { kind: kind as i32, remember_scope: remember as i32, comment: String::new() }
}

/// The open question about a call, by the call's id, or the one with this very id.
async fn pending(client: &Client, confirmation: &Confirmation) -> Result<Option<String>, ClientError> {
    let request = ListInteractionsRequest {
        session_id: confirmation.session_id.clone(),
        item_id: confirmation.id.clone(),
        page_size: 1,
        ..Default::default()
    };
    let listed = client.interactions().list_interactions(request).await;
    let first = listed.map_err(ClientError::from)?.into_inner().interactions.into_iter().next();
    if let Some(interaction) = first {
        return Ok(Some(interaction.interaction_id));
    }
    let request = GetInteractionRequest { interaction_id: confirmation.id.clone() };
    match client.interactions().get_interaction(request).await {
        Ok(response) => {
            let found = response.into_inner().interaction;
            Ok(found.filter(|i| i.session_id == confirmation.session_id).map(|i| i.interaction_id))
        }
        Err(status) => {
            let error = ClientError::from(status);
            if error.is(ErrorReason::InteractionNotFound) { Ok(None) } else { Err(error) }
        }
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
