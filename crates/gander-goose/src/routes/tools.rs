//! Tools and resources of a session: `/agent/tools`, `/agent/call_tool`, `/agent/read_resource`.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use gander_client::ClientError;
use gander_formats::goose_session::blocks;
use gander_proto::v1::{
    CallToolRequest, ErrorReason, ListToolsRequest, ReadResourceRequest, RuleDecision, ToolDefinition,
    ToolResult, call_tool_response::Payload, resource_contents,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::{
    App,
    chat::content::inline_parts,
    error::{ApiError, is_unknown_session},
    extract::{Json, Query},
};

/// What reading may take: an extension has its own, shorter limit.
const READ_DEADLINE: Duration = Duration::from_secs(330);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/agent/tools", get(tools))
        .route("/agent/call_tool", post(call_tool))
        .route("/agent/read_resource", post(read_resource))
}

#[derive(Debug, Deserialize)]
struct ToolsQuery {
    session_id: String,
    #[serde(default)]
    extension_name: Option<String>,
}

/// A tool as Goose's settings show it.
#[derive(Debug, PartialEq, Serialize)]
struct ToolInfo {
    name: String,
    description: String,
    /// Names of the arguments, sorted.
    parameters: Vec<String>,
    permission: Option<&'static str>,
    /// Of the later generation.
    input_schema: Value,
}

/// A session that is not there has no tools, as with Goose.
async fn tools(
    State(app): State<App>,
    Query(query): Query<ToolsQuery>,
) -> Result<Json<Vec<ToolInfo>>, ApiError> {
    let mut request = ListToolsRequest {
        session_id: query.session_id,
        extension_name: query.extension_name.unwrap_or_default(),
        wait_for_extensions: prost_types::Duration::try_from(app.options().wait_for_extensions).ok(),
        ..ListToolsRequest::default()
    };
    let mut tools = Vec::new();
    loop {
        let page = match app.client().tools().list_tools(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                let error = ClientError::from(status);
                let absent = is_unknown_session(&error)
                    || error.is(ErrorReason::ExtensionNotFound)
                    || error.is(ErrorReason::ExtensionUnavailable);
                if absent {
                    break;
                }
                return Err(error.into());
            }
        };
        tools.extend(page.tools.iter().map(tool_info));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(tools))
}

fn tool_info(tool: &ToolDefinition) -> ToolInfo {
    let schema: Value = serde_json::from_str(&tool.input_schema_json).unwrap_or(Value::Null);
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut parameters: Vec<String> =
        properties.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    parameters.sort();
    let permission = match tool.permission_rule.and_then(|rule| RuleDecision::try_from(rule).ok()) {
        Some(RuleDecision::Allow) => Some("always_allow"),
        Some(RuleDecision::Ask) => Some("ask_before"),
        Some(RuleDecision::Deny) => Some("never_allow"),
        Some(RuleDecision::Unspecified) | None => None,
    };
    // A schema that is no object says nothing: any arguments.
    let input_schema = if schema.is_object() { schema } else { json!({}) };
    ToolInfo {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters,
        permission,
        input_schema,
    }
}

#[derive(Debug, Deserialize)]
struct CallRequest {
    session_id: String,
    name: String,
    #[serde(default)]
    arguments: Value,
}

async fn call_tool(
    State(app): State<App>,
    Json(request): Json<CallRequest>,
) -> Result<Json<Value>, ApiError> {
    let arguments_json = match &request.arguments {
        Value::Null => "{}".to_owned(),
        Value::Object(_) => request.arguments.to_string(),
        other => json!({ "value": other }).to_string(),
    };
    let session_id = request.session_id.clone();
    let call = CallToolRequest {
        session_id: request.session_id,
        name: request.name,
        arguments_json,
        ..CallToolRequest::default()
    };
    let mut stream = app.client().tools().call_tool(call).await.map_err(call_failed)?.into_inner();
    let mut result = None;
    while let Some(message) = stream.message().await.map_err(call_failed)? {
        if let Some(Payload::Result(given)) = message.payload {
            result = Some(given);
        }
    }
    let mut result = result.ok_or_else(|| ApiError::internal("The tool ended without a result"))?;
    inline_parts(app.client(), &session_id, &mut result.parts).await;
    Ok(Json(call_response(&result)))
}

