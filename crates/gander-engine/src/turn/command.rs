//! Turns that a text command starts.

use gander_domain::{
    ErrorDetail, ItemBody, Part, Payload,
    event::{HistoryChange, HistoryChangeKind},
    extension::extension_key,
    item::{AgentMessage, UserMessage, Visibility},
    turn::{StopReason, TurnOutcome},
};
use gander_mcp::{PromptInfo, PromptResult, SessionExtensions};
use serde_json::json;

use super::{TurnResult, TurnTask};
use crate::commands;

/// What a turn does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum TurnWork {
    /// Asks the model until it is done.
    #[default]
    Model,
    /// Summarizes the conversation.
    Compact { instructions: String },
    /// Hides the conversation.
    Clear,
    /// Lists the prompts of extensions.
    Prompts { extension: Option<String> },
    /// Puts a prompt of an extension before the model. Where that is not certain, an unknown name is ordinary text.
    Prompt { name: String, arguments: String, certain: bool },
    /// Puts a recipe before the model.
    Recipe { path: String, arguments: String },
}

impl TurnWork {
    /// Whether the message that starts it is none of the model's business.
    pub(crate) fn hides_input(&self) -> bool {
        matches!(self, Self::Compact { .. } | Self::Clear | Self::Prompts { .. })
    }
}

impl TurnTask {
    pub(super) async fn run_command(&mut self, work: TurnWork) -> TurnResult<StopReason> {
        let begun = self.snapshot().await?.through;
        match work {
            TurnWork::Model => {}
            TurnWork::Compact { .. } | TurnWork::Clear | TurnWork::Prompts { .. } => {
                let stop = match work {
                    TurnWork::Compact { instructions } => self.compact_on_request(&instructions).await?,
                    TurnWork::Prompts { extension } => self.list_prompts(extension.as_deref()).await?,
                    _ => self.clear().await?,
                };
                // What was said meanwhile is for the model.
                if !self.steered_since(begun).await? {
                    return Ok(stop);
                }
            }
            TurnWork::Prompt { name, arguments, certain } => {
                self.await_extensions().await?;
                match self.find_prompt(&name).await? {
                    Some(prompt) => self.use_prompt(&prompt, &arguments).await?,
                    None if certain => return self.unknown_prompt(&name).await,
                    None => {}
                }
            }
            TurnWork::Recipe { path, arguments } => self.use_recipe(&path, &arguments).await?,
        }
        self.loop_calls().await
    }

    /// Text for the user only.
    pub(super) async fn say(&self, text: String) -> TurnResult<StopReason> {
        let body = AgentMessage { parts: vec![Part::text(text)], demo: false };
        let visibility = Visibility { user: true, model: false };
        let item = self.item(ItemBody::AgentMessage(body), visibility);
        self.emit(vec![Payload::ItemCompleted { item: Box::new(item) }]).await?;
        Ok(StopReason::EndTurn)
    }

    async fn clear(&self) -> TurnResult<StopReason> {
        let change = HistoryChange {
            kind: HistoryChangeKind::Cleared,
            visibility_changes: Vec::new(),
            hidden_from_sequence: Some(1),
            summary_item_id: None,
        };
        self.emit(vec![Payload::HistoryChanged(change)]).await?;
        self.say("The conversation was cleared.".to_owned()).await
    }

    /// Prompts of the extensions that are ready.
    async fn prompts(&self) -> TurnResult<Vec<PromptInfo>> {
        let Some(extensions) = &self.start.extensions else { return Ok(Vec::new()) };
        self.unless_cancelled(ready_prompts(extensions)).await
    }

    async fn list_prompts(&self, extension: Option<&str>) -> TurnResult<StopReason> {
        self.await_extensions().await?;
        let mut prompts = self.prompts().await?;
        if let Some(name) = extension {
            let key = extension_key(name);
            prompts.retain(|p| p.extension_name == key);
        }
        let lines: Vec<String> = prompts
            .iter()
            .map(|p| {
                let help = p.description.as_deref().or(p.title.as_deref()).unwrap_or_default();
                format!("- /{} {help}", commands::prompt_command(p)).trim_end().to_owned()
            })
            .collect();
        let text = if lines.is_empty() {
            "No extension of this session has prompts.".to_owned()
        } else {
            lines.join("\n")
        };
        self.say(text).await
    }

