//! Providers and settings, as far as the engine itself decides about them.

use std::sync::Arc;

use futures::StreamExt as _;
use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, Part, Session, SessionId,
    item::{ItemState, Origin, UserMessage, Visibility},
    session::{Mode, ModelSelection, OptionChoice, SessionOption, ThoughtLevel},
};
use gander_model::{ModelInfo, ModelRequest, ProviderInfo};

use super::{Engine, Recorded, RequestContext, SessionPatch};
use crate::{
    models::ResolvedModel,
    source::Mint,
    turn::{OPTION_PREFIX, set_agent_option},
};

impl Engine {
    /// The configuration that this engine works with.
    pub fn config(&self) -> &gander_config::ConfigHandle {
        &self.services.config
    }

    pub(crate) fn services(&self) -> &crate::services::Services {
        &self.services
    }

    /// Providers with whether they are configured.
    pub fn providers(&self) -> Vec<(ProviderInfo, bool)> {
        self.services.models.providers()
    }

    /// The model that a new session would use, and why. Blocks while servers on this machine are looked for.
    pub fn default_model(&self, demo_allowed: bool) -> Result<ResolvedModel, ErrorDetail> {
        self.services.models.resolve(None, demo_allowed)
    }

    /// Models of a provider: what is known without a call, or (`live`) what the provider itself lists.
    pub async fn list_models(&self, provider_id: &str, live: bool) -> Result<Vec<ModelInfo>, ErrorDetail> {
        if !live {
            let known = self.providers().into_iter().find(|(info, _)| info.provider_id == provider_id);
            return known.map(|(info, _)| info.models).ok_or_else(|| provider_not_found(provider_id));
        }
        let provider = self.services.models.provider(provider_id)?;
        let call = tokio::time::timeout(std::time::Duration::from_secs(30), provider.list_models()).await;
        call.map_err(|_| provider_timeout(provider_id))?.map_err(|e| e.to_detail(provider_id))
    }

    /// Proves that a provider can be used; with a model by a call of it, which costs a few tokens.
    pub async fn check_provider(&self, provider_id: &str, model_id: &str) -> Result<(), ErrorDetail> {
        let provider = self.services.models.provider(provider_id)?;
        let check = async {
            provider.check().await?;
            if model_id.is_empty() {
                return Ok(());
            }
            let source = &self.services.source;
            let item = Item {
                item_id: source.item_id(),
                turn_id: None,
                message_id: source.message_id(),
                body: ItemBody::UserMessage(UserMessage {
                    parts: vec![Part::text("Answer with the word OK.")],
                    steered: false,
                }),
                state: ItemState::Completed,
                incomplete: false,
                visibility: Visibility::default(),
                origin: Origin::Client,
                create_time: source.now(),
                client_create_time: None,
                complete_time: None,
                redacted: false,
                model_id: None,
                provider_state_json: None,
            };
            let request = ModelRequest {
                model_id: model_id.to_owned(),
                system: String::new(),
                items: vec![Arc::new(item)],
                tools: Vec::new(),
                temperature_millis: None,
                // Room for models that think before they speak.
                max_output_tokens: Some(1024),
                extra_params_json: None,
                thought_level: None,
            };
            let mut stream = provider.stream(request);
            while let Some(event) = stream.next().await {
                event?;
            }
            Ok(())
        };
        let call = tokio::time::timeout(std::time::Duration::from_secs(30), check).await;
        call.map_err(|_| provider_timeout(provider_id))?
            .map_err(|e: gander_model::ModelError| e.to_detail(provider_id))
    }

