//! Tools, tool calls, results and permission rules.

use gander_domain::{
    ContentId, SessionId,
    event::OutputStream,
    item::{Location, PermissionRecord, ToolCall, ToolResult, Truncated},
    permission::{PermissionRule, RememberScope, RuleDecision},
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
};
use gander_engine::{CallProgress, RuleChange, ScopedRule};
use gander_proto::v1 as pb;

use super::{
    At, Violations, content, enums, error_from_pb, error_to_pb, int32, int64, millis, millis_to_pb,
    non_empty, or_empty, time_to_pb,
};

const SOURCE: &str = "PERMISSION_SOURCE_";

pub(crate) fn annotations_to_pb(annotations: &ToolAnnotations) -> pb::ToolAnnotations {
    pb::ToolAnnotations {
        title: String::new(),
        read_only: annotations.read_only,
        destructive: annotations.destructive,
        idempotent: annotations.idempotent,
        open_world: annotations.open_world,
    }
}

pub(crate) fn annotations_from_pb(annotations: Option<&pb::ToolAnnotations>) -> ToolAnnotations {
    annotations.map_or_else(ToolAnnotations::default, |a| ToolAnnotations {
        read_only: a.read_only,
        destructive: a.destructive,
        idempotent: a.idempotent,
        open_world: a.open_world,
    })
}

/// A tool with the rule that applies to it now, if one does.
pub(crate) fn definition_to_pb(tool: &ToolDefinition, rule: Option<RuleDecision>) -> pb::ToolDefinition {
    pb::ToolDefinition {
        name: tool.name.clone(),
        extension_name: tool.extension_name.clone(),
        tool_name: tool.tool_name.clone(),
        title: or_empty(tool.title.as_ref()),
        description: tool.description.clone(),
        input_schema_json: tool.input_schema_json.clone(),
        output_schema_json: or_empty(tool.output_schema_json.as_ref()),
        annotations: Some(annotations_to_pb(&tool.annotations)),
        icons_json: or_empty(tool.icons_json.as_ref()),
        meta_json: or_empty(tool.meta_json.as_ref()),
        visibility: Some(pb::ToolVisibility { model: tool.visibility.model, app: tool.visibility.app }),
        permission_rule: rule.map(enums::rule_decision_to_pb),
        definition_hash: tool.definition_hash.clone(),
        quarantined: tool.quarantined,
    }
}

/// A tool that a host brings. It belongs to the extension `extension_name`; the MCP host makes the public name.
pub(crate) fn host_tool_from_pb(
    tool: pb::HostTool,
    extension_name: &str,
    at: &At<'_>,
    v: &mut Violations,
) -> ToolDefinition {
    let name = v.name(&at.field("name"), tool.name);
    let schema = v.json_object(&at.field("input_schema_json"), tool.input_schema_json);
    if schema.is_none() {
        v.add(
            &at.field("input_schema_json"),
            "must be a JSON Schema of an object, such as {\"type\":\"object\"}",
        );
    }
    ToolDefinition {
        tool_name: name.clone(),
        name,
        extension_name: extension_name.to_owned(),
        title: non_empty(tool.title)
            .or_else(|| tool.annotations.as_ref().and_then(|a| non_empty(a.title.clone()))),
        description: v.text(&at.field("description"), tool.description),
        input_schema_json: schema.unwrap_or_default(),
        output_schema_json: v.json_object(&at.field("output_schema_json"), tool.output_schema_json),
        annotations: annotations_from_pb(tool.annotations.as_ref()),
        icons_json: None,
        meta_json: v.json_object(&at.field("meta_json"), tool.meta_json),
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        trusted: false,
    }
}

pub(crate) fn host_tool_to_pb(tool: &ToolDefinition) -> pb::HostTool {
    pb::HostTool {
        name: tool.tool_name.clone(),
        description: tool.description.clone(),
        input_schema_json: tool.input_schema_json.clone(),
        title: or_empty(tool.title.as_ref()),
        output_schema_json: or_empty(tool.output_schema_json.as_ref()),
        annotations: Some(annotations_to_pb(&tool.annotations)),
        meta_json: or_empty(tool.meta_json.as_ref()),
    }
}