    /// By `extension:name`, or by the name alone where one extension only has it.
    async fn find_prompt(&self, name: &str) -> TurnResult<Option<PromptInfo>> {
        let prompts = self.prompts().await?;
        if let Some(exact) = prompts.iter().find(|p| commands::prompt_command(p) == name) {
            return Ok(Some(exact.clone()));
        }
        let mut matching = prompts.into_iter().filter(|p| p.name == name);
        Ok(match (matching.next(), matching.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        })
    }

    async fn unknown_prompt(&self, name: &str) -> TurnResult<StopReason> {
        self.say(format!(
            "There is no prompt {name:?} in this session, or more than one; /prompts lists them."
        ))
        .await
    }

    async fn use_prompt(&self, prompt: &PromptInfo, arguments: &str) -> TurnResult<()> {
        let Some(extensions) = &self.start.extensions else { return Ok(()) };
        let invalid = |text: String| TurnOutcome::Failed(ErrorDetail::invalid("input.parts", text));
        let arguments = match (commands::pairs(arguments), prompt.arguments.as_slice()) {
            (Ok(pairs), _) => json!(pairs).to_string(),
            // One argument needs no name.
            (Err(_), [only]) => json!({ &only.name: arguments }).to_string(),
            (Err(wrong), _) => {
                return Err(invalid(format!(
                    "{wrong:?} is no key=value; the prompt {} takes: {}",
                    prompt.name,
                    prompt.arguments.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ")
                )));
            }
        };
        let got = Box::pin(extensions.get_prompt(&prompt.extension_name, &prompt.name, &arguments));
        let result = self.unless_cancelled(got).await?.map_err(TurnOutcome::Failed)?;
        self.put_before_model(result).await
    }

    async fn put_before_model(&self, prompt: PromptResult) -> TurnResult<()> {
        let visibility = Visibility { user: false, model: true };
        let mut payloads = Vec::new();
        for message in prompt.messages {
            let parts = vec![message.part];
            let body = if message.role == "assistant" {
                ItemBody::AgentMessage(AgentMessage { parts, demo: false })
            } else {
                ItemBody::UserMessage(UserMessage { parts, steered: false })
            };
            payloads.push(Payload::ItemCompleted { item: Box::new(self.item(body, visibility)) });
        }
        Ok(self.emit(payloads).await?)
    }

    async fn use_recipe(&self, path: &str, arguments: &str) -> TurnResult<()> {
        let services = self.start.services.clone();
        let (path, arguments) = (path.to_owned(), arguments.to_owned());
        let rendered = tokio::task::spawn_blocking(move || services.recipe_text(&path, &arguments));
        let rendered = self.unless_cancelled(rendered).await?;
        let text = rendered
            .map_err(|e| TurnOutcome::Failed(ErrorDetail::internal(e.to_string())))?
            .map_err(TurnOutcome::Failed)?;
        let body = ItemBody::UserMessage(UserMessage { parts: vec![Part::text(text)], steered: false });
        let item = self.item(body, Visibility { user: false, model: true });
        Ok(self.emit(vec![Payload::ItemCompleted { item: Box::new(item) }]).await?)
    }
}

/// Prompts of the extensions that are ready; one that fails is passed over.
pub(crate) async fn ready_prompts(extensions: &SessionExtensions) -> Vec<PromptInfo> {
    use gander_domain::extension::ExtensionState as S;
    let mut all = Vec::new();
    for status in extensions.statuses() {
        if !matches!(status.state, S::Ready | S::Degraded) {
            continue;
        }
        match Box::pin(extensions.list_prompts(&status.summary.key)).await {
            Ok(prompts) => all.extend(prompts),
            Err(error) => {
                tracing::debug!(%error, extension = %status.summary.key, "prompts cannot be listed");
            }
        }
    }
    all
}