    pub(super) fn check_model_policy(&self, model: &ModelSelection) -> Result<(), ErrorDetail> {
        let config = self.services.config.current();
        let policy = config.policy();
        let denied =
            |e: gander_config::ConfigError| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string());
        if !model.provider_id.is_empty() {
            policy.check_provider(&model.provider_id).map_err(denied)?;
        }
        if !model.model_id.is_empty() {
            policy.check_model(&model.model_id).map_err(denied)?;
        }
        Ok(())
    }

    /// Settings of the session; an agent's own (as it last said) in place of the model where there is one.
    pub(super) async fn options_of(&self, session: &Session) -> Vec<SessionOption> {
        let mode = session.mode.unwrap_or_else(|| self.services.configured_mode());
        let resolved = self.services.resolve_model(session.model.as_ref(), session.demo_allowed).await;
        if resolved.as_ref().is_ok_and(|model| model.provider.agent().is_some()) {
            // Only of a session that is loaded: to look at one must not load it.
            let mut told = Vec::new();
            if let Some(handle) = self.loaded(&session.session_id).await
                && let Ok(Ok(read)) = handle.edit(|core| Ok(core.state.options.clone())).await
            {
                told = read.value;
            }
            told.retain(|option| option.option_id.starts_with(OPTION_PREFIX));
            return std::iter::once(mode_option(mode)).chain(told).collect();
        }
        let mut options = vec![mode_option(mode)];
        if let Ok(resolved) = resolved {
            let info = resolved.provider.info();
            let provider = provider_option(info, self.providers());
            let current = resolved.selection.model_id.clone();
            let mut choices: Vec<_> = info
                .models
                .iter()
                .map(|m| OptionChoice {
                    value: m.model_id.clone(),
                    name: m.display_name.clone(),
                    description: String::new(),
                })
                .collect();
            if !choices.iter().any(|c| c.value == current) {
                choices.insert(
                    0,
                    OptionChoice {
                        value: current.clone(),
                        name: current.clone(),
                        description: String::new(),
                    },
                );
            }
            options.push(SessionOption {
                option_id: "model".to_owned(),
                name: "Model".to_owned(),
                description: format!("Model of {}", info.display_name),
                category: "model".to_owned(),
                kind: "select".to_owned(),
                value: current,
                choices,
            });
            if resolved.provider.can_choose_thoughts(&resolved.selection.model_id) {
                options.push(thought_option(session.model.as_ref().and_then(|model| model.thought_level)));
            }
            options.push(provider);
        }
        options
    }

    /// Sets one of the session's options; gives all of them.
    pub async fn set_session_option(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        option_id: &str,
        value: &str,
    ) -> Result<Recorded<Vec<SessionOption>>, ErrorDetail> {
        let session = self.session(session_id).await?;
        if let Some(agents_id) = option_id.strip_prefix(OPTION_PREFIX) {
            return self.set_agents_option(context, &session, agents_id, value).await;
        }
        let options = self.options_of(&session).await;
        let Some(option) = options.iter().find(|o| o.option_id == option_id) else {
            let known: Vec<_> = options.iter().map(|o| o.option_id.as_str()).collect();
            return Err(ErrorDetail::invalid("option_id", format!("must be one of {}", known.join(", "))));
        };
        let mut patch = SessionPatch::default();
        if option_id == "mode" {
            let mode = Mode::parse(value).ok_or_else(|| {
                let choices: Vec<_> = option.choices.iter().map(|c| c.value.as_str()).collect();
                ErrorDetail::invalid("value.choice", format!("must be one of {}", choices.join(", ")))
            })?;
            patch.mode = Some(Some(mode));
        } else if option_id == PROVIDER {
            if !option.choices.iter().any(|choice| choice.value == value) {
                let choices: Vec<_> = option.choices.iter().map(|c| c.value.as_str()).collect();
                let text = format!("must be a provider that is set up: {}", choices.join(", "));
                return Err(ErrorDetail::invalid("value.choice", text));
            }
            // Its models are others: it begins with its default one.
            let selection = ModelSelection { provider_id: value.to_owned(), ..ModelSelection::default() };
            let other = self.services.resolve_model(Some(&selection), session.demo_allowed).await?;
            let thought_level = kept_level(&session, &other, &other.selection.model_id);
            patch.model = Some(Some(ModelSelection { thought_level, ..selection }));
        } else if option_id == THOUGHT_LEVEL {
            let thought_level = ThoughtLevel::parse(value);
            if thought_level.is_none() && value != DEFAULT_LEVEL {
                let choices: Vec<_> = option.choices.iter().map(|c| c.value.as_str()).collect();
                let text = format!("must be one of {}", choices.join(", "));
                return Err(ErrorDetail::invalid("value.choice", text));
            }
            let own = match session.model {
                Some(own) => own,
                // Nothing that only the configuration says becomes the session's own.
                None => {
                    let resolved = self.services.resolve_model(None, session.demo_allowed).await?;
                    let ModelSelection { provider_id, model_id, .. } = resolved.selection;
                    ModelSelection { provider_id, model_id, ..ModelSelection::default() }
                }
            };
            patch.model = Some(Some(ModelSelection { thought_level, ..own }));
        } else {
            let resolved = self.services.resolve_model(session.model.as_ref(), session.demo_allowed).await?;
            let thought_level = kept_level(&session, &resolved, value);
            let selection =
                ModelSelection { model_id: value.to_owned(), thought_level, ..resolved.selection };
            patch.model = Some(Some(selection));
        }
        let done = self.update_session(context, session_id, patch).await?;
        Ok(Recorded { value: self.options_of(&done.value).await, sequence: done.sequence })
    }

    /// Sets one of the agent's settings: at once where it runs, else when it is started next.
    async fn set_agents_option(
        &self,
        context: &RequestContext,
        session: &Session,
        option_id: &str,
        value: &str,
    ) -> Result<Recorded<Vec<SessionOption>>, ErrorDetail> {
        let model = self.services.resolve_model(session.model.as_ref(), session.demo_allowed).await?;
        let provider_id = &model.selection.provider_id;
        let session_id = &session.session_id;
        let (id, wanted) = (option_id.to_owned(), value.to_owned());
        self.edit(session_id, move |core| core.check_agent_option(&id, &wanted)).await?;
        let options = set_agent_option(&self.services, session_id, provider_id, option_id, value).await?;
        let (by, id, value) = (context.actor.clone(), option_id.to_owned(), value.to_owned());
        let done = self
            .edit(session_id, move |core| {
                core.act_as(by);
                core.show_agent_options(options, &id, &value);
                Ok(())
            })
            .await?;
        Ok(Recorded { value: self.options_of(session).await, sequence: done.sequence })
    }
}

