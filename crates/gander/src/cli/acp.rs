//! `gander acp`: the agent that editors start, and `--setup`, which editors show in a terminal.
//!
//! stdout carries the protocol and nothing else. The daemon is shared with every other client, so a session that an
//! editor begins goes on in another program, and closing the editor ends no turn.

use std::{collections::BTreeMap, io::IsTerminal as _};

use gander_acp::SetupCommand;
use gander_client::Client;
use gander_proto::v1::{
    CheckProviderRequest, GetServerInfoRequest, ListModelsRequest, ListProvidersRequest, ModelInfo, Provider,
    ProviderConfigKey, SetConfigValueRequest, SetDefaultModelRequest, SetSecretRequest,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    args::AcpArgs,
    connect::{Connected, Context, Place},
    error::{CliError, CliResult, exit},
    output::clean,
    terminal,
};
use crate::{agent::stay_connected, daemon};

/// Providers and models of one list; the rest can be named.
const MAX_LISTED: usize = 40;
/// How often a value that must be there is asked for.
const MAX_ATTEMPTS: usize = 3;

pub(super) async fn acp(context: &Context, args: AcpArgs) -> CliResult<u8> {
    let connected = context.shared().await?;
    let result = if args.setup {
        Box::pin(setup(context, &connected.client)).await
    } else {
        Box::pin(serve(context, &connected)).await
    };
    connected.close().await;
    result.map(|()| exit::OK)
}

async fn serve(context: &Context, connected: &Connected) -> CliResult<()> {
    // A daemon in the background ends when nobody is connected, and may be gone after a crash.
    let _presence = match connected.place {
        Place::Daemon => {
            let staying =
                stay_connected(connected.client.clone(), context.paths()?, context.background_options()?);
            Some(AbortOnDropHandle::new(tokio::spawn(staying)))
        }
        Place::Server(_) | Place::Embedded => None,
    };
    let options = gander_acp::Options {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client_environment: client_environment(context, &connected.place),
        setup: Some(setup_command(context)),
        demo_allowed: false,
    };
    if std::io::stdin().is_terminal() {
        context.out.note(
            "this speaks the Agent Client Protocol: editors start it; `gander acp --setup` sets up a model",
        );
    }
    let served =
        gander_acp::serve_stdio(connected.client.clone(), tokio::io::stdin(), tokio::io::stdout(), options);
    served.await.map_err(|error| CliError::new(format!("the editor cannot be served: {error}")))
}

/// What tools get of the editor's environment; nothing on another machine.
fn client_environment(context: &Context, place: &Place) -> BTreeMap<String, String> {
    match place {
        Place::Server(server) if !server.starts_with("unix:") => BTreeMap::new(),
        _ => daemon::client_environment(&context.environment),
    }
}

fn setup_command(context: &Context) -> SetupCommand {
    let executable = std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
    let mut full_command: Vec<String> = executable.into_iter().collect();
    if !full_command.is_empty() {
        if let Some(root) = &context.global.root {
            full_command.extend(["--root".to_owned(), context.absolute(root).display().to_string()]);
        }
        full_command.extend(["acp".to_owned(), "--setup".to_owned()]);
    }
    SetupCommand { arguments: vec!["--setup".to_owned()], full_command }
}

/// Asks for a provider, what it needs, and a model, and tries that before it becomes the default.
async fn setup(context: &Context, client: &Client) -> CliResult<()> {
    let say = |text: &str| context.out.chrome(&format!("{text}\n"));
    let info = client.system().get_server_info(GetServerInfoRequest {}).await?.into_inner().server_info;
    if let Some(model) = info.and_then(|info| info.default_model) {
        say(&format!("The model is {} of {}.\n", clean(&model.model_id), clean(&model.provider_id)));
    }
    let providers = client.providers().list_providers(ListProvidersRequest {}).await?.into_inner().providers;
    let provider = choose_provider(context, &providers).await?;
    for key in provider.config_keys.iter().filter(|key| key.required || key.primary) {
        ask_key(context, client, provider, key).await?;
    }
    loop {
        let model_id = choose_model(context, client, provider).await?;
        say(&format!("Trying {} …", clean(&model_id)));
        let request =
            CheckProviderRequest { provider_id: provider.provider_id.clone(), model_id: model_id.clone() };
        let answer = client.providers().check_provider(request).await?.into_inner();
        if !answer.working {
            let message = answer.error.map(|error| error.message).unwrap_or_default();
            say(&format!("It does not work: {}", clean(&message)));
            if !yes(context, "Choose another model?", true).await? {
                return Err(CliError::new("no model was set up"));
            }
            continue;
        }
        let request = SetDefaultModelRequest {
            provider_id: provider.provider_id.clone(),
            model_id: model_id.clone(),
            ..SetDefaultModelRequest::default()
        };
        client.providers().set_default_model(request).await?;
        say(&format!("Done: gander uses {} of {}.", clean(&model_id), clean(&provider.display_name)));
        return Ok(());
    }
}

