//! A session of the API as Goose's document.

use gander_proto::v1::{
    Cost, ExtensionStatus, ModelSelection, Session, SessionKind, SessionMode, ThoughtLevel, TitleSource,
    Usage, session_option_value,
};
use serde_json::{Map, Value, json};

use super::{extension::to_json, times::rfc3339};
use crate::session::{Document, ModelConfig};

/// What Goose calls a session that nobody named.
pub const NEW_CHAT: &str = "New Chat";

/// The label of a session's project.
pub const PROJECT: &str = "goose.project_id";

/// A session without its conversation.
pub fn document(session: &Session, extensions: Option<&[ExtensionStatus]>) -> Document {
    let usage = session.usage.clone().unwrap_or_default();
    let (last, totals) = (usage.last_call.unwrap_or_default(), usage.totals.unwrap_or_default());
    let recipe = session.recipe.as_ref();
    let values = recipe.filter(|recipe| !recipe.values.is_empty()).map(|recipe| {
        let mut values: Vec<_> = recipe.values.iter().collect();
        values.sort();
        values.into_iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
    });
    let name = if session.title.is_empty() { NEW_CHAT } else { &session.title };
    Document {
        id: session.session_id.clone(),
        working_dir: session.working_directory.clone(),
        name: name.to_owned(),
        user_set_name: session.title_source() == TitleSource::User,
        session_type: kind_word(session.kind()).to_owned(),
        created_at: rfc3339(session.create_time.as_ref()),
        updated_at: rfc3339(session.update_time.as_ref()),
        extension_data: extension_data(session, extensions),
        total_tokens: total_tokens(&last),
        input_tokens: last.input_tokens,
        output_tokens: last.output_tokens,
        accumulated_total_tokens: total_tokens(&totals),
        accumulated_input_tokens: totals.input_tokens,
        accumulated_output_tokens: totals.output_tokens,
        schedule_id: (!session.schedule_id.is_empty()).then(|| session.schedule_id.clone()),
        recipe: recipe.and_then(|recipe| serde_json::from_str(&recipe.recipe_json).ok()),
        user_recipe_values: values,
        conversation: None,
        message_count: i64::from(session.message_count),
        provider_name: session.model.as_ref().map(|model| model.provider_id.clone()),
        model_config: session.model.as_ref().map(model_config),
        goose_mode: mode(session),
        accumulated_cost: usage.cost_totals.as_ref().and_then(dollars),
        project_id: session.labels.get(PROJECT).cloned(),
        archived_at: session.archive_time.as_ref().map(|time| rfc3339(Some(time))),
    }
}

/// The total as reported, else the sum of what was.
#[must_use]
pub fn total_tokens(usage: &Usage) -> Option<i64> {
    match (usage.total_tokens, usage.input_tokens, usage.output_tokens) {
        (Some(total), ..) => Some(total),
        (None, None, None) => None,
        (None, input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
    }
}

/// An amount in US dollars, the one currency that Goose counts in.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "what a session costs is far below 2^53 millionths")]
pub fn dollars(cost: &Cost) -> Option<f64> {
    (cost.currency == "USD").then_some(cost.amount_micros as f64 / 1_000_000.0)
}

/// Shows the model that a session without one of its own follows: Goose writes a model into each session.
pub fn follow_model(document: &mut Document, configured: Option<&ModelSelection>) {
    if document.model_config.is_none() {
        document.provider_name = configured.map(|model| model.provider_id.clone());
        document.model_config = configured.map(model_config);
    }
}

fn model_config(model: &ModelSelection) -> ModelConfig {
    ModelConfig {
        model_name: model.model_id.clone(),
        context_limit: model.context_limit,
        temperature: model.temperature,
        max_tokens: model.max_output_tokens,
        toolshim: false,
        toolshim_model: None,
        request_params: request_params(model),
    }
}

/// A model's extra parameters; Goose keeps the thought level among them.
fn request_params(model: &ModelSelection) -> Option<Value> {
    let params = serde_json::from_str(&model.extra_params_json).ok();
    let level = model.thought_level();
    if level == ThoughtLevel::Unspecified {
        return params;
    }
    let mut params = params.unwrap_or_else(|| json!({}));
    if let Value::Object(params) = &mut params {
        let word = level.as_str_name().trim_start_matches("THOUGHT_LEVEL_").to_ascii_lowercase();
        params.entry("thinking_effort").or_insert_with(|| word.into());
    }
    Some(params)
}

fn extension_data(session: &Session, extensions: Option<&[ExtensionStatus]>) -> Map<String, Value> {
    let mut state: Vec<_> = session.extension_state_json.iter().collect();
    state.sort();
    let mut data: Map<String, Value> = state
        .into_iter()
        .filter_map(|(key, json)| Some((key.clone(), serde_json::from_str(json).ok()?)))
        .collect();
    if let Some(extensions) = extensions {
        data.insert("enabled_extensions.v0".to_owned(), json!({"extensions": configurations(extensions)}));
    }
    data
}

/// The configurations of a session's extensions. Values that may be secret are withheld by the daemon.
pub fn configurations(extensions: &[ExtensionStatus]) -> Vec<Value> {
    extensions.iter().filter_map(|status| status.config.as_ref()).map(to_json).collect()
}

fn kind_word(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Unspecified | SessionKind::User => "user",
        SessionKind::Scheduled => "scheduled",
        SessionKind::Subagent => "sub_agent",
        SessionKind::Hidden => "hidden",
        SessionKind::Terminal => "terminal",
    }
}

/// The kind for Goose's word; its later words are kinds of conversations.
pub fn kind_of(word: &str) -> SessionKind {
    match word {
        "scheduled" => SessionKind::Scheduled,
        "sub_agent" => SessionKind::Subagent,
        "hidden" => SessionKind::Hidden,
        "terminal" => SessionKind::Terminal,
        _ => SessionKind::User,
    }
}

/// The session's own mode, else the one that it follows.
fn mode(session: &Session) -> Option<String> {
    if let Some(mode) = session.mode {
        return SessionMode::try_from(mode).ok().and_then(mode_word);
    }
    let option = session.options.iter().find(|option| option.option_id == "mode")?;
    match option.value.as_ref()?.value.as_ref()? {
        session_option_value::Value::Choice(word) => mode_of(word).and_then(mode_word),
        session_option_value::Value::Enabled(_) => None,
    }
}

fn mode_word(mode: SessionMode) -> Option<String> {
    let word = match mode {
        SessionMode::Unspecified => return None,
        SessionMode::Auto => "auto",
        SessionMode::Approve => "approve",
        SessionMode::SmartApprove => "smart_approve",
        SessionMode::Chat => "chat",
    };
    Some(word.to_owned())
}

/// The mode for Goose's word.
pub fn mode_of(word: &str) -> Option<SessionMode> {
    match word {
        "auto" => Some(SessionMode::Auto),
        "approve" => Some(SessionMode::Approve),
        "smart_approve" => Some(SessionMode::SmartApprove),
        "chat" => Some(SessionMode::Chat),
        _ => None,
    }
}