/// Goose answers 500 whatever went wrong; unlike Goose, with the reason.
fn call_failed(status: tonic::Status) -> ApiError {
    let error = ClientError::from(status);
    let lost = error.is_temporary();
    let missing = is_unknown_session(&error);
    let told = ApiError::from(error);
    if lost || missing { told } else { told.with_status(StatusCode::INTERNAL_SERVER_ERROR) }
}

/// Both spellings: the older windows read `is_error`, the newer ones `isError`, and nothing tells which one asks.
fn call_response(result: &ToolResult) -> Value {
    let given = blocks::call_result(result);
    let mut response = json!({
        "content": given.content,
        "structured_content": given.structured_content,
        "structuredContent": given.structured_content,
        "is_error": given.is_error,
        "isError": given.is_error,
    });
    if let (Value::Object(map), Some(meta)) = (&mut response, given.meta) {
        map.insert("_meta".to_owned(), meta);
    }
    response
}

#[derive(Debug, Deserialize)]
struct ResourceRequest {
    session_id: String,
    extension_name: String,
    uri: String,
}

/// The first of the contents, as text.
async fn read_resource(
    State(app): State<App>,
    Json(request): Json<ResourceRequest>,
) -> Result<Json<Value>, ApiError> {
    let read = ReadResourceRequest {
        session_id: request.session_id,
        extension_name: request.extension_name,
        uri: request.uri.clone(),
    };
    let mut read = tonic::Request::new(read);
    read.set_timeout(READ_DEADLINE);
    let response = app.client().tools().read_resource(read).await.map_err(read_failed)?.into_inner();
    let Some(contents) = response.contents.into_iter().next() else {
        return Err(ApiError::not_found(format!("{} has no contents", request.uri)));
    };
    let text = match &contents.contents {
        Some(resource_contents::Contents::Text(text)) => text.clone(),
        Some(resource_contents::Contents::Data(data)) => String::from_utf8(data.to_vec()).map_err(|_| {
            ApiError::internal(format!("{} is binary and cannot be shown as text", request.uri))
        })?,
        _ => String::new(),
    };
    let whole = blocks::resource_json(&contents);
    let mut body = json!({"uri": contents.uri, "text": text});
    if let Value::Object(map) = &mut body {
        for field in ["mimeType", "_meta"] {
            if let Some(value) = whole.get(field) {
                map.insert(field.to_owned(), value.clone());
            }
        }
    }
    Ok(Json(body))
}