pub(crate) fn call_to_pb(call: &ToolCall) -> pb::ToolCall {
    pb::ToolCall {
        name: call.name.clone(),
        extension_name: call.extension_name.clone(),
        tool_name: call.tool_name.clone(),
        call_id: call.call_id.clone(),
        title: call.title.clone(),
        kind: enums::tool_kind_to_pb(call.kind),
        status: enums::call_status_to_pb(call.status),
        arguments_json: call.arguments_json.clone(),
        arguments_content_id: or_empty(call.arguments_content_id.as_ref()),
        invalid_arguments: or_empty(call.invalid_arguments.as_ref()),
        locations: call
            .locations
            .iter()
            .map(|l| pb::ToolLocation { path: l.path.clone(), line: l.line.map(int32) })
            .collect(),
        annotations: Some(annotations_to_pb(&call.annotations)),
        tool_meta_json: or_empty(call.tool_meta_json.as_ref()),
        executor: enums::executor_to_pb(call.executor),
        permission: call.permission.as_ref().map(|p| pb::ToolPermission {
            allowed: p.allowed,
            source: enums::word_to_pb(SOURCE, &p.source, pb::PermissionSource::from_str_name),
        }),
        content: content::parts_to_pb(&call.content),
        result: call.result.as_ref().map(result_to_pb),
        child_session_id: or_empty(call.child_session_id.as_ref()),
        start_time: call.start_time.map(time_to_pb),
    }
}

/// A call of an imported item.
pub(crate) fn call_from_pb(call: pb::ToolCall, at: &At<'_>, v: &mut Violations) -> Option<ToolCall> {
    let locations = call
        .locations
        .into_iter()
        .enumerate()
        .map(|(i, l)| Location {
            path: l.path,
            line: v.positive(&at.element("locations", i).field("line"), l.line.map(i64::from)),
        })
        .collect();
    let permission = call.permission.map(|p| PermissionRecord {
        allowed: p.allowed,
        source: pb::PermissionSource::try_from(p.source)
            .map(|s| enums::word_from_pb(SOURCE, s.as_str_name()))
            .unwrap_or_default(),
    });
    Some(ToolCall {
        name: v.name(&at.field("name"), call.name),
        extension_name: call.extension_name,
        tool_name: call.tool_name,
        call_id: v.short(&at.field("call_id"), call.call_id),
        title: v.short(&at.field("title"), call.title),
        kind: enums::tool_kind_from_pb(call.kind).unwrap_or_default(),
        status: v.required_enum(&at.field("status"), call.status, enums::call_status_from_pb)?,
        // Not parsed: a model may have produced something that is no JSON, see invalid_arguments.
        arguments_json: v.text(&at.field("arguments_json"), call.arguments_json),
        arguments_content_id: v.optional_id(
            &at.field("arguments_content_id"),
            &call.arguments_content_id,
            |t| ContentId::new(t),
        ),
        invalid_arguments: non_empty(call.invalid_arguments),
        locations,
        annotations: annotations_from_pb(call.annotations.as_ref()),
        tool_meta_json: v.json_object(&at.field("tool_meta_json"), call.tool_meta_json),
        executor: enums::executor_from_pb(call.executor).unwrap_or_default(),
        permission,
        content: content::parts_from_pb(call.content, at, "content", v),
        result: call.result.and_then(|r| result_from_pb(r, &at.field("result"), v)),
        child_session_id: v
            .optional_id(&at.field("child_session_id"), &call.child_session_id, |t| SessionId::new(t)),
        start_time: v.time(&at.field("start_time"), call.start_time),
    })
}

pub(crate) fn result_to_pb(result: &ToolResult) -> pb::ToolResult {
    pb::ToolResult {
        outcome: enums::outcome_to_pb(result.outcome),
        parts: content::parts_to_pb(&result.parts),
        structured_content_json: or_empty(result.structured_content_json.as_ref()),
        is_error: result.is_error,
        meta_json: or_empty(result.meta_json.as_ref()),
        error: result.error.as_ref().map(error_to_pb),
        truncated: result.truncated.as_ref().map(|t| pb::ToolTruncation {
            original_bytes: int64(t.original_bytes),
            content_id: or_empty(t.content_id.as_ref()),
        }),
        duration: Some(millis_to_pb(result.duration_ms)),
    }
}

pub(crate) fn result_from_pb(result: pb::ToolResult, at: &At<'_>, v: &mut Violations) -> Option<ToolResult> {
    let truncated = result.truncated.map(|t| {
        let at = at.field("truncated");
        Truncated {
            original_bytes: v.count(&at.field("original_bytes"), t.original_bytes),
            content_id: v.optional_id(&at.field("content_id"), &t.content_id, |t| ContentId::new(t)),
        }
    });
    Some(ToolResult {
        outcome: v.required_enum(&at.field("outcome"), result.outcome, enums::outcome_from_pb)?,
        parts: content::parts_from_pb(result.parts, at, "parts", v),
        structured_content_json: v.json(&at.field("structured_content_json"), result.structured_content_json),
        is_error: result.is_error,
        meta_json: v.json_object(&at.field("meta_json"), result.meta_json),
        error: result.error.map(|e| error_from_pb(e, &at.field("error"), v)),
        truncated,
        duration_ms: v.duration(&at.field("duration"), result.duration).map_or(0, millis),
    })
}

