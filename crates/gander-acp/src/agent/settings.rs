//! Options, modes, titles and archiving.

use agent_client_protocol_schema::v1 as acp;
use gander_proto::v1::{
    Session, SessionOption, SessionOptionValue, SetSessionOptionRequest, UpdateSessionRequest,
    session_option_value,
};
use prost_types::{FieldMask, Timestamp};
use serde_json::{Value, json};

use super::{
    Inner,
    dispatch::{Handled, Outcome, required, to_json},
};
use crate::{rpc::RpcError, translate::options};

impl Inner {
    async fn set_option(
        &self,
        session_id: &str,
        option_id: &str,
        value: session_option_value::Value,
    ) -> Result<(Vec<SessionOption>, i64), RpcError> {
        let request = SetSessionOptionRequest {
            session_id: session_id.to_owned(),
            option_id: option_id.to_owned(),
            value: Some(SessionOptionValue { value: Some(value) }),
            idempotency_key: String::new(),
        };
        let response = self.client.sessions().set_session_option(request).await;
        let response = response.map_err(|status| RpcError::of(&status.into(), Some(session_id)))?;
        let response = response.into_inner();
        Ok((response.options, response.sequence))
    }

    /// The options that the session has now.
    async fn current_options(&self, session_id: &str) -> Vec<SessionOption> {
        if let Some(session) = self.attached(session_id) {
            let known = session.dialect().options().to_vec();
            if !known.is_empty() {
                return known;
            }
        }
        self.options_of(session_id).await.unwrap_or_default()
    }

    /// What is told after the answer to a request that set an option, and the options as they are now: the event of a
    /// later change may have been told before.
    fn options_set(
        &self,
        session_id: &str,
        (set, sequence): (Vec<SessionOption>, i64),
    ) -> (Vec<acp::SessionUpdate>, Vec<SessionOption>) {
        let Some(session) = self.attached(session_id) else { return (Vec::new(), set) };
        let mut dialect = session.dialect();
        let updates = dialect.options_now(&set, sequence);
        (updates, dialect.options().to_vec())
    }

    /// Sets the option of this category, for the requests that are older than options.
    async fn choose(&self, params: &Value, category: &str, key: &str) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let choice = required(params, key)?.to_owned();
        let options = self.current_options(session_id).await;
        let option = options.iter().find(|option| option.category == category);
        let option_id = option.map_or(category, |option| &option.option_id).to_owned();
        let value = session_option_value::Value::Choice(choice);
        let set = self.set_option(session_id, &option_id, value).await?;
        let (updates, _) = self.options_set(session_id, set);
        Ok(Handled::ReplyThen(json!({}), session_id.to_owned(), updates))
    }

    pub(super) async fn set_mode(&self, params: &Value) -> Outcome {
        self.choose(params, "mode", "modeId").await
    }

    pub(super) async fn set_model(&self, params: &Value) -> Outcome {
        self.choose(params, "model", "modelId").await
    }

    pub(super) async fn set_config_option(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let option_id = required(params, "configId")?;
        let value = match params.get("value") {
            Some(Value::String(choice)) => session_option_value::Value::Choice(choice.clone()),
            Some(Value::Bool(enabled)) => session_option_value::Value::Enabled(*enabled),
            _ => return Err(RpcError::params("value must be a text or a boolean")),
        };
        // Goose's agents call it so.
        let options =
            if option_id == "thinking_effort" { self.current_options(session_id).await } else { Vec::new() };
        let by_category = options.iter().find(|option| option.category == "thought_level");
        let option_id = by_category.map_or(option_id, |option| &option.option_id);
        let set = self.set_option(session_id, option_id, value).await?;
        let (updates, now) = self.options_set(session_id, set);
        let answer = acp::SetSessionConfigOptionResponse::new(options::config_options(&now, &self.caps()));
        let answer = to_json(&answer)?;
        // The answer carries the whole list; what is left to say is the mode.
        let mode = |update: &acp::SessionUpdate| matches!(update, acp::SessionUpdate::CurrentModeUpdate(_));
        let updates = updates.into_iter().filter(mode).collect();
        Ok(Handled::ReplyThen(answer, session_id.to_owned(), updates))
    }

    pub(super) async fn update(&self, session: Session, path: &str) -> Result<Session, RpcError> {
        let session_id = session.session_id.clone();
        let request = UpdateSessionRequest {
            session: Some(session),
            update_mask: Some(FieldMask { paths: vec![path.to_owned()] }),
            idempotency_key: String::new(),
        };
        let response = self.client.sessions().update_session(request).await;
        let response = response.map_err(|status| RpcError::of(&status.into(), Some(&session_id)))?;
        response.into_inner().session.ok_or_else(|| RpcError::internal("no session came back"))
    }

    pub(super) async fn set_title(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let title = required(params, "title")?;
        let session =
            Session { session_id: session_id.to_owned(), title: title.to_owned(), ..Session::default() };
        let session = self.update(session, "title").await?;
        Handled::reply(&acp::SetSessionTitleResponse::new(session.title))
    }

    pub(super) async fn archive(&self, params: &Value, archived: bool) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or_default();
        let session = Session {
            session_id: session_id.to_owned(),
            archive_time: archived.then_some(Timestamp { seconds, nanos: 0 }),
            ..Session::default()
        };
        self.update(session, "archive_time").await?;
        Ok(Handled::Reply(json!({})))
    }
}
