//! `gander tool`: tools without a model, in a session that is named or in a hidden one that is erased afterwards.

use gander_client::Client;
use gander_proto::v1::{
    CallToolRequest, CreateSessionRequest, DeleteSessionRequest, ExactSelection, ExtensionConfig,
    ExtensionSelection, ExtensionState, ExtensionStatus, ListSessionExtensionsRequest, ListToolsRequest,
    SessionKind, ToolDefinition, ToolOutcome, ToolResult, call_tool_response::Payload,
    extension_selection::Selection,
};
use tokio::signal;

use super::{
    args::ToolCommand,
    connect::{Connected, Context, Embed},
    error::{CliError, CliResult, exit},
    extension::build,
    json,
    output::{Cleaner, Tint, clean, human_duration, one_line, paint, table},
    render::join,
    run::path_text,
    terminal,
};
use crate::daemon::client_environment;

/// How long extensions of the session may take to start, in seconds.
const WAIT_FOR_EXTENSIONS: i64 = 10;
/// How long the one extension of `--cmd` or `--url` may take, in seconds: it may have to be fetched first.
const WAIT_FOR_ONE_OFF: i64 = 60;

pub(super) async fn tool(context: &Context, command: ToolCommand) -> CliResult<u8> {
    let only = match &command {
        ToolCommand::List { only, .. } | ToolCommand::Call { only, .. } => build::one_off(only)?,
    };
    let connected = context.connect(Embed::Allowed).await?;
    let result = Box::pin(in_session(context, &connected, command, only)).await;
    connected.close().await;
    result
}

async fn in_session(
    context: &Context,
    connected: &Connected,
    command: ToolCommand,
    only: Option<ExtensionConfig>,
) -> CliResult<u8> {
    let one_off = only.is_some();
    let given = match &command {
        ToolCommand::List { session, .. } | ToolCommand::Call { session, .. } => session.clone(),
    };
    let client = &connected.client;
    let session_id = match &given {
        Some(id) => id.clone(),
        None => hidden_session(context, client, only).await?,
    };
    let work = async {
        if one_off {
            started(client, &session_id).await?;
        }
        match command {
            ToolCommand::List { json, .. } => list(context, client, &session_id, json.json).await,
            ToolCommand::Call { name, arguments, json, .. } => {
                call(context, client, &session_id, &name, arguments, json.json).await
            }
        }
    };
    let result = tokio::select! {
        result = Box::pin(work) => result,
        // Dropping the call's stream cancels the call; the session still has to be erased.
        _ = signal::ctrl_c() => {
            context.out.note("cancelled");
            Ok(exit::CANCELLED)
        }
    };
    if given.is_none() {
        let request =
            DeleteSessionRequest { session_id, allow_missing: true, ..DeleteSessionRequest::default() };
        if let Err(status) = client.sessions().delete_session(request).await {
            context
                .out
                .note(&format!("the temporary session could not be erased: {}", clean(status.message())));
        }
    }
    result
}

/// A session that nobody sees, with the configured extensions or with this one alone.
async fn hidden_session(
    context: &Context,
    client: &Client,
    only: Option<ExtensionConfig>,
) -> CliResult<String> {
    let request = CreateSessionRequest {
        working_directory: path_text(&context.cwd)?,
        kind: SessionKind::Hidden as i32,
        client_environment: client_environment(&context.environment).into_iter().collect(),
        extensions: only.map(|config| ExtensionSelection {
            selection: Some(Selection::Exactly(ExactSelection { extensions: vec![config] })),
        }),
        demo_allowed: true,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..CreateSessionRequest::default()
    };
    let session = client.sessions().create_session(request).await?.into_inner().session;
    Ok(session.ok_or_else(|| CliError::new("the daemon answered without a session"))?.session_id)
}

/// Waits for the one extension; why it did not start is the error, not that its tools are missing.
async fn started(client: &Client, session_id: &str) -> CliResult<()> {
    let request = ListToolsRequest {
        session_id: session_id.to_owned(),
        wait_for_extensions: Some(prost_types::Duration { seconds: WAIT_FOR_ONE_OFF, nanos: 0 }),
        ..ListToolsRequest::default()
    };
    client.tools().list_tools(request).await?;
    let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
    let list = client.extensions().list_session_extensions(request).await?.into_inner().extensions;
    let usable =
        |status: &ExtensionStatus| matches!(status.state(), ExtensionState::Ready | ExtensionState::Degraded);
    let Some(status) = list.iter().find(|status| !usable(status)) else { return Ok(()) };
    Err(match &status.error {
        Some(detail) => CliError::detail(detail),
        None => CliError::new(format!("{} is not ready", clean(&status.name))),
    })
}

pub(super) async fn tools(client: &Client, session_id: &str) -> CliResult<Vec<ToolDefinition>> {
    let mut tools = Vec::new();
    let mut request = ListToolsRequest {
        session_id: session_id.to_owned(),
        wait_for_extensions: Some(prost_types::Duration { seconds: WAIT_FOR_EXTENSIONS, nanos: 0 }),
        ..ListToolsRequest::default()
    };
    loop {
        let page = client.tools().list_tools(request.clone()).await?.into_inner();
        tools.extend(page.tools);
        if page.next_page_token.is_empty() {
            return Ok(tools);
        }
        request.page_token = page.next_page_token;
    }
}

