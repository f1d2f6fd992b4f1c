//! Questions and pages as clients made for Goose know them, where they do not know the protocol's own.

use std::{sync::Arc, time::Duration};

use gander_proto::v1::{
    AuthenticateProviderRequest, FormAction, FormAnswer, FormQuestion, InteractionAnswer,
    RespondToInteractionRequest, authenticate_provider_response::Step, interaction_answer::Answer,
};
use serde_json::{Value, json};

use super::{about, done, parsed, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Outcome, required},
    },
    rpc::{self, RpcError},
    translate::goose,
};

/// How long a sign-in that nobody waits for may take.
const SIGN_IN: Duration = Duration::from_secs(600);

impl Inner {
    /// Shows a form, or that it is answered; `elicitation/respond` answers it.
    pub(in crate::agent) async fn goose_form(
        &self,
        session_id: &str,
        interaction_id: &str,
        question: Option<&FormQuestion>,
    ) {
        let mut shown = json!({
            "type": "elicitation",
            "id": interaction_id,
            "state": if question.is_some() { "pending" } else { "submitted" },
        });
        if let (Some(question), Some(shown)) = (question, shown.as_object_mut()) {
            shown.insert("message".to_owned(), json!(question.message));
            shown.insert("requestedSchema".to_owned(), parsed(&question.schema_json));
        }
        let update = json!({"sessionUpdate": "interaction_update", "interaction": shown});
        let params = json!({"sessionId": session_id, "update": update});
        self.queue.push(Some(session_id), rpc::notification(goose::METHOD, &params)).await;
    }

    /// A filled-in form. Without contents the person closed it.
    pub(super) async fn goose_respond(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let (action, content_json) = match params.get("userData") {
            Some(data @ Value::Object(_)) => (FormAction::Accept, data.to_string()),
            None | Some(Value::Null) => (FormAction::Cancel, String::new()),
            Some(_) => return Err(RpcError::params("userData must be an object, or null to close the form")),
        };
        let form = FormAnswer { action: action as i32, content_json };
        let request = RespondToInteractionRequest {
            interaction_id: text(params, &["elicitationId"])?.to_owned(),
            session_id: session_id.to_owned(),
            answer: Some(InteractionAnswer { answer: Some(Answer::Form(form)) }),
            idempotency_key: String::new(),
        };
        self.client.interactions().respond_to_interaction(request).await.map_err(about(session_id))?;
        Ok(done())
    }

    /// Signs in to a provider. The client has the person open the page, and the answer comes when all is done; a client
    /// that cannot open pages is told what to open, and the sign-in goes on behind the answer.
    pub(super) async fn goose_sign_in(self: &Arc<Self>, id: &Value, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?.to_owned();
        let request = AuthenticateProviderRequest { provider_id: provider_id.clone() };
        let steps = self.client.providers().authenticate_provider(request).await;
        let mut steps = steps.map_err(RpcError::from)?.into_inner();
        let mut pages = Vec::new();
        while let Some(step) = steps.message().await.map_err(RpcError::from)? {
            let (url, message) = match step.step {
                Some(Step::Succeeded(_)) => {
                    for page in pages {
                        let params = json!({"elicitationId": page});
                        self.queue.push(None, rpc::notification("elicitation/complete", &params)).await;
                    }
                    return self.provider_changed(&provider_id).await;
                }
                Some(Step::Failed(error)) => return Err(RpcError::of_detail(&error)),
                Some(Step::OpenUrl(url)) => (url, "Sign in on this page.".to_owned()),
                Some(Step::DeviceCode(code)) => {
                    let message = format!("Enter the code {} on this page.", code.user_code);
                    (code.verification_url, message)
                }
                Some(Step::StatusText(_)) | None => continue,
            };
            if !self.caps().elicit_url {
                self.spawn(async move {
                    let to_the_end = async { while let Ok(Some(_)) = steps.message().await {} };
                    let _ = tokio::time::timeout(SIGN_IN, to_the_end).await;
                });
                let text = format!("{message} Open {url} in a browser, then try again");
                return Err(RpcError::internal(text).with(json!({"url": url, "retryable": true})));
            }
            pages.push(self.show_page(id, &url, &message).await?);
        }
        Err(RpcError::internal("the sign-in ended without an outcome; try again"))
    }

    /// Has the person open a page; gives the id that the client knows it by.
    async fn show_page(self: &Arc<Self>, id: &Value, url: &str, message: &str) -> Result<String, RpcError> {
        let page = uuid::Uuid::now_v7().to_string();
        let params = json!({
            "requestId": id, "mode": "url", "elicitationId": page, "url": url, "message": message,
        });
        let answer = self.ask(None, "elicitation/create", &params).await.answer().await?;
        match answer.get("action").and_then(Value::as_str) {
            Some("accept") => Ok(page),
            _ => Err(RpcError::cancelled()),
        }
    }
}
