//! `gander extension`: the configured extensions, and those of a session.
//!
//! Values of variables and headers are shown only by `list --json`, which is there to be written back.

pub(crate) mod args;
pub(crate) mod build;
mod check;

use gander_client::Client;
use gander_proto::v1::{
    ConfiguredExtension, DeleteExtensionRequest, ExtensionConfig, ExtensionKind, ExtensionState,
    ExtensionStatus, InstallExtensionLinkRequest, ListAvailableExtensionsRequest, ListExtensionsRequest,
    ListSessionExtensionsRequest, PutExtensionRequest, ReadExtensionLogRequest,
    RestartSessionExtensionRequest, SetExtensionEnabledRequest, extension_config::Kind,
};
use tokio::signal;

use self::args::{AddArgs, ExtensionCommand};
use super::{
    connect::{Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{Cleaner, clean, one_line, table},
};

/// Longest text of a table's last column.
const WHAT_WIDTH: usize = 200;

pub(super) async fn extension(context: &Context, command: ExtensionCommand) -> CliResult<u8> {
    let embed = match &command {
        ExtensionCommand::Check { file, json } => return check::check(context, file, json.json),
        // What runs in a session runs in its daemon; an engine started for this would have nothing to show.
        ExtensionCommand::Restart { .. } | ExtensionCommand::Logs { .. } => Embed::Never,
        _ => Embed::Allowed,
    };
    // Before anything is started: what was typed must make sense.
    let prepared = match &command {
        ExtensionCommand::Add(args) if build::is_link(args)? => None,
        ExtensionCommand::Add(args) => Some(build::from_add(args)?),
        _ => None,
    };
    let connected = context.connect(embed).await?;
    let result = Box::pin(run(context, &connected.client, command, prepared)).await;
    connected.close().await;
    result.map(|()| exit::OK)
}

async fn run(
    context: &Context,
    client: &Client,
    command: ExtensionCommand,
    prepared: Option<ExtensionConfig>,
) -> CliResult<()> {
    match command {
        ExtensionCommand::List { session: None, json } => configured(context, client, json.json).await,
        ExtensionCommand::List { session: Some(id), json } => {
            of_session(context, client, id, json.json).await
        }
        ExtensionCommand::Add(args) => match prepared {
            Some(config) => add(context, client, &args, config).await,
            None => install(context, client, args.name).await,
        },
        ExtensionCommand::Available { json } => available(context, client, json.json).await,
        ExtensionCommand::Remove { name } => {
            let request = DeleteExtensionRequest {
                extension_name: name.clone(),
                idempotency_key: idempotency_key(),
                ..DeleteExtensionRequest::default()
            };
            client.extensions().delete_extension(request).await?;
            context.out.note(&format!("{} is removed", clean(&name)));
            Ok(())
        }
        ExtensionCommand::Enable { name } => set_enabled(context, client, name, true).await,
        ExtensionCommand::Disable { name } => set_enabled(context, client, name, false).await,
        ExtensionCommand::Restart { name, session } => restart(context, client, name, session).await,
        ExtensionCommand::Logs { name, session, follow } => {
            logs(context, client, name, session, follow).await
        }
        // Needs no daemon and was done before.
        ExtensionCommand::Check { .. } => Ok(()),
    }
}

fn idempotency_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

async fn configured(context: &Context, client: &Client, as_json: bool) -> CliResult<()> {
    let list = client.extensions().list_extensions(ListExtensionsRequest {}).await?.into_inner();
    for warning in &list.warnings {
        context.out.note(&clean(warning));
    }
    if as_json {
        return context.out.line(&json::array(&list.extensions)?);
    }
    if list.extensions.is_empty() {
        context.out.note("no extension is configured; `gander extension add` adds one");
        return Ok(());
    }
    context.out.print(&table(&configured_rows(&list.extensions), context.out.width, context.out.color))?;
    warn(context, &list.extensions);
    Ok(())
}

fn warn(context: &Context, extensions: &[ConfiguredExtension]) {
    for extension in extensions {
        let name = extension.config.as_ref().map_or("", |config| config.name.as_str());
        for warning in &extension.warnings {
            context.out.note(&format!("{}: {}", clean(name), clean(warning)));
        }
    }
}

fn configured_rows(extensions: &[ConfiguredExtension]) -> Vec<Vec<String>> {
    let mut rows = vec![["NAME", "ENABLED", "KIND", "WHAT"].map(str::to_owned).to_vec()];
    rows.extend(extensions.iter().map(|extension| {
        let config = extension.config.clone().unwrap_or_default();
        let enabled = if extension.enabled { "yes" } else { "no" };
        let (kind, what) = kind_and_what(&config);
        vec![clean(&config.name), enabled.to_owned(), kind, one_line(&what, WHAT_WIDTH)]
    }));
    rows
}

/// The kind's name in the configuration file, and what is started or called.
fn kind_and_what(config: &ExtensionConfig) -> (String, String) {
    let described = || config.description.clone();
    let (kind, what) = match &config.kind {
        Some(Kind::Stdio(stdio)) => {
            let words = config.exec_prefix.iter().chain([&stdio.command]).chain(&stdio.args);
            ("stdio", words.map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
        }
        Some(Kind::StreamableHttp(http)) => ("streamable_http", without_secrets(&http.uri)),
        Some(Kind::Sse(sse)) => ("sse", without_secrets(&sse.uri)),
        Some(Kind::Builtin(_)) => ("builtin", described()),
        Some(Kind::Platform(_)) => ("platform", described()),
        Some(Kind::InlinePython(_)) => ("inline_python", described()),
        Some(Kind::Client(_)) => ("frontend", described()),
        Some(Kind::Unknown(unknown)) => (unknown.kind_name.as_str(), described()),
        None => ("unknown", described()),
    };
    (clean(kind), what)
}

/// As it could be typed again.
fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
}

/// An address without a user's part and a query, which may hold keys.
fn without_secrets(uri: &str) -> String {
    match url::Url::parse(uri) {
        Ok(mut url) => {
            let _ = url.set_password(None);
            let _ = url.set_username("");
            if url.query().is_some() {
                url.set_query(Some("…"));
            }
            url.to_string().replace("%E2%80%A6", "…")
        }
        Err(_) => uri.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

async fn of_session(context: &Context, client: &Client, session_id: String, as_json: bool) -> CliResult<()> {
    let request = ListSessionExtensionsRequest { session_id };
    let list = client.extensions().list_session_extensions(request).await?.into_inner().extensions;
    if as_json {
        return context.out.line(&json::array(&list)?);
    }
    if list.is_empty() {
        context.out.note("the session has no extensions");
        return Ok(());
    }
    context.out.print(&table(&status_rows(&list), context.out.width, context.out.color))
}

fn status_rows(list: &[ExtensionStatus]) -> Vec<Vec<String>> {
    let mut rows = vec![["NAME", "STATE", "KIND", "TOOLS", "WHY"].map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(|status| {
        let why = status.error.as_ref().map_or("", |error| error.message.as_str());
        vec![
            clean(&status.name),
            state_word(status.state()).to_owned(),
            kind_word(status.kind()).to_owned(),
            status.tool_count.to_string(),
            one_line(why, WHAT_WIDTH),
        ]
    }));
    rows
}

fn state_word(state: ExtensionState) -> &'static str {
    match state {
        ExtensionState::Starting => "starting",
        ExtensionState::Ready => "ready",
        ExtensionState::Degraded => "degraded",
        ExtensionState::NeedsAuth => "needs authorization",
        ExtensionState::Restarting => "restarting",
        ExtensionState::Failed => "failed",
        ExtensionState::Stopped => "stopped",
        ExtensionState::Unspecified => "unknown",
    }
}

fn kind_word(kind: ExtensionKind) -> &'static str {
    match kind {
        ExtensionKind::Builtin => "builtin",
        ExtensionKind::Platform => "platform",
        ExtensionKind::Stdio => "stdio",
        ExtensionKind::StreamableHttp => "streamable_http",
        ExtensionKind::InlinePython => "inline_python",
        ExtensionKind::Client => "frontend",
        ExtensionKind::Sse => "sse",
        ExtensionKind::Unknown | ExtensionKind::Unspecified => "unknown",
    }
}

async fn add(context: &Context, client: &Client, args: &AddArgs, config: ExtensionConfig) -> CliResult<()> {
    let request = PutExtensionRequest {
        config: Some(config),
        enabled: !args.disabled,
        idempotency_key: idempotency_key(),
    };
    let answer = client.extensions().put_extension(request).await?.into_inner();
    let word = if answer.created { "added" } else { "replaced" };
    let off = if args.disabled { ", disabled" } else { "" };
    context.out.note(&format!("{} is {word}{off}; new sessions use this", clean(&args.name)));
    warn(context, answer.extension.as_slice());
    Ok(())
}

/// A link from a web page: stored disabled, with all that a person should know before enabling it.
async fn install(context: &Context, client: &Client, link: String) -> CliResult<()> {
    let request = InstallExtensionLinkRequest { link, idempotency_key: idempotency_key() };
    let answer = client.extensions().install_extension_link(request).await?.into_inner();
    let config = answer.extension.as_ref().and_then(|e| e.config.as_ref());
    let name = config.map_or_else(String::new, |config| clean(&config.name));
    if answer.created {
        context.out.note(&format!("{name} is added, disabled; `gander extension enable {name}` starts it"));
    }
    for warning in &answer.warnings {
        context.out.note(&clean(warning));
    }
    for key in &answer.unresolved_keys {
        let header = config.is_some_and(
            |config| matches!(&config.kind, Some(Kind::StreamableHttp(http)) if http.headers.contains_key(key)),
        );
        let key = clean(key);
        context.out.note(&if header {
            format!("the header {key} needs a value: gander extension add {name} --url … --header '{key}: …'")
        } else {
            format!("it needs the secret {key}: gander config set --secret {key}")
        });
    }
    if !answer.installation_notes.is_empty() {
        context.out.line(&clean(&answer.installation_notes))?;
    }
    warn(context, answer.extension.as_slice());
    Ok(())
}

async fn available(context: &Context, client: &Client, as_json: bool) -> CliResult<()> {
    let request = ListAvailableExtensionsRequest {};
    let list = client.extensions().list_available_extensions(request).await?.into_inner().extensions;
    if as_json {
        return context.out.line(&json::array(&list)?);
    }
    let mut rows = vec![["NAME", "CONFIGURED", "KIND", "WHAT"].map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(|available| {
        let config = available.config.clone().unwrap_or_default();
        let configured = if available.configured { "yes" } else { "no" };
        let (kind, what) = kind_and_what(&config);
        vec![clean(&config.name), configured.to_owned(), kind, one_line(&what, WHAT_WIDTH)]
    }));
    context.out.print(&table(&rows, context.out.width, context.out.color))
}

async fn set_enabled(context: &Context, client: &Client, name: String, enabled: bool) -> CliResult<()> {
    let request = SetExtensionEnabledRequest {
        extension_name: name.clone(),
        enabled,
        idempotency_key: idempotency_key(),
    };
    let answer = client.extensions().set_extension_enabled(request).await?.into_inner();
    let word = if enabled { "enabled" } else { "disabled" };
    context.out.note(&format!("{} is {word} for new sessions", clean(&name)));
    warn(context, answer.extension.as_slice());
    Ok(())
}

async fn restart(context: &Context, client: &Client, name: String, session_id: String) -> CliResult<()> {
    let request = RestartSessionExtensionRequest {
        session_id,
        extension_name: name,
        wait: true,
        idempotency_key: idempotency_key(),
    };
    let answer = client.extensions().restart_session_extension(request).await?.into_inner();
    let status =
        answer.extension.ok_or_else(|| CliError::new("the daemon answered without the extension"))?;
    match &status.error {
        Some(error) => Err(CliError::detail(error)),
        None => {
            context.out.note(&format!("{} is {}", clean(&status.name), state_word(status.state())));
            Ok(())
        }
    }
}

async fn logs(
    context: &Context,
    client: &Client,
    name: String,
    session_id: String,
    follow: bool,
) -> CliResult<()> {
    let request = ReadExtensionLogRequest { session_id, extension_name: name, tail_bytes: 0, follow };
    let mut stream = client.extensions().read_extension_log(request).await?.into_inner();
    let mut cleaner = Cleaner::default();
    loop {
        let message = tokio::select! {
            message = stream.message() => message?,
            _ = signal::ctrl_c() => return Err(CliError::silent(exit::LEFT)),
        };
        let Some(piece) = message else { return Ok(()) };
        if context.out.stdout_is_terminal {
            context.out.print(&cleaner.push(&piece.text))?;
        } else {
            context.out.print(&piece.text)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{StdioExtension, StreamableHttpExtension};

    use super::*;

    #[test]
    fn rows_tell_what_is_started_and_no_secret() {
        let row = |kind| {
            let config = ExtensionConfig {
                name: "x".to_owned(),
                description: "notes".to_owned(),
                env: [("A".to_owned(), "hidden-value".to_owned())].into(),
                exec_prefix: vec!["nice".to_owned()],
                kind: Some(kind),
                ..ExtensionConfig::default()
            };
            let extension =
                ConfiguredExtension { config: Some(config), enabled: true, ..ConfiguredExtension::default() };
            configured_rows(&[extension]).remove(1)
        };
        let stdio =
            StdioExtension { command: "srv".to_owned(), args: vec!["a b".to_owned(), "c".to_owned()] };
        assert_eq!(row(Kind::Stdio(stdio)), ["x", "yes", "stdio", "nice srv 'a b' c"]);
        let http = |uri: &str| {
            row(Kind::StreamableHttp(StreamableHttpExtension {
                uri: uri.to_owned(),
                headers: [("Authorization".to_owned(), "hidden-value".to_owned())].into(),
                ..StreamableHttpExtension::default()
            }))
            .remove(3)
        };
        assert_eq!(http("https://me:pw@h/mcp?key=k"), "https://h/mcp?…");
        assert_eq!(http("https://h/mcp"), "https://h/mcp");
        assert_eq!(http("no url?key=k"), "no url");
        let builtin = row(Kind::Builtin(gander_proto::v1::BuiltinExtension {}));
        assert_eq!(builtin, ["x", "yes", "builtin", "notes"]);
    }
}