async fn list(context: &Context, client: &Client, session_id: &str, as_json: bool) -> CliResult<u8> {
    let tools = tools(client, session_id).await?;
    if as_json {
        context.out.line(&json::array(&tools)?)?;
        return Ok(exit::OK);
    }
    if tools.is_empty() {
        context.out.note("there are no tools; `gander config show` tells which extensions are configured");
        return Ok(exit::OK);
    }
    let mut rows = vec![vec!["TOOL".to_owned(), "WHAT IT DOES".to_owned()]];
    rows.extend(tools.iter().map(|tool| vec![clean(&tool.name), one_line(&tool.description, 400)]));
    context.out.print(&table(&rows, context.out.width, context.out.color))?;
    Ok(exit::OK)
}

/// The public name for what was typed: that name, or a tool's own name if only one extension has it.
fn public_name(tools: &[ToolDefinition], typed: &str) -> CliResult<String> {
    if tools.iter().any(|tool| tool.name == typed) {
        return Ok(typed.to_owned());
    }
    let named: Vec<&str> =
        tools.iter().filter(|tool| tool.tool_name == typed).map(|tool| tool.name.as_str()).collect();
    match named.as_slice() {
        [one] => Ok((*one).to_owned()),
        // The daemon's own answer knows best why it is not there.
        [] => Ok(typed.to_owned()),
        many => Err(CliError::usage(format!("more than one extension has a tool {typed:?}"))
            .remedy(format!("name one of {}", many.join(", ")))),
    }
}

async fn call(
    context: &Context,
    client: &Client,
    session_id: &str,
    name: &str,
    arguments: String,
    as_json: bool,
) -> CliResult<u8> {
    let arguments_json = if arguments == "-" { terminal::read_stdin()? } else { arguments };
    if !serde_json::from_str::<serde_json::Value>(&arguments_json).is_ok_and(|value| value.is_object()) {
        return Err(CliError::usage("the arguments are not a JSON object")
            .remedy("write for example: gander tool call shell '{\"command\": \"ls\"}'"));
    }
    let name = public_name(&tools(client, session_id).await?, name)?;
    let request = CallToolRequest {
        session_id: session_id.to_owned(),
        name,
        arguments_json,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..CallToolRequest::default()
    };
    let mut stream = client.tools().call_tool(request).await?.into_inner();
    let mut cleaner = Cleaner::default();
    let color = context.out.stderr_color;
    // On a terminal the result follows anyway; elsewhere live output would be noise.
    let live = context.out.stderr_is_terminal && !context.out.quiet && !as_json;
    while let Some(message) = stream.message().await? {
        if as_json {
            context.out.line(&json::line(&message)?)?;
        }
        match message.payload {
            Some(Payload::Output(output)) if live => {
                context.out.chrome(&paint(color, Tint::Dim, &cleaner.push(&output.text)));
            }
            Some(Payload::Progress(progress)) if live && !progress.message.is_empty() => {
                let line = one_line(&progress.message, context.out.width);
                context.out.chrome(&format!("{}\n", paint(color, Tint::Dim, &line)));
            }
            Some(Payload::Result(result)) => return finish(context, &result, as_json),
            _ => {}
        }
    }
    Err(CliError::new("the call ended without a result"))
}

fn finish(context: &Context, result: &ToolResult, as_json: bool) -> CliResult<u8> {
    if !as_json {
        let mut text = join(&result.parts);
        if context.out.stdout_is_terminal {
            text = clean(&text);
        }
        if !text.is_empty() {
            context.out.print(&text)?;
            if !text.ends_with('\n') {
                context.out.print("\n")?;
            }
        }
        if let Some(duration) = result.duration.and_then(|d| std::time::Duration::try_from(d).ok())
            && context.out.verbose > 0
        {
            context.out.note(&human_duration(duration));
        }
    }
    if result.outcome() == ToolOutcome::Ok && !result.is_error {
        return Ok(exit::OK);
    }
    Err(match &result.error {
        Some(error) => CliError::detail(error),
        None => {
            let word = match result.outcome() {
                ToolOutcome::TimedOut => "the tool did not answer in time",
                ToolOutcome::InvalidArguments => "the arguments do not fit the tool",
                ToolOutcome::Declined => "the call was declined",
                ToolOutcome::Cancelled => "the call was cancelled",
                ToolOutcome::OutcomeUnknown => {
                    "the daemon stopped while the tool ran: nobody knows what it did"
                }
                _ => "the tool reports an error",
            };
            CliError::new(word)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_found_when_they_are_clear() {
        let tool = |name: &str, tool_name: &str| ToolDefinition {
            name: name.to_owned(),
            tool_name: tool_name.to_owned(),
            ..ToolDefinition::default()
        };
        let tools = [tool("a__run", "run"), tool("b__run", "run"), tool("a__list", "list")];
        assert_eq!(public_name(&tools, "a__run").unwrap(), "a__run");
        assert_eq!(public_name(&tools, "list").unwrap(), "a__list");
        assert_eq!(public_name(&tools, "frob").unwrap(), "frob");
        let error = public_name(&tools, "run").unwrap_err();
        assert_eq!(error.remedy.as_deref(), Some("name one of a__run, b__run"));
    }
}