async fn choose_provider<'a>(context: &Context, providers: &'a [Provider]) -> CliResult<&'a Provider> {
    for (number, provider) in providers.iter().enumerate().take(MAX_LISTED) {
        let state = if provider.configured { " (set up)" } else { "" };
        let line = format!("{:3}  {}{state}\n", number + 1, clean(&provider.display_name));
        context.out.chrome(&line);
    }
    loop {
        let answer = ask(context, "Provider (number or id): ").await?;
        let by_number = answer.parse::<usize>().ok().and_then(|n| providers.get(n.checked_sub(1)?));
        let by_name = || {
            providers.iter().find(|provider| {
                provider.provider_id.eq_ignore_ascii_case(&answer)
                    || provider.display_name.eq_ignore_ascii_case(&answer)
            })
        };
        match by_number.or_else(by_name) {
            Some(provider) => return Ok(provider),
            None => context.out.chrome("There is no such provider.\n"),
        }
    }
}

async fn ask_key(
    context: &Context,
    client: &Client,
    provider: &Provider,
    key: &ProviderConfigKey,
) -> CliResult<()> {
    let default = key.default_value.as_deref().filter(|value| !value.is_empty());
    let keep = match default {
        Some(value) => format!(" [{}]", clean(value)),
        None if provider.configured || !key.required => " [keep as it is]".to_owned(),
        None => String::new(),
    };
    let question = format!("{}{keep}: ", clean(&key.key));
    for _ in 0..MAX_ATTEMPTS {
        let value =
            if key.secret { ask_secret(context, &question).await? } else { ask(context, &question).await? };
        if value.is_empty() {
            if !keep.is_empty() {
                return Ok(());
            }
            context.out.chrome("The provider does not work without it.\n");
            continue;
        }
        if key.secret {
            client.config().set_secret(SetSecretRequest { key: key.key.clone(), value }).await?;
        } else {
            let request = SetConfigValueRequest {
                key: key.key.clone(),
                value_json: serde_json::Value::String(value).to_string(),
                idempotency_key: String::new(),
            };
            client.config().set_config_value(request).await?;
        }
        return Ok(());
    }
    Err(CliError::new(format!("{} was not given", key.key)))
}

async fn choose_model(context: &Context, client: &Client, provider: &Provider) -> CliResult<String> {
    let list = |live| ListModelsRequest { provider_id: provider.provider_id.clone(), live };
    let live = client.providers().list_models(list(true)).await;
    let models: Vec<ModelInfo> = match live {
        Ok(response) => response.into_inner().models,
        // Whether the key works is found out with the model that is chosen.
        Err(_) => client.providers().list_models(list(false)).await?.into_inner().models,
    };
    for (number, model) in models.iter().enumerate().take(MAX_LISTED) {
        context.out.chrome(&format!("{:3}  {}\n", number + 1, clean(&model.model_id)));
    }
    if models.len() > MAX_LISTED {
        context.out.chrome(&format!("     … and {} more\n", models.len() - MAX_LISTED));
    }
    let first = models.first().map(|model| model.model_id.clone()).unwrap_or_default();
    let default =
        if provider.default_model_id.is_empty() { first } else { provider.default_model_id.clone() };
    loop {
        let question = match default.as_str() {
            "" => "Model (number or id): ".to_owned(),
            default => format!("Model (number or id) [{}]: ", clean(default)),
        };
        let answer = ask(context, &question).await?;
        if answer.is_empty() && !default.is_empty() {
            return Ok(default);
        }
        let by_number = answer.parse::<usize>().ok().and_then(|n| models.get(n.checked_sub(1)?));
        let known = by_number.or_else(|| models.iter().find(|model| model.model_id == answer));
        match known {
            Some(model) => return Ok(model.model_id.clone()),
            None if provider.allows_unlisted_models && !answer.is_empty() => return Ok(answer),
            None => context.out.chrome("There is no such model.\n"),
        }
    }
}

async fn yes(context: &Context, question: &str, default: bool) -> CliResult<bool> {
    let shown = if default { "Y/n" } else { "y/N" };
    let answer = ask(context, &format!("{question} [{shown}]: ")).await?;
    Ok(match answer.chars().next() {
        None => default,
        Some(first) => first.eq_ignore_ascii_case(&'y'),
    })
}

async fn ask(context: &Context, question: &str) -> CliResult<String> {
    context.out.chrome(question);
    let line = blocking(terminal::read_line).await?;
    if line.is_empty() {
        return Err(CliError::new("no answer: the input ended"));
    }
    Ok(line.trim().to_owned())
}

async fn ask_secret(context: &Context, question: &str) -> CliResult<String> {
    context.out.chrome(question);
    let secret = blocking(terminal::read_secret).await?;
    // What was typed was not shown, nor was its line's end.
    context.out.chrome("\n");
    Ok(secret.trim().to_owned())
}

/// Reading from a terminal blocks its thread.
async fn blocking(read: fn() -> CliResult<String>) -> CliResult<String> {
    let reading = tokio::task::spawn_blocking(read).await;
    reading.map_err(|error| CliError::new(format!("cannot read the answer: {error}")))?
}
