//! Settings of the loop, read from the configuration each time, so that a change counts at once.

use gander_config::Config;
use gander_domain::session::{ModelSelection, ThoughtLevel};
use gander_model::ModelProvider;

use crate::{hints, models::ResolvedModel, redact::SecretFilter, services::Services};

/// Part of the context window that is used before the conversation is summarized.
const COMPACTION_THRESHOLD: f64 = 0.8;
/// Longest text of a tool's result that a model is given whole, in bytes.
const MAX_TOOL_OUTPUT: usize = 200_000;
const MAX_REPEATS: usize = 3;
/// From how many equal calls on somebody is asked.
const REPEATS_KEY: &str = "gander.max_tool_repetitions";
/// Whether commands run in terminals of an attached editor.
const TERMINALS_KEY: &str = "gander.editor_terminals";
/// Asks the model about calls whose tools do not say that they only read.
const JUDGE_KEY: &str = "gander.permission_judge";

/// Limits of the model where the choice itself says nothing. Values that make no sense are passed over.
pub(crate) fn complete_selection(
    config: &Config,
    provider: &dyn ModelProvider,
    selection: &mut ModelSelection,
) {
    let count = |key: &str| config.get_u64(key).ok().flatten().filter(|n| *n > 0);
    selection.context_limit = selection.context_limit.or_else(|| count("GOOSE_CONTEXT_LIMIT"));
    selection.max_output_tokens = selection.max_output_tokens.or_else(|| count("GOOSE_MAX_TOKENS"));
    let temperature = config.get_f64("GOOSE_TEMPERATURE").ok().flatten().filter(|t| (0.0..=2.0).contains(t));
    selection.temperature_millis =
        selection.temperature_millis.or_else(|| temperature.map(|t| (t * 1000.0).round() as u32));
    // Models that nobody knows are not told what was meant for others.
    if selection.thought_level.is_none() && provider.can_choose_thoughts(&selection.model_id) {
        selection.thought_level = thought_level(config);
    }
}

/// The configured level, for models that can choose.
fn thought_level(config: &Config) -> Option<ThoughtLevel> {
    let level = config.get_string("GOOSE_THINKING_EFFORT").ok().flatten()?;
    ThoughtLevel::parse(&level.trim().to_ascii_lowercase())
}

impl Services {
    fn number(&self, key: &str) -> Option<f64> {
        self.config.current().get_f64(key).ok().flatten()
    }

    fn flag(&self, key: &str) -> bool {
        self.config.current().get_bool(key).ok().flatten().unwrap_or(false)
    }

    /// Share of the context window, in 0..1; `None`: conversations are not summarized by themselves. Goose's key: values
    /// outside of 0..1 switch it off.
    pub(crate) fn compaction_threshold(&self) -> Option<f64> {
        let threshold = self.number("GOOSE_AUTO_COMPACT_THRESHOLD").unwrap_or(COMPACTION_THRESHOLD);
        (threshold > 0.0 && threshold < 1.0).then_some(threshold)
    }

    /// Longest text of a tool's result, in bytes; longer ones go to a file.
    pub(crate) fn max_tool_output(&self) -> usize {
        let configured = self.config.current().get_u64("GOOSE_MAX_TOOL_RESPONSE_SIZE").ok().flatten();
        let size = configured.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        size.unwrap_or(MAX_TOOL_OUTPUT).clamp(1_000, crate::content::MAX_INLINE_BYTES)
    }

    /// The same call with the same result, one after the other: the one with this number is not just run. 0: it is.
    pub(crate) fn max_repeats(&self) -> usize {
        let configured = self.config.current().get_u64(REPEATS_KEY).ok().flatten();
        configured.and_then(|n| usize::try_from(n).ok()).unwrap_or(MAX_REPEATS)
    }

    /// Whether the model is asked in mode smart_approve if a call only reads.
    pub(crate) fn permission_judge(&self) -> bool {
        self.flag(JUDGE_KEY)
    }

    /// Whether an attached host may run commands. The host itself knows when not to offer it.
    pub(crate) fn editor_terminals(&self) -> bool {
        let configured = self.config.current().get_string(TERMINALS_KEY).ok().flatten();
        configured.is_none_or(|value| value.trim() != "never")
    }

    /// Whether the model names sessions.
    pub(crate) fn names_sessions(&self) -> bool {
        self.options.generate_titles && !self.flag("GOOSE_DISABLE_SESSION_NAMING")
    }

    /// Names of hint files: a list, or text that holds a list in JSON or names with commas between them.
    pub(crate) fn hint_names(&self) -> Vec<String> {
        let config = self.config.current();
        let list = match config.get_as::<Vec<String>>(hints::NAMES_KEY) {
            Ok(list) => list,
            Err(_) => config.get_string(hints::NAMES_KEY).ok().flatten().map(|text| {
                serde_json::from_str(&text)
                    .unwrap_or_else(|_| text.split(',').map(|name| name.trim().to_owned()).collect())
            }),
        };
        list.unwrap_or_else(|| hints::DEFAULT_NAMES.map(str::to_owned).to_vec())
    }

    /// The model for small tasks, such as a title: the configured one of the same provider, else the model itself.
    pub(crate) fn small_model(&self, model: &ResolvedModel) -> ResolvedModel {
        let config = self.config.current();
        let id = config.get_string("GOOSE_FAST_MODEL").ok().flatten();
        let mut small = model.clone();
        if let Some(id) = id.filter(|id| !id.is_empty() && config.policy().check_model(id).is_ok()) {
            small.selection.model_id = id;
            small.selection.context_limit = None;
        }
        small
    }

    /// What must not get into a log.
    pub(crate) fn secret_filter(&self) -> SecretFilter {
        SecretFilter::new(&self.config.secret_values())
    }
}
