//! Goose's methods about sessions, their tools and resources.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gander_proto::v1::{
    CallToolRequest, InstructionMode, ListToolsRequest, ReadResourceRequest, RuleDecision, Session,
    SessionInstruction, SteerTurnRequest, TurnInput, call_tool_response::Payload,
    resource_contents::Contents,
};
use serde_json::{Value, json};

use super::{about, done, meta, parsed, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome, required},
    },
    rpc::RpcError,
    translate::content,
};

fn only(session_id: &str) -> Session {
    Session { session_id: session_id.to_owned(), ..Session::default() }
}

impl Inner {
    pub(super) async fn goose_info(&self, params: &Value) -> Outcome {
        let session = self.session(required(params, "sessionId")?).await?;
        let default_model = self.default_model_of(&session).await;
        let info = crate::agent::lifecycle::session_info(&session)
            .meta(meta::of_session(&session, default_model.as_ref()));
        Handled::reply(&json!({"session": info}))
    }

    pub(super) async fn goose_working_dir(&self, params: &Value) -> Outcome {
        let working_directory = text(params, &["workingDir", "working_dir"])?.to_owned();
        let session = Session { working_directory, ..only(required(params, "sessionId")?) };
        self.update(session, "working_directory").await?;
        Ok(done())
    }

    pub(super) async fn goose_project(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let mut labels = self.session(session_id).await?.labels;
        match params.get("projectId").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            Some(project) => labels.insert(meta::PROJECT.to_owned(), project.to_owned()),
            None => labels.remove(meta::PROJECT),
        };
        self.update(Session { labels, ..only(session_id) }, "labels").await?;
        Ok(done())
    }

    pub(super) async fn goose_system_prompt(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let replace = params.get("mode").and_then(Value::as_str) == Some("set");
        let mode = if replace { InstructionMode::Replace } else { InstructionMode::Append };
        let key = params.get("key").and_then(Value::as_str).unwrap_or("goose.client");
        let instruction = SessionInstruction {
            key: key.to_owned(),
            text: text(params, &["text"])?.to_owned(),
            mode: mode as i32,
        };
        let session = Session { instructions: vec![instruction], ..only(session_id) };
        self.update(session, "instructions").await?;
        Ok(done())
    }

    pub(super) async fn goose_steer(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let parts = self.prompt_parts(session_id, params).await?;
        let message_id = uuid::Uuid::now_v7().to_string();
        let request = SteerTurnRequest {
            session_id: session_id.to_owned(),
            expected_turn_id: text(params, &["expectedRunId", "expected_run_id"])?.to_owned(),
            input: Some(TurnInput { parts, message_id: message_id.clone(), client_create_time: None }),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        let steered = self.client.turns().steer_turn(request).await.map_err(about(session_id))?;
        let run_id = steered.into_inner().turn_id;
        Ok(Handled::Reply(json!({"runId": run_id, "messageId": message_id})))
    }

    pub(super) async fn goose_tools(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let extension = params.get("extensionName").and_then(Value::as_str).unwrap_or_default();
        let mut tools = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListToolsRequest {
                session_id: session_id.to_owned(),
                extension_name: extension.to_owned(),
                page_token,
                ..ListToolsRequest::default()
            };
            let page = self.client.tools().list_tools(request).await.map_err(about(session_id))?.into_inner();
            for tool in &page.tools {
                let schema = parsed(&tool.input_schema_json);
                let parameters: Vec<&String> = schema
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flat_map(|p| p.keys())
                    .collect();
                let permission = tool.permission_rule.map(|_| match tool.permission_rule() {
                    RuleDecision::Allow => "always_allow",
                    RuleDecision::Deny => "never_allow",
                    RuleDecision::Ask | RuleDecision::Unspecified => "ask_before",
                });
                let mut item = json!({
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": parameters,
                    "permission": permission,
                    "inputSchema": schema,
                });
                if let (false, Some(item)) = (tool.output_schema_json.is_empty(), item.as_object_mut()) {
                    item.insert("outputSchema".to_owned(), parsed(&tool.output_schema_json));
                }
                tools.push(item);
            }
            if page.next_page_token.is_empty() {
                return Ok(Handled::Reply(json!({"tools": tools})));
            }
            page_token = page.next_page_token;
        }
    }

    pub(super) async fn goose_call(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let arguments = params.get("arguments").filter(|arguments| arguments.is_object());
        let request = CallToolRequest {
            session_id: session_id.to_owned(),
            name: text(params, &["name"])?.to_owned(),
            arguments_json: arguments.map_or_else(|| "{}".to_owned(), Value::to_string),
            ..CallToolRequest::default()
        };
        let mut stream =
            self.client.tools().call_tool(request).await.map_err(about(session_id))?.into_inner();
        while let Some(message) = stream.message().await.map_err(about(session_id))? {
            let Some(Payload::Result(result)) = message.payload else { continue };
            let blocks: Vec<_> = result.parts.iter().filter_map(content::blocks).collect();
            let failed = result.is_error || result.outcome() != gander_proto::v1::ToolOutcome::Ok;
            let mut answer = json!({"content": blocks, "isError": failed});
            if let Some(answer) = answer.as_object_mut() {
                if !result.structured_content_json.is_empty() {
                    answer.insert("structuredContent".to_owned(), parsed(&result.structured_content_json));
                }
                if !result.meta_json.is_empty() {
                    answer.insert("_meta".to_owned(), parsed(&result.meta_json));
                }
            }
            return Ok(Handled::Reply(answer));
        }
        Err(RpcError::internal("the tool gave no result"))
    }

    pub(super) async fn goose_resource(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let request = ReadResourceRequest {
            session_id: session_id.to_owned(),
            extension_name: text(params, &["extensionName", "extension_name"])?.to_owned(),
            uri: text(params, &["uri"])?.to_owned(),
        };
        let read = self.client.tools().read_resource(request).await.map_err(about(session_id))?.into_inner();
        let contents: Vec<Value> = read
            .contents
            .iter()
            .map(|resource| {
                let mut item = json!({"uri": resource.uri});
                if let Some(item) = item.as_object_mut() {
                    if !resource.mime_type.is_empty() {
                        item.insert("mimeType".to_owned(), json!(resource.mime_type));
                    }
                    match &resource.contents {
                        Some(Contents::Data(data)) => {
                            item.insert("blob".to_owned(), json!(BASE64_STANDARD.encode(data)))
                        }
                        Some(Contents::Text(text)) => item.insert("text".to_owned(), json!(text)),
                        _ => item.insert("text".to_owned(), json!("")),
                    };
                    if !resource.meta_json.is_empty() {
                        item.insert("_meta".to_owned(), parsed(&resource.meta_json));
                    }
                }
                item
            })
            .collect();
        Ok(Handled::Reply(json!({"result": {"contents": contents}})))
    }
}
