//! Goose's document → what the daemon imports.

use std::collections::HashMap;

use gander_proto::v1::{
    ModelSelection, Session, SessionDocument, SessionRecipe, SessionUsage, TitleSource, Usage,
};
use serde_json::Value;

use super::{
    ImportError,
    document::{PROJECT, kind_of, mode_of},
    extension,
    items::history,
    times,
};
use crate::session::Document;

/// A document that was read before, with everything that it tells. The provider and the model stay behind, as with
/// Goose: the importing person may not have them.
///
/// # Errors
/// An extension that cannot be read; the sentence names it.
pub fn import_document(document: &Document) -> Result<SessionDocument, ImportError> {
    let messages = document.conversation.as_deref().unwrap_or_default();
    let extensions = document.enabled_extensions();
    let mut configs = Vec::with_capacity(extensions.len());
    for (index, value) in extensions.iter().enumerate() {
        let below = format!("extension_data[\"enabled_extensions.v0\"].extensions[{index}]");
        configs
            .push(extension::to_proto(value).map_err(|error| ImportError::Extension(error.below(&below)))?);
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
            kind: kind_of(&document.session_type) as i32,
            working_directory: document.working_dir.clone(),
            mode: document.goose_mode.as_deref().and_then(mode_of).map(|mode| mode as i32),
            recipe: recipe(document),
            extension_state_json: state,
            usage: Some(usage(document)),
            create_time: times::parsed(&document.created_at),
            update_time: times::parsed(&document.updated_at),
            schedule_id: document.schedule_id.clone().unwrap_or_default(),
            model: None::<ModelSelection>,
            labels: document.project_id.iter().map(|id| (PROJECT.to_owned(), id.clone())).collect(),
            ..Session::default()
        }),
        items: history(messages, true),
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
