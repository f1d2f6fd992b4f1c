//! `gander provider`: which models there are and whether they work.

use std::path::Path;

use gander_client::Transport;
use gander_proto::v1::{
    AuthenticateProviderRequest, CheckProviderRequest, CreateCustomProviderRequest,
    DeleteCustomProviderRequest, DetectProviderRequest, GetCustomProviderRequest, ListModelsRequest,
    ListProvidersRequest, ModelInfo, Provider, UpdateCustomProviderRequest,
    authenticate_provider_response::Step, provider_service_client::ProviderServiceClient,
};

use super::{
    args::ProviderCommand,
    config::secret_value,
    connect::{Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{clean, human_number, table},
    terminal,
};

pub(super) async fn provider(context: &Context, command: ProviderCommand) -> CliResult<u8> {
    let connected = context.connect(Embed::Allowed).await?;
    let mut providers = connected.client.providers();
    let result = async {
        match command {
            ProviderCommand::List(json) => {
                let list = providers.list_providers(ListProvidersRequest {}).await?.into_inner().providers;
                if json.json {
                    return context.out.line(&json::array(&list)?);
                }
                context.out.print(&table(&provider_rows(&list), context.out.width, context.out.color))
            }
            ProviderCommand::Models { provider, live, json } => {
                let request = ListModelsRequest { provider_id: provider, live };
                let models = providers.list_models(request).await?.into_inner().models;
                if json.json {
                    return context.out.line(&json::array(&models)?);
                }
                if models.is_empty() {
                    context.out.note("no model is known; --live asks the provider");
                    return Ok(());
                }
                context.out.print(&table(&model_rows(&models), context.out.width, context.out.color))
            }
            ProviderCommand::Check { provider, model } => {
                let request = CheckProviderRequest {
                    provider_id: provider.clone(),
                    model_id: model.unwrap_or_default(),
                };
                let answer = providers.check_provider(request).await?.into_inner();
                match answer.error {
                    _ if answer.working => context.out.line(&format!("{provider} works")),
                    Some(error) => Err(CliError::detail(&error)),
                    None => Err(CliError::new(format!("{provider} does not work; it gave no reason"))),
                }
            }
            ProviderCommand::Add { file, key, replace } => {
                let id = add(context, &mut providers, &file, key, replace).await?;
                context.out.line(&id)?;
                context.out.note(&format!("`gander provider check {id}` tries it"));
                Ok(())
            }
            ProviderCommand::Show { provider } => {
                let request = GetCustomProviderRequest { provider_id: provider };
                let answer = providers.get_custom_provider(request).await?.into_inner();
                context.out.line(&answer.provider.unwrap_or_default().definition_json)
            }
            ProviderCommand::Remove { provider } => {
                let request = DeleteCustomProviderRequest {
                    provider_id: provider.clone(),
                    allow_missing: false,
                    idempotency_key: uuid::Uuid::now_v7().to_string(),
                };
                providers.delete_custom_provider(request).await?;
                context.out.note(&format!("{provider} is gone, and so is its key"));
                Ok(())
            }
            ProviderCommand::SignIn { provider } => sign_in(context, &mut providers, provider).await,
            ProviderCommand::Detect => {
                let api_key = secret_value(context, "Key", None)?;
                let answer = providers.detect_provider(DetectProviderRequest { api_key }).await?.into_inner();
                context.out.line(&answer.provider_id)?;
                context.out.note(&format!("{} models; the key was not stored", answer.models.len()));
                Ok(())
            }
        }
    };
    let result = Box::pin(result).await;
    connected.close().await;
    result.map(|()| exit::OK)
}

/// Defines a provider or replaces its definition; gives its id.
async fn add(
    context: &Context,
    providers: &mut ProviderServiceClient<Transport>,
    file: &Path,
    key: bool,
    replace: Option<String>,
) -> CliResult<String> {
    let definition_json = if file == Path::new("-") {
        if key {
            return Err(CliError::usage("--key: the definition already comes from stdin; name a file"));
        }
        terminal::read_stdin()?
    } else {
        std::fs::read_to_string(context.absolute(file))
            .map_err(|error| CliError::usage(format!("cannot read {}: {error}", file.display())))?
    };
    let api_key = if key { Some(secret_value(context, "Key", None)?) } else { None };
    let idempotency_key = uuid::Uuid::now_v7().to_string();
    let provider = match replace {
        Some(provider_id) => {
            let request =
                UpdateCustomProviderRequest { provider_id, definition_json, api_key, idempotency_key };
            providers.update_custom_provider(request).await?.into_inner().provider
        }
        None => {
            let request = CreateCustomProviderRequest { definition_json, api_key, idempotency_key };
            providers.create_custom_provider(request).await?.into_inner().provider
        }
    };
    Ok(provider.unwrap_or_default().provider_id)
}

/// Shows the page to open and waits until somebody signed in there.
async fn sign_in(
    context: &Context,
    providers: &mut ProviderServiceClient<Transport>,
    provider_id: String,
) -> CliResult<()> {
    let request = AuthenticateProviderRequest { provider_id: provider_id.clone() };
    let mut steps = providers.authenticate_provider(request).await?.into_inner();
    while let Some(answer) = steps.message().await? {
        match answer.step {
            Some(Step::OpenUrl(url)) => context.out.line(&clean(&url))?,
            Some(Step::DeviceCode(code)) => {
                context.out.line(&format!("{} {}", clean(&code.verification_url), clean(&code.user_code)))?;
            }
            Some(Step::StatusText(text)) => context.out.note(&clean(&text)),
            Some(Step::Succeeded(_)) => {
                context.out.note(&format!(
                    "{provider_id} is set up; `gander provider check {provider_id}` tries it"
                ));
                return Ok(());
            }
            Some(Step::Failed(error)) => return Err(CliError::detail(&error)),
            None => {}
        }
    }
    Err(CliError::new(format!("the sign-in at {provider_id} ended without an outcome")).remedy("try again"))
}

fn provider_rows(providers: &[Provider]) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "SET UP", "DEFAULT MODEL", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(providers.iter().map(|provider| {
        let missing: Vec<&str> =
            provider.config_keys.iter().filter(|key| key.required).map(|key| key.key.as_str()).collect();
        let state = match (provider.configured, missing.as_slice()) {
            (true, _) => "yes".to_owned(),
            (false, []) => "no".to_owned(),
            (false, keys) => format!("needs {}", keys.join(", ")),
        };
        let default = match provider.default_model_id.as_str() {
            "" => "-",
            model => model,
        };
        vec![clean(&provider.provider_id), clean(&state), clean(default), clean(&provider.display_name)]
    }));
    rows
}

fn model_rows(models: &[ModelInfo]) -> Vec<Vec<String>> {
    let mut rows = vec![["MODEL", "CONTEXT", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(models.iter().map(|model| {
        let context = model.context_window_tokens.map_or_else(|| "-".to_owned(), human_number);
        vec![clean(&model.model_id), context, clean(&model.display_name)]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::ProviderConfigKey;

    use super::*;

    #[test]
    fn a_provider_tells_what_it_needs() {
        let provider = |configured| Provider {
            provider_id: "openai".to_owned(),
            display_name: "OpenAI".to_owned(),
            configured,
            config_keys: vec![
                ProviderConfigKey {
                    key: "OPENAI_API_KEY".to_owned(),
                    required: true,
                    ..ProviderConfigKey::default()
                },
                ProviderConfigKey { key: "OPENAI_HOST".to_owned(), ..ProviderConfigKey::default() },
            ],
            ..Provider::default()
        };
        let rows = provider_rows(&[provider(true), provider(false)]);
        assert_eq!(rows[1], ["openai", "yes", "-", "OpenAI"]);
        assert_eq!(rows[2], ["openai", "needs OPENAI_API_KEY", "-", "OpenAI"]);
    }
}
