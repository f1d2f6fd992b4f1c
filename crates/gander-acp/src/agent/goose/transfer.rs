//! Sessions as Goose's own documents: what one exports, the other imports.

use gander_formats::goose_session::{self, ImportError, Whole};
use gander_proto::v1::{
    ImportSessionRequest, Item, ListItemsRequest, ListSessionExtensionsRequest, ListTurnsRequest, Turn,
    import_session_request::Source,
};
use serde_json::{Value, json};

use super::{about, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome, required},
    },
    rpc::RpcError,
    translate::{content, iso},
};

/// Exports larger than this do not fit into one message.
const MAX_EXPORT: usize = 48 * 1024 * 1024;
/// Items and turns per call.
const PAGE: i32 = 200;

impl Inner {
    /// The session with its conversation, as Goose writes it.
    pub(super) async fn goose_export(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        if params.get("format").and_then(Value::as_str).is_some_and(|format| format != "json") {
            return Err(RpcError::params("format must be json"));
        }
        let session = self.session(session_id).await?;
        let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
        let extensions = self.client.extensions().list_session_extensions(request).await;
        let extensions = extensions.map_err(about(session_id))?.into_inner().extensions;
        let default_model =
            if session.model.is_none() { self.server_info().await?.default_model } else { None };
        let items = self.whole_history(session_id).await?;
        let (turns, questions) = (self.turns(session_id).await?, self.open_questions(session_id).await?);
        let whole = Whole {
            session: &session,
            extensions: &extensions,
            items: &items,
            turns: &turns,
            questions: &questions,
            default_model: default_model.as_ref(),
        };
        let data = goose_session::export(&whole)
            .map_err(|error| RpcError::internal(format!("the session has no JSON form: {error}")))?;
        if data.len() > MAX_EXPORT {
            return Err(too_large());
        }
        Ok(Handled::Reply(json!({"data": data})))
    }

    async fn whole_history(&self, session_id: &str) -> Result<Vec<Item>, RpcError> {
        let mut items = Vec::new();
        let mut size = 0_usize;
        let mut request =
            ListItemsRequest { session_id: session_id.to_owned(), page_size: PAGE, ..Default::default() };
        loop {
            let page = self.client.sessions().list_items(request.clone()).await;
            let page = page.map_err(about(session_id))?.into_inner();
            for mut item in page.items {
                self.hydrate(session_id, &mut item).await;
                size = size.saturating_add(prost::Message::encoded_len(&item));
                if size > MAX_EXPORT {
                    return Err(too_large());
                }
                items.push(item);
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(items);
            }
        }
    }

    async fn turns(&self, session_id: &str) -> Result<Vec<Turn>, RpcError> {
        let mut turns = Vec::new();
        let mut request =
            ListTurnsRequest { session_id: session_id.to_owned(), page_size: PAGE, ..Default::default() };
        loop {
            let page = self.client.turns().list_turns(request.clone()).await;
            let page = page.map_err(about(session_id))?.into_inner();
            turns.extend(page.turns);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(turns);
            }
        }
    }

    /// Goose's document, or what `gander session export` wrote.
    pub(super) async fn goose_import(&self, params: &Value) -> Outcome {
        let data = text(params, &["input", "data"])?;
        if !matches!(params.get("source").and_then(Value::as_str), None | Some("auto" | "json")) {
            return Err(RpcError::params("source must be auto or json"));
        }
        let request = ImportSessionRequest {
            source: Some(source(data)?),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
            ..ImportSessionRequest::default()
        };
        let imported = self.client.sessions().import_session(request).await.map_err(RpcError::from)?;
        let session = imported.into_inner().session.unwrap_or_default();
        Ok(Handled::Reply(json!({
            "sessionId": session.session_id,
            "title": content::non_empty(&session.title),
            "updatedAt": session.update_time.as_ref().and_then(iso),
            "messageCount": session.message_count,
        })))
    }
}

/// What a text to import is. gander's own form tells so in its first line.
fn source(data: &str) -> Result<Source, RpcError> {
    let first = data.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let header: Value = serde_json::from_str(first).unwrap_or_default();
    if header.get("format").and_then(Value::as_str) == Some("gander.session") {
        return Ok(Source::ExportData(data.as_bytes().to_vec().into()));
    }
    // Positions and names of fields only: the text itself is not repeated.
    let document = goose_session::import(data).map_err(|error| match error {
        ImportError::Document(error) => RpcError::params(format!(
            "this is no session of Goose: line {}, column {} cannot be read",
            error.line(),
            error.column()
        )),
        ImportError::Extension(error) => {
            RpcError::params(format!("an extension of the session: {}: {}", error.field, error.message))
        }
    })?;
    Ok(Source::Document(Box::new(document)))
}

fn too_large() -> RpcError {
    RpcError::internal(
        "the session is too large for one message; `gander session export` writes it to a file",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imported_is_told_by_its_text_and_not_repeated() {
        let own = "\n{\"line\":\"header\",\"format\":\"gander.session\",\"version\":1}\n{}\n";
        assert!(matches!(source(own), Ok(Source::ExportData(data)) if data == own.as_bytes()));
        for bad in ["", "secret", "{\"secret\": 1}", "[]"] {
            let error = source(bad).expect_err("refused");
            assert_eq!(error.code, crate::rpc::INVALID_PARAMS);
            assert!(!error.message.contains("secret") && error.message.contains("line"), "{error:?}");
        }
    }
}
