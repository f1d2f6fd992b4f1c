//! Goose's session document from a session of the API.

use gander_formats::session::{Document, Message, ModelConfig};
use gander_proto::v1::{
    ExtensionStatus, GetServerInfoRequest, ListSessionExtensionsRequest, ModelSelection, Session,
    SessionKind, SessionMode, TitleSource, session_option_value,
};
use serde_json::{Map, Value, json};

use crate::{
    App,
    chat::{message::rfc3339, snapshot::Snapshot, translate::total},
    error::ApiError,
    extension, turns,
};

/// What Goose calls a session that nobody named.
pub(crate) const NEW_CHAT: &str = "New Chat";

/// A session without its conversation.
pub(crate) fn document(session: &Session, extensions: Option<&[ExtensionStatus]>) -> Document {
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
        total_tokens: total(&last),
        input_tokens: last.input_tokens,
        output_tokens: last.output_tokens,
        accumulated_total_tokens: total(&totals),
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
        archived_at: session.archive_time.as_ref().map(|time| rfc3339(Some(time))),
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
        request_params: serde_json::from_str(&model.extra_params_json).ok(),
    }
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
pub(crate) fn configurations(extensions: &[ExtensionStatus]) -> Vec<Value> {
    extensions.iter().filter_map(|status| status.config.as_ref()).map(extension::to_json).collect()
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
pub(crate) fn kind_of(word: &str) -> SessionKind {
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

/// Goose writes the model into each session; here one without a model follows the configuration. Shown is the same.
pub(crate) async fn show_default_model(app: &App, document: &mut Document) {
    if document.model_config.is_some() {
        return;
    }
    match app.client().system().get_server_info(GetServerInfoRequest::default()).await {
        Ok(response) => {
            let model = response.into_inner().server_info.and_then(|info| info.default_model);
            document.provider_name = model.as_ref().map(|model| model.provider_id.clone());
            document.model_config = model.as_ref().map(model_config);
        }
        Err(status) => tracing::debug!(%status, "the configured model could not be read"),
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
pub(crate) fn mode_of(word: &str) -> Option<SessionMode> {
    match word {
        "auto" => Some(SessionMode::Auto),
        "approve" => Some(SessionMode::Approve),
        "smart_approve" => Some(SessionMode::SmartApprove),
        "chat" => Some(SessionMode::Chat),
        _ => None,
    }
}

/// The session's extensions.
pub(crate) async fn extensions(app: &App, session_id: &str) -> Result<Vec<ExtensionStatus>, ApiError> {
    let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
    Ok(app.client().extensions().list_session_extensions(request).await?.into_inner().extensions)
}

/// A session with its conversation and its extensions.
pub(crate) async fn whole(app: &App, session_id: &str) -> Result<Document, ApiError> {
    let session = turns::session(app.client(), session_id).await?;
    let extensions = extensions(app, session_id).await?;
    let mut document = document(&session, Some(&extensions));
    document.conversation = Some(conversation(app, session_id).await?);
    show_default_model(app, &mut document).await;
    Ok(document)
}

/// The conversation.
pub(crate) async fn conversation(app: &App, session_id: &str) -> Result<Vec<Message>, ApiError> {
    Ok(Snapshot::read(app.client(), session_id).await?.conversation())
}