fn read_failed(status: tonic::Status) -> ApiError {
    let error = ClientError::from(status);
    let kept = error.is_temporary() || is_unknown_session(&error) || error.is(ErrorReason::ResourceNotFound);
    let told = ApiError::from(error);
    if kept { told } else { told.with_status(StatusCode::INTERNAL_SERVER_ERROR) }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{
        CallToolResponse, Part, ReadResourceResponse, ResourceContents, part, resource_contents::Contents,
    };
    use tonic::Code;

    use super::*;
    use crate::testing::Daemon;

    #[test]
    fn a_tool_shows_its_arguments_sorted_and_its_rule() {
        let tool = |rule: Option<RuleDecision>, schema: &str| ToolDefinition {
            name: "developer__shell".into(),
            description: "Runs".into(),
            input_schema_json: schema.into(),
            permission_rule: rule.map(|rule| rule as i32),
            ..ToolDefinition::default()
        };
        let schema = r#"{"type": "object", "properties": {"timeout": {}, "command": {}}}"#;
        let info = tool_info(&tool(Some(RuleDecision::Ask), schema));
        assert_eq!(info.parameters, ["command", "timeout"]);
        assert_eq!(info.input_schema["properties"], json!({"timeout": {}, "command": {}}));
        assert_eq!(info.permission, Some("ask_before"));
        assert_eq!(tool_info(&tool(Some(RuleDecision::Allow), "")).permission, Some("always_allow"));
        assert_eq!(tool_info(&tool(Some(RuleDecision::Deny), "{}")).permission, Some("never_allow"));
        let unruled = tool_info(&tool(None, "{}"));
        assert_eq!((unruled.permission, unruled.parameters.len()), (None, 0));
        assert_eq!(tool_info(&tool(None, "no JSON")).input_schema, json!({}));
    }

    #[test]
    fn a_direct_call_answers_in_both_spellings() {
        let result =
            ToolResult { is_error: true, structured_content_json: "{\"n\":1}".into(), ..Default::default() };
        let response = call_response(&result);
        assert_eq!((&response["is_error"], &response["isError"]), (&json!(true), &json!(true)));
        assert_eq!(response["structured_content"], response["structuredContent"]);
        assert_eq!(response["structuredContent"], json!({"n": 1}));
    }

    fn asked(tool: &str) -> Value {
        json!({"session_id": "s", "name": tool, "arguments": [1]})
    }

    #[tokio::test]
    async fn a_direct_call_gives_its_result_or_says_why_there_is_none() {
        let part = Part { body: Some(part::Body::Text("done".into())), ..Part::default() };
        let result = ToolResult { parts: vec![part], ..ToolResult::default() };
        let message = CallToolResponse { payload: Some(Payload::Result(Box::new(result))) };
        let daemon = Daemon::new().streams("ToolService/CallTool", &[message]);
        let answer = daemon.post("/agent/call_tool", asked("developer__shell")).await.ok();
        assert_eq!(answer["content"], json!([{"type": "text", "text": "done"}]));
        let call: CallToolRequest = daemon.request("ToolService/CallTool");
        assert_eq!(call.arguments_json, r#"{"value":[1]}"#, "what is no object is wrapped, as Goose does");
        for (code, reason) in [
            (Code::NotFound, ErrorReason::ToolNotFound),
            (Code::PermissionDenied, ErrorReason::ToolNotAllowed),
            (Code::DeadlineExceeded, ErrorReason::ToolTimedOut),
        ] {
            let daemon = Daemon::new().fails("ToolService/CallTool", code, reason, "why");
            let failed = daemon.post("/agent/call_tool", asked("x__y")).await.failed();
            assert_eq!(failed, (500, "why".into()), "{reason:?}");
        }
        let silent = Daemon::new().streams::<CallToolResponse>("ToolService/CallTool", &[]);
        let failed = silent.post("/agent/call_tool", asked("x__y")).await.failed();
        assert_eq!(failed, (500, "The tool ended without a result".into()));
    }

    #[tokio::test]
    async fn a_resource_is_its_first_contents_as_text_or_a_reason() {
        let body = json!({"session_id": "s", "extension_name": "e", "uri": "ui://a"});
        let read = async |contents: Vec<Contents>| {
            let contents = contents
                .into_iter()
                .map(|contents| ResourceContents {
                    uri: "ui://a".into(),
                    mime_type: "text/html".into(),
                    contents: Some(contents),
                    meta_json: r#"{"ui":{"prefersBorder":true}}"#.into(),
                })
                .collect();
            let daemon = Daemon::new().on("ToolService/ReadResource", &ReadResourceResponse { contents });
            daemon.post("/agent/read_resource", body.clone()).await
        };
        let text = read(vec![Contents::Text("<p>".into()), Contents::Text("second".into())]).await.ok();
        let expected = json!({"uri": "ui://a", "mimeType": "text/html", "text": "<p>",
            "_meta": {"ui": {"prefersBorder": true}}});
        assert_eq!(text, expected);
        assert_eq!(read(vec![Contents::Data(b"<b>".as_slice().into())]).await.ok()["text"], "<b>");
        let binary = read(vec![Contents::Data(vec![0xff, 0xfe].into())]).await.failed();
        assert_eq!(binary, (500, "ui://a is binary and cannot be shown as text".into()));
        assert_eq!(read(Vec::new()).await.failed(), (404, "ui://a has no contents".into()));
        let daemon = Daemon::new().fails(
            "ToolService/ReadResource",
            Code::FailedPrecondition,
            ErrorReason::ExtensionUnavailable,
            "extension e offers no resources",
        );
        let failed = daemon.post("/agent/read_resource", body.clone()).await.failed();
        assert_eq!(failed, (500, "extension e offers no resources".into()));
    }
}
