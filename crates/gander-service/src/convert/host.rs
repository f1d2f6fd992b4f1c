//! Hosts: what they can do, what they are asked, what they answer.

use gander_domain::{
    ErrorReason, SessionId,
    host::{HostCall, HostCallKind, HostCallOutcome, HostCapabilities},
};
use gander_proto::v1 as pb;

use super::{At, Violations, error_from_pb, int32, int64, non_empty, or_empty, time_to_pb, tool};

/// Most tools that one host brings.
const MAX_TOOLS: usize = 1_000;

pub(crate) fn capabilities_from_pb(
    capabilities: Option<pb::HostCapabilities>,
    tools: Vec<pb::HostTool>,
    extension_name: &str,
    v: &mut Violations,
) -> HostCapabilities {
    let capabilities = capabilities.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        v.add(&At::root("tools"), format!("must have at most {MAX_TOOLS} tools, has {}", tools.len()));
    }
    let tools = tools
        .into_iter()
        .take(MAX_TOOLS)
        .enumerate()
        .map(|(i, t)| {
            let mut tool = tool::host_tool_from_pb(t, extension_name, &At::root_element("tools", i), v);
            // The public name, as for tools of extensions.
            tool.name = format!("{extension_name}__{}", tool.tool_name);
            tool
        })
        .collect();
    HostCapabilities {
        fs_read: capabilities.fs_read,
        fs_write: capabilities.fs_write,
        terminal: capabilities.terminal,
        tools,
    }
}

pub(crate) fn call_to_pb(call: &HostCall, session_id: &SessionId) -> pb::HostCall {
    use pb::host_call::Call;
    let kind = match &call.kind {
        HostCallKind::Tool { name, arguments_json } => {
            Call::Tool(pb::HostToolCall { name: name.clone(), arguments_json: arguments_json.clone() })
        }
        HostCallKind::FsRead { path, line, limit } => {
            Call::FsRead(pb::FsRead { path: path.clone(), line: line.map(int32), limit: limit.map(int32) })
        }
        HostCallKind::FsWrite { path, text } => {
            Call::FsWrite(pb::FsWrite { path: path.clone(), text: text.clone() })
        }
        HostCallKind::TerminalRun { argv, cwd, env, output_limit_bytes } => {
            Call::TerminalRun(pb::TerminalRun {
                argv: argv.clone(),
                cwd: cwd.clone(),
                env: env.iter().cloned().collect(),
                output_limit: Some(int64(*output_limit_bytes)),
            })
        }
    };
    pb::HostCall {
        host_call_id: call.host_call_id.as_str().to_owned(),
        session_id: session_id.as_str().to_owned(),
        item_id: or_empty(call.item_id.as_ref()),
        deadline: Some(time_to_pb(call.deadline)),
        call: Some(kind),
    }
}

pub(crate) fn outcome_from_pb(
    outcome: Option<pb::complete_host_call_request::Outcome>,
    v: &mut Violations,
) -> Option<HostCallOutcome> {
    use pb::complete_host_call_request::Outcome;
    match outcome {
        None => {
            v.add(&At::root("outcome"), "must be tool, fs_read, fs_write, terminal_run or error");
            None
        }
        Some(Outcome::Tool(result)) => {
            tool::result_from_pb(*result, &At::root("tool"), v).map(HostCallOutcome::Tool)
        }
        Some(Outcome::FsRead(read)) => {
            let text = v.text(&At::root("fs_read").field("text"), read.text);
            Some(HostCallOutcome::FsRead { text })
        }
        Some(Outcome::FsWrite(_)) => Some(HostCallOutcome::FsWritten),
        Some(Outcome::TerminalRun(run)) => Some(HostCallOutcome::Terminal {
            output: v.text(&At::root("terminal_run").field("output"), run.output),
            truncated: run.truncated,
            exit_code: run.exit_code,
            signal: non_empty(run.signal),
        }),
        Some(Outcome::Error(error)) => {
            let error = error_from_pb(error, &At::root("error"), v);
            let refused = error.reason == ErrorReason::CapabilityMissing;
            Some(HostCallOutcome::Failed { message: error.message, refused })
        }
    }
}
