//! `gander run`: one turn, shown as it happens.
//!
//! The turn belongs to the daemon, not to this program: leaving does not end it, Ctrl-C asks for its end. This module
//! turns arguments into a session and a request; [`follow`] shows what comes of it.

mod follow;

use gander_client::Client;
use gander_proto::v1::{
    AddSessionExtensionRequest, CreateSessionRequest, GetServerInfoRequest, GetSessionRequest,
    LoadSessionRequest, ModelSelection, Part, RecipeSource, RunTurnRequest, Session, SessionKind,
    SessionMode, TurnInput, TurnLimits, add_session_extension_request, part,
};

use self::follow::{Run, write};
use super::{
    args::{Mode, RunArgs},
    connect::{Connected, Context, Embed},
    error::{CliError, CliResult, exit},
    extension::build,
    output::clean,
    recipe,
    render::{Options, Renderer},
    terminal,
};
use crate::daemon::{DaemonOptions, Taping, client_environment};

/// How long an engine in this process may take to stop when the person has left already.
const LEAVE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: RunArgs) -> CliResult<u8> {
    let input = input(context, &args)?;
    let model = model(&args)?;
    // Read here too, so that a mistake is told before anything starts.
    build::selection(&args.with)?;
    let connected = match taping(context, &args) {
        None => context.connect(Embed::Allowed).await?,
        taping => context.embed(DaemonOptions { taping, ..context.daemon_options() }).await?,
    };
    let result = Box::pin(turn(context, &args, input, model, &connected)).await;
    let left = matches!(&result, Ok(exit::LEFT)) || matches!(&result, Err(e) if e.exit == exit::BROKEN_PIPE);
    if left {
        let _ = tokio::time::timeout(LEAVE_DEADLINE, connected.close()).await;
    } else {
        connected.close().await;
    }
    result
}

/// Whether model calls are recorded or played back.
fn taping(context: &Context, args: &RunArgs) -> Option<Taping> {
    let record = args.record.as_deref().map(|dir| Taping::Record(context.absolute(dir)));
    record.or_else(|| args.replay.as_deref().map(|dir| Taping::Replay(context.absolute(dir))))
}

/// What to tell the model. `None`: continue.
fn input(context: &Context, args: &RunArgs) -> CliResult<Option<String>> {
    let text = match args.prompt.as_slice() {
        // Without words of its own, a recipe begins with its prompt.
        [] if args.session.is_some() || args.recipe.recipe.is_some() => return Ok(None),
        [] if !context.out.stdin_is_terminal => terminal::read_stdin()?,
        [] => {
            return Err(CliError::usage("there is no prompt")
                .remedy("write for example: gander run \"list the files here\""));
        }
        [dash] if dash == "-" => terminal::read_stdin()?,
        words => words.join(" "),
    };
    if text.trim().is_empty() {
        return Err(CliError::usage("the prompt is empty"));
    }
    Ok(Some(text))
}

fn model(args: &RunArgs) -> CliResult<Option<ModelSelection>> {
    let (provider_id, model_id) = if args.demo {
        (gander_model::DEMO_PROVIDER_ID, gander_model::DEMO_MODEL_ID)
    } else if let Some(provider_id) = args.provider.as_deref() {
        // Without a model's name it is the provider's default one.
        (provider_id, "")
    } else {
        let Some(text) = args.model.as_deref() else { return Ok(None) };
        match text.split_once('/') {
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => (provider, model),
            _ => {
                return Err(CliError::usage(format!("--model: {text:?} is not PROVIDER/MODEL"))
                    .remedy("write for example openai/gpt-5; `gander provider list` shows the providers"));
            }
        }
    };
    Ok(Some(ModelSelection {
        provider_id: provider_id.to_owned(),
        model_id: model_id.to_owned(),
        ..ModelSelection::default()
    }))
}

fn mode(mode: Mode) -> SessionMode {
    match mode {
        Mode::Auto => SessionMode::Auto,
        Mode::Approve => SessionMode::Approve,
        Mode::SmartApprove => SessionMode::SmartApprove,
        Mode::Chat => SessionMode::Chat,
    }
}

async fn turn(
    context: &Context,
    args: &RunArgs,
    mut input: Option<String>,
    model: Option<ModelSelection>,
    connected: &Connected,
) -> CliResult<u8> {
    let client = &connected.client;
    // What happens to the session's extensions on the way to the turn belongs to what is shown.
    let seen;
    let session = match &args.session {
        Some(id) => {
            seen = get(client, id).await?.last_sequence;
            let session = load(context, client, id).await?;
            extend(args, client, id).await?;
            session
        }
        None => {
            let recipe = match &args.recipe.recipe {
                None => None,
                Some(name) => {
                    let (params, trust) = (&args.recipe.params, args.recipe.trust);
                    let asks = !args.no_interactive
                        && context.out.stdin_is_terminal
                        && context.out.stderr_is_terminal;
                    Some(recipe::ready(context, client, name, params, trust, asks).await?)
                }
            };
            if let Some(ready) = &recipe {
                input.get_or_insert_with(|| ready.message.clone());
            }
            let session = create(context, args, model.clone(), recipe.map(|r| r.source), client).await?;
            seen = session.last_sequence;
            session
        }
    };
    let mut renderer = Renderer::new(Options::new(&context.out));
    if !args.json && !context.out.quiet {
        let header = header(client, &session, model.as_ref()).await;
        write(context, false, renderer.remark(&header))?;
    }
    let request = RunTurnRequest {
        session_id: session.session_id.clone(),
        turn_id: uuid::Uuid::now_v7().to_string(),
        input: input.map(|text| TurnInput {
            parts: vec![Part { body: Some(part::Body::Text(text)), ..Part::default() }],
            ..TurnInput::default()
        }),
        limits: args
            .max_model_calls
            .map(|calls| TurnLimits { max_model_calls: Some(calls), ..TurnLimits::default() }),
        mode: args.mode.filter(|_| args.session.is_some()).map(|m| mode(m) as i32),
        model: model.filter(|_| args.session.is_some()),
        after_sequence: Some(seen),
        ..RunTurnRequest::default()
    };
    Run::new(context, connected, &request, args, renderer).follow(request).await
}