/// A rule. The domain's rules do not name a session or a directory: a session's rules live in its log.
pub(crate) fn rule_to_pb(rule: &PermissionRule, session_id: Option<&SessionId>) -> pb::PermissionRule {
    let session_id = session_id.filter(|_| rule.scope == RememberScope::Session);
    pb::PermissionRule {
        tool_pattern: rule.tool_pattern.clone(),
        decision: enums::rule_decision_to_pb(rule.decision),
        scope: enums::remember_scope_to_pb(rule.scope),
        session_id: or_empty(session_id),
        directory: String::new(),
    }
}

/// A rule with what it is bound to.
pub(crate) fn scoped_rule_to_pb(rule: &ScopedRule) -> pb::PermissionRule {
    let directory = rule.directory.clone().unwrap_or_default();
    pb::PermissionRule { directory, ..rule_to_pb(&rule.rule, rule.session_id.as_ref()) }
}

/// A change of the rules: no decision removes the rule.
pub(crate) fn rule_edit_from_pb(
    rule: pb::PermissionRule,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<RuleChange> {
    let tool_pattern = v.name(&at.field("tool_pattern"), rule.tool_pattern);
    if tool_pattern.strip_suffix('*').unwrap_or(&tool_pattern).contains('*') {
        v.add(&at.field("tool_pattern"), "may have one * at its end and nowhere else");
    }
    let scope = v.required_enum(&at.field("scope"), rule.scope, enums::remember_scope_from_pb)?;
    if scope == RememberScope::Once {
        v.add(&at.field("scope"), "must be SESSION, PROJECT or USER: a rule outlives its call");
    }
    let decision = v.optional_enum(&at.field("decision"), rule.decision, enums::rule_decision_from_pb);
    let session_id = v.optional_id(&at.field("session_id"), &rule.session_id, |t| SessionId::new(t));
    if (scope == RememberScope::Session) == rule.session_id.is_empty() {
        v.add(&at.field("session_id"), "must name the session of a rule with scope SESSION, and of no other");
    }
    let directory = non_empty(rule.directory);
    if (scope == RememberScope::Project) != directory.is_some() {
        v.add(
            &at.field("directory"),
            "must name the directory of a rule with scope PROJECT, and of no other",
        );
    }
    Some(RuleChange { tool_pattern, scope, decision, session_id, directory })
}

/// A host's report on an open call. Its item id is the call's own and not taken from the report.
pub(crate) fn progress_from_pb(
    report: Option<pb::report_host_progress_request::Report>,
    v: &mut Violations,
) -> Option<CallProgress> {
    use pb::report_host_progress_request::Report;
    match report {
        None => {
            v.add(&At::root("report"), "must be progress, output or notification");
            None
        }
        Some(Report::Progress(progress)) => {
            if !progress.progress.is_finite() || progress.total.is_some_and(|t| !t.is_finite()) {
                v.add(&At::root("progress"), "must have finite numbers");
            }
            Some(CallProgress::Progress {
                progress: progress.progress,
                total: progress.total,
                message: non_empty(v.text(&At::root("progress").field("message"), progress.message)),
            })
        }
        Some(Report::Output(output)) => {
            let stream = v.optional_enum(
                &At::root("output").field("stream"),
                output.stream,
                enums::output_stream_from_pb,
            );
            Some(CallProgress::Output {
                stream: stream.unwrap_or(OutputStream::Stdout),
                text: v.text(&At::root("output").field("text"), output.text),
            })
        }
        Some(Report::Notification(notification)) => {
            let at = At::root("notification");
            Some(CallProgress::Notification {
                method: v.name(&at.field("method"), notification.method),
                params_json: v.json(&at.field("params_json"), notification.params_json).unwrap_or_default(),
            })
        }
    }
}

/// Progress of a direct call, which is no item yet.
pub(crate) fn progress_to_pb(progress: CallProgress) -> pb::call_tool_response::Payload {
    use pb::call_tool_response::Payload;
    match progress {
        CallProgress::Output { stream, text } => Payload::Output(pb::ToolOutputDelta {
            item_id: String::new(),
            text,
            stream: enums::output_stream_to_pb(stream),
        }),
        CallProgress::Progress { progress, total, message } => Payload::Progress(pb::ToolProgress {
            item_id: String::new(),
            progress,
            total,
            message: message.unwrap_or_default(),
            subagent: None,
        }),
        CallProgress::Notification { method, params_json } => {
            Payload::Notification(pb::ToolNotification { item_id: String::new(), method, params_json })
        }
    }
}
