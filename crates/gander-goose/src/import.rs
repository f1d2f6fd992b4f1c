//! A document of Goose → what the daemon imports.

use std::collections::HashMap;

use gander_formats::session::Document;
use gander_proto::v1::{
    ModelSelection, Session, SessionDocument, SessionRecipe, SessionUsage, TitleSource, Usage,
};
use prost_types::Timestamp;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{chat::input, extension, session};

/// The document with everything that it tells. The provider and the model stay behind, as with Goose: the importing
/// person may not have them.
///
/// # Errors
/// An extension that cannot be read; the sentence names it.
pub fn document(document: &Document) -> Result<SessionDocument, String> {
    let messages = document.conversation.as_deref().unwrap_or_default();
    let extensions = document.enabled_extensions();
    let mut configs = Vec::with_capacity(extensions.len());
    for (index, value) in extensions.iter().enumerate() {
        let config = extension::to_proto(value).map_err(|error| {
            format!("extension_data[\"enabled_extensions.v0\"].extensions[{index}].{error}")
        })?;
        configs.push(config);
    }
    let state: HashMap<String, String> = document
        .extension_data
        .iter()
        .filter(|(key, _)| key.as_str() != "enabled_extensions.v0")
        .map(|(key, value)| (key.clone(), value.to_string()))
        .collect();
    let title_source = if document.user_set_name { TitleSource::User } else { TitleSource::Generated };
    Ok(SessionDocument {
        session: Some(Session {
            session_id: document.id.clone(),
            title: document.name.clone(),
            title_source: title_source as i32,
            kind: session::kind_of(&document.session_type) as i32,
            working_directory: document.working_dir.clone(),
            mode: document.goose_mode.as_deref().and_then(session::mode_of).map(|mode| mode as i32),
            recipe: recipe(document),
            extension_state_json: state,
            usage: Some(usage(document)),
            create_time: time(&document.created_at),
            update_time: time(&document.updated_at),
            schedule_id: document.schedule_id.clone().unwrap_or_default(),
            model: None::<ModelSelection>,
            ..Session::default()
        }),
        items: input::items(messages, true),
        format: "goose".to_owned(),
        extensions: configs,
    })
}

fn recipe(document: &Document) -> Option<SessionRecipe> {
    let recipe = document.recipe.as_ref()?;
    let values = document.user_recipe_values.clone().unwrap_or_default();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Some(SessionRecipe {
        recipe_json: recipe.to_string(),
        recipe_id: String::new(),
        values: values.into_iter().map(|(key, value)| (key, text(value))).collect(),
    })
}

fn usage(document: &Document) -> SessionUsage {
    let usage = |input, output, total| Usage {
        input_tokens: input,
        output_tokens: output,
        total_tokens: total,
        ..Usage::default()
    };
    SessionUsage {
        last_call: Some(usage(document.input_tokens, document.output_tokens, document.total_tokens)),
        totals: Some(usage(
            document.accumulated_input_tokens,
            document.accumulated_output_tokens,
            document.accumulated_total_tokens,
        )),
        cost_totals: None,
    }
}

fn time(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond()).ok()? })
}