async fn create(
    context: &Context,
    args: &RunArgs,
    model: Option<ModelSelection>,
    recipe: Option<RecipeSource>,
    client: &Client,
) -> CliResult<Session> {
    let directory = args.cwd.as_deref().map_or_else(|| context.cwd.clone(), |cwd| context.absolute(cwd));
    let request = CreateSessionRequest {
        working_directory: path_text(&directory)?,
        title: args.title.clone().unwrap_or_default(),
        kind: SessionKind::User as i32,
        model,
        mode: args.mode.map(|m| mode(m) as i32),
        extensions: build::selection(&args.with)?,
        recipe,
        container: args.with.container.clone().unwrap_or_default(),
        client_environment: client_environment(&context.environment).into_iter().collect(),
        demo_allowed: true,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..CreateSessionRequest::default()
    };
    let response = client.sessions().create_session(request).await?.into_inner();
    response.session.ok_or_else(|| CliError::new("the daemon answered without a session"))
}

/// Brings a session into memory with this caller's environment.
async fn load(context: &Context, client: &Client, session_id: &str) -> CliResult<Session> {
    let request = LoadSessionRequest {
        session_id: session_id.to_owned(),
        client_environment: client_environment(&context.environment).into_iter().collect(),
        ..LoadSessionRequest::default()
    };
    client.sessions().load_session(request).await?;
    get(client, session_id).await
}

async fn get(client: &Client, session_id: &str) -> CliResult<Session> {
    let request = GetSessionRequest { session_id: session_id.to_owned() };
    let session = client.sessions().get_session(request).await?.into_inner().session;
    session.ok_or_else(|| CliError::new("the daemon answered without a session"))
}

/// Adds what was asked for to a session that is there. One that does not start ends the command: the person would
/// talk to a model without the tools that were named.
async fn extend(args: &RunArgs, client: &Client, session_id: &str) -> CliResult<()> {
    for config in build::from_with(&args.with)? {
        let request = AddSessionExtensionRequest {
            session_id: session_id.to_owned(),
            extension: Some(add_session_extension_request::Extension::Config(Box::new(config))),
            wait: true,
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        client.extensions().add_session_extension(request).await?;
    }
    Ok(())
}

pub(super) fn path_text(path: &std::path::Path) -> CliResult<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        CliError::usage(format!("the directory {} has a name that is not UTF-8", path.display()))
    })
}

/// How the reason begins where the demo stands in because the choice is the person's.
const SEVERAL_KEYS: &str = "the keys of several providers";

/// "session ID · model P/M (why)".
async fn header(client: &Client, session: &Session, wanted: Option<&ModelSelection>) -> String {
    let name = |model: &ModelSelection| format!("{}/{}", clean(&model.provider_id), clean(&model.model_id));
    let model = match (wanted, &session.model) {
        (Some(model), _) => format!("{} (as asked)", name(model)),
        (None, Some(model)) => format!("{} (this session's)", name(model)),
        (None, None) => {
            let info = client.system().get_server_info(GetServerInfoRequest {}).await;
            let info = info.ok().and_then(|response| response.into_inner().server_info).unwrap_or_default();
            match &info.default_model {
                Some(model) => format!("{} ({})", name(model), clean(&info.default_model_reason)),
                None if info.default_model_reason.starts_with(SEVERAL_KEYS) => {
                    format!("demo ({})", clean(&info.default_model_reason))
                }
                // What is configured and cannot be used is an error: the demo does not stand in.
                None if !info.default_model_reason.is_empty()
                    && !info.default_model_reason.starts_with("no model is configured") =>
                {
                    format!("none ({})", clean(&info.default_model_reason))
                }
                None => "demo (no model is configured: `gander config set GOOSE_PROVIDER …` chooses one)"
                    .to_owned(),
            }
        }
    };
    format!("session {} · model {model}", session.session_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_with_their_provider() {
        let with = |model: &str| RunArgs { model: Some(model.to_owned()), ..RunArgs::default() };
        let chosen = model(&with("openai/org/model")).unwrap().unwrap();
        assert_eq!((chosen.provider_id.as_str(), chosen.model_id.as_str()), ("openai", "org/model"));
        for wrong in ["gpt-5", "/x", "x/", ""] {
            assert_eq!(model(&with(wrong)).unwrap_err().exit, exit::USAGE, "{wrong:?}");
        }
        let demo = model(&RunArgs { demo: true, ..RunArgs::default() }).unwrap().unwrap();
        assert_eq!(demo.provider_id, "demo");
        assert_eq!(model(&RunArgs::default()).unwrap(), None);
    }
}
