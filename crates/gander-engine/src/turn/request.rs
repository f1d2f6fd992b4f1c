//! What a model call is made of: system prompt, tools, conversation with its contents inline.

use std::sync::Arc;

use gander_domain::{
    ContentId, Item, ItemBody, Part, PartBody, Payload,
    content::{Blob, Data},
    item::NoticeLevel,
    session::{Mode, SessionKind},
    tool::ToolDefinition,
};
use gander_model::ModelRequest;

use super::{Snapshot, TurnResult, TurnTask};
use crate::{
    prompt::{PromptInput, system_prompt, template_name},
    source::civil_date,
};

/// What is read from files for a prompt, once per turn: so that a turn's prompts have one prefix.
#[derive(Default)]
pub(super) struct Material {
    pub hints: String,
    pub template: Option<String>,
    pub template_name: &'static str,
}

impl TurnTask {
    /// The tools that the model may call, in a stable order.
    pub(super) fn tools(&self, snapshot: &Snapshot, mode: Mode) -> Vec<ToolDefinition> {
        if mode == Mode::Chat {
            return Vec::new();
        }
        let mut tools = self.start.extensions.as_ref().map(|e| e.tools()).unwrap_or_default();
        tools.retain(|t| t.visibility.model && !t.quarantined);
        for tool in &snapshot.host_tools {
            if !tools.iter().any(|t| t.name == tool.name) {
                tools.push(tool.clone());
            }
        }
        self.own.add_tools(&mut tools);
        // Extensions become ready in any order; caches want one.
        tools.sort_by(|a, b| a.name.cmp(&b.name));
        tools
    }

    pub(super) async fn read_material(&self, snapshot: &Snapshot) -> TurnResult<Material> {
        let template_name = template_name(snapshot.session.kind == SessionKind::Subagent, self.window());
        let services = self.start.services.clone();
        let directory = std::path::PathBuf::from(&snapshot.session.working_directory);
        let read = tokio::task::spawn_blocking(move || {
            let config_dir = services.config.paths().config_dir();
            let hints = crate::hints::load(config_dir, &directory, &services.hint_names());
            Material { hints, template: services.user_template(template_name), template_name }
        });
        // A panic while reading hints must not cost the turn.
        let mut material = self.unless_cancelled(read).await?.unwrap_or_else(|error| {
            tracing::error!(%error, "hints could not be read");
            Material { hints: String::new(), template: None, template_name }
        });
        self.secrets.clean(&mut material.hints);
        Ok(material)
    }

    pub(super) async fn request(
        &mut self,
        snapshot: &Snapshot,
        mode: Mode,
        tools: &[ToolDefinition],
    ) -> TurnResult<ModelRequest> {
        let material = Arc::clone(&self.material);
        let session = &snapshot.session;
        let (year, month, day) = civil_date(self.start.services.source.now().seconds().div_euclid(86_400));
        let date = format!("{year:04}-{month:02}-{day:02}");
        let mut extensions: Vec<_> = self
            .start
            .extensions
            .as_ref()
            .map(|e| e.statuses().into_iter().map(|s| (s.summary.name, s.instructions)).collect())
            .unwrap_or_default();
        extensions.sort();
        let (system, problem) = system_prompt(&PromptInput {
            working_directory: &session.working_directory,
            additional_directories: &session.additional_directories,
            date: &date,
            os: std::env::consts::OS,
            extensions: &extensions,
            instructions: &session.instructions,
            tools_available: !tools.is_empty(),
            mode,
            template: material.template.as_deref(),
            template_name: material.template_name,
            hints: &material.hints,
        });
        if let Some(text) = problem.filter(|_| self.model_calls == 0) {
            let code = "prompt_template".to_owned();
            self.emit(vec![Payload::StatusNoted { level: NoticeLevel::Warning, code, text }]).await?;
        }
        let selection = &self.start.model.selection;
        Ok(ModelRequest {
            model_id: selection.model_id.clone(),
            system,
            items: self.inline_contents(&snapshot.items).await,
            tools: tools.to_vec(),
            temperature_millis: selection.temperature_millis,
            max_output_tokens: selection.max_output_tokens,
            extra_params_json: selection.extra_params_json.clone(),
            thought_level: selection.thought_level,
        })
    }

    /// Items whose parts are stored beside the log get them inline, as models cannot follow references.
    pub(super) async fn inline_contents(&self, items: &[Arc<Item>]) -> Vec<Arc<Item>> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let mut item = Arc::clone(item);
            if references_content(&item) {
                let edited = Arc::make_mut(&mut item);
                match &mut edited.body {
                    ItemBody::UserMessage(message) => self.inline_parts(&mut message.parts).await,
                    ItemBody::Compaction(compaction) => {
                        self.inline_parts(&mut compaction.summary_parts).await;
                    }
                    ItemBody::ToolCall(call) => {
                        if let Some(result) = &mut call.result {
                            self.inline_parts(&mut result.parts).await;
                        }
                    }
                    _ => {}
                }
            }
            out.push(item);
        }
        out
    }

    async fn inline_parts(&self, parts: &mut [Part]) {
        for part in parts {
            match &mut part.body {
                PartBody::TextContent { content_id, .. } => {
                    let bytes = self.read_content(content_id).await;
                    part.body = PartBody::Text(String::from_utf8_lossy(&bytes).into_owned());
                }
                PartBody::Image { data, .. } | PartBody::Audio { data, .. } => {
                    if let Data::Content(content_id) = data {
                        *data = Data::Inline(Blob(self.read_content(content_id).await));
                    }
                }
                _ => {}
            }
        }
    }

    async fn read_content(&self, content_id: &ContentId) -> Vec<u8> {
        const MAX_BYTES: usize = 32 << 20;
        let store = &self.start.services.store;
        store.read_content(self.start.session.session_id(), content_id, 0, MAX_BYTES).await.unwrap_or_else(
            |error| {
                tracing::warn!(%error, %content_id, "content that a message refers to cannot be read");
                Vec::new()
            },
        )
    }
}

fn references_content(item: &Item) -> bool {
    let parts = match &item.body {
        ItemBody::UserMessage(m) => &m.parts,
        ItemBody::Compaction(c) => &c.summary_parts,
        ItemBody::ToolCall(call) => match &call.result {
            Some(result) => &result.parts,
            None => return false,
        },
        _ => return false,
    };
    parts.iter().any(|p| match &p.body {
        PartBody::TextContent { .. } => true,
        PartBody::Image { data, .. } | PartBody::Audio { data, .. } => matches!(data, Data::Content(_)),
        _ => false,
    })
}