/// Id of the setting that chooses among the providers that are set up.
const PROVIDER: &str = "provider";

/// Id and category of the setting for how much the model thinks.
const THOUGHT_LEVEL: &str = "thought_level";
/// Its value where the session sets none.
const DEFAULT_LEVEL: &str = "default";

/// The session's own level, if the next model takes one.
fn kept_level(session: &Session, next: &ResolvedModel, model_id: &str) -> Option<ThoughtLevel> {
    let own = session.model.as_ref().and_then(|model| model.thought_level);
    own.filter(|_| next.provider.can_choose_thoughts(model_id))
}

/// How much the model thinks, as a setting.
fn thought_option(own: Option<ThoughtLevel>) -> SessionOption {
    let choice = |value: &str, name: &str, description: &str| OptionChoice {
        value: value.to_owned(),
        name: name.to_owned(),
        description: description.to_owned(),
    };
    let level = |level: ThoughtLevel, name, description| choice(level.as_str(), name, description);
    SessionOption {
        option_id: THOUGHT_LEVEL.to_owned(),
        name: "Thinking".to_owned(),
        description: "How much the model thinks before it speaks".to_owned(),
        category: THOUGHT_LEVEL.to_owned(),
        kind: "select".to_owned(),
        value: own.map_or(DEFAULT_LEVEL, ThoughtLevel::as_str).to_owned(),
        choices: vec![
            choice(DEFAULT_LEVEL, "Default", "As configured, else as the provider does"),
            level(ThoughtLevel::Off, "Off", "As little as the model allows"),
            level(ThoughtLevel::Low, "Low", "Little"),
            level(ThoughtLevel::Medium, "Medium", "Some"),
            level(ThoughtLevel::High, "High", "Much"),
            level(ThoughtLevel::Max, "Max", "As much as the model allows"),
        ],
    }
}

/// The provider as a setting: those that are set up, and the current one.
fn provider_option(current: &ProviderInfo, all: Vec<(ProviderInfo, bool)>) -> SessionOption {
    let usable = all.into_iter().filter(|(info, set_up)| *set_up || info.provider_id == current.provider_id);
    let choices = usable.map(|(info, _)| OptionChoice {
        value: info.provider_id,
        name: info.display_name,
        description: String::new(),
    });
    let mut choices: Vec<_> = choices.collect();
    if !choices.iter().any(|choice| choice.value == current.provider_id) {
        let (value, name) = (current.provider_id.clone(), current.display_name.clone());
        choices.insert(0, OptionChoice { value, name, description: String::new() });
    }
    SessionOption {
        option_id: PROVIDER.to_owned(),
        name: "Provider".to_owned(),
        description: "Where the model runs; another one begins with its default model".to_owned(),
        category: "model_config".to_owned(),
        kind: "select".to_owned(),
        value: current.provider_id.clone(),
        choices,
    }
}

/// gander's own mode as a setting.
pub(crate) fn mode_option(mode: Mode) -> SessionOption {
    let choice = |mode: Mode, name: &str, description: &str| OptionChoice {
        value: mode.as_str().to_owned(),
        name: name.to_owned(),
        description: description.to_owned(),
    };
    SessionOption {
        option_id: "mode".to_owned(),
        name: "Mode".to_owned(),
        description: "When tools may run without a question".to_owned(),
        category: "mode".to_owned(),
        kind: "select".to_owned(),
        value: mode.as_str().to_owned(),
        choices: vec![
            choice(Mode::Auto, "Auto", "Every tool runs without a question"),
            choice(Mode::SmartApprove, "Smart approve", "Read-only tools run, the others ask"),
            choice(Mode::Approve, "Approve", "Every tool asks first"),
            choice(Mode::Chat, "Chat", "No tools"),
        ],
    }
}

pub(super) fn provider_not_found(provider_id: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ProviderNotFound,
        format!("provider {provider_id:?} is not known; `gander provider list` shows those that are"),
    )
    .with("providerId", provider_id)
}

fn provider_timeout(provider_id: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ProviderUnavailable,
        format!("provider {provider_id} did not answer within 30 s"),
    )
    .with("providerId", provider_id)
}
