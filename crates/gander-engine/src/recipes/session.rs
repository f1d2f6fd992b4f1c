//! What a session gets from its recipe.
//!
//! The session's first event holds the recipe before and after its variables were filled in, so that a fork, an
//! export and a restart need no file. Instructions become a piece of the system prompt under the key `recipe`.

use std::path::Path;

use gander_domain::{
    ErrorDetail, ErrorReason, Session,
    extension::{ExtensionConfig, ExtensionOrigin},
    session::{Instruction, ModelSelection, SessionRecipe},
};
use gander_formats::recipe::{RECIPE_DIR, Recipe};

use super::{
    Resolved,
    resolve::{fill_document, parameters_missing},
};
use crate::engine::{ExtensionSelection, NewSession, StartTurn};

/// Keys of the pieces of system prompt that a recipe gives.
const INSTRUCTIONS: &str = "recipe";
const FINAL_OUTPUT: &str = "final_output";

/// What a recipe changes in a session that exists.
pub(crate) struct Given {
    pub recipe: SessionRecipe,
    pub instructions: Vec<Instruction>,
    /// `Some`: these extensions and no others.
    pub extensions: Option<ExtensionSelection>,
}

impl Given {
    fn of(resolved: &Resolved, added: Vec<ExtensionConfig>) -> Self {
        let rendered = resolved.rendered.as_ref();
        let listed = rendered.and_then(|r| r.extensions.clone());
        Self {
            recipe: SessionRecipe {
                recipe_json: resolved.document.to_string(),
                recipe_id: resolved.recipe_id.clone(),
                values: resolved.values.clone(),
                rendered_json: rendered.map(|r| r.document().to_string()),
            },
            instructions: rendered.map(instructions).unwrap_or_default(),
            extensions: listed.map(|list| ExtensionSelection {
                exactly: Some(Vec::new()),
                add: list.into_iter().chain(added).collect(),
                add_origin: Some(ExtensionOrigin::Recipe),
            }),
        }
    }

    /// Other values for the recipe of a session.
    pub(crate) fn again(session: &Session, mut wanted: SessionRecipe) -> Result<Self, ErrorDetail> {
        if let Some(directory) = session.recipe.as_ref().and_then(|r| r.values.get(RECIPE_DIR)) {
            wanted.values.insert(RECIPE_DIR.to_owned(), directory.clone());
        }
        let document = serde_json::from_str(&wanted.recipe_json)
            .map_err(|_| ErrorDetail::new(ErrorReason::RecipeInvalid, "the session's recipe is no JSON"))?;
        let directory = Path::new(&session.working_directory);
        let resolved = fill_document(document, wanted.values, wanted.recipe_id, directory)?;
        resolved.ready()?;
        Ok(Self::of(&resolved, Vec::new()))
    }

    /// Puts the pieces of system prompt where those of before were.
    pub(crate) fn place(&self, instructions: &mut Vec<Instruction>) {
        instructions.retain(|i| i.key != INSTRUCTIONS && i.key != FINAL_OUTPUT);
        instructions.extend(self.instructions.iter().cloned());
    }
}

/// What a recipe says about each turn, where the request for the turn does not, and the request's own schema.
///
/// # Errors
/// `RECIPE_PARAMETERS_MISSING`; a schema that is not usable.
pub(crate) fn apply_to_turn(
    session: &Session,
    model: &mut ModelSelection,
    turn: &mut StartTurn,
) -> Result<(), ErrorDetail> {
    if let Some(text) = &turn.response_schema_json {
        let invalid = |why: String| ErrorDetail::invalid("response_schema_json", why);
        let schema = serde_json::from_str(text).map_err(|e| invalid(format!("must be JSON: {e}")))?;
        gander_formats::recipe::check_schema(&schema)
            .map_err(|why| invalid(format!("is no usable schema: {why}")))?;
    }
    let Some(recipe) = parsed(session)? else { return Ok(()) };
    if turn.limits.max_model_calls.is_none() {
        turn.limits.max_model_calls = recipe.settings.max_turns.filter(|n| *n > 0);
    }
    if model.temperature_millis.is_none() {
        let millis = recipe.settings.temperature.map(|t| (t.min(100.0) * 1000.0).round() as u32);
        model.temperature_millis = millis;
    }
    Ok(())
}

/// Puts back what a recipe gave and a client's list of pieces does not name.
pub(crate) fn keep_pieces(before: &[Instruction], now: &mut Vec<Instruction>) {
    for piece in before.iter().filter(|i| i.key == INSTRUCTIONS || i.key == FINAL_OUTPUT) {
        if !now.iter().any(|i| i.key == piece.key) {
            now.push(piece.clone());
        }
    }
}

fn instructions(recipe: &Recipe) -> Vec<Instruction> {
    let piece = |key: &str, text: String| Instruction { key: key.to_owned(), text, replace: false };
    let said = recipe.instructions.as_ref().filter(|t| !t.trim().is_empty());
    let mut pieces: Vec<_> = said.map(|text| piece(INSTRUCTIONS, text.clone())).into_iter().collect();
    if recipe.response_schema.is_some() {
        let text = format!(
            "When the work is done, give the final answer with the tool {}: its arguments must match the tool's \
             schema. An answer in plain text does not count.",
            crate::turn::FINAL_OUTPUT_TOOL
        );
        pieces.push(piece(FINAL_OUTPUT, text));
    }
    pieces
}

/// Puts a recipe into the request for a session: what the request itself says stays, but for the extensions.
pub(crate) fn apply(new: &mut NewSession, resolved: &Resolved) {
    let given = Given::of(resolved, new.extensions.add.clone());
    given.place(&mut new.instructions);
    if let Some(extensions) = given.extensions {
        new.extensions = extensions;
    }
    new.recipe = Some(given.recipe);
    let before = resolved.document.get("title").and_then(|t| t.as_str()).filter(|t| !t.contains("{{"));
    if new.title.is_empty() {
        new.title =
            resolved.rendered.as_ref().map(|r| r.title.as_str()).or(before).unwrap_or_default().to_owned();
    }
    let Some(recipe) = &resolved.rendered else { return };
    let settings = &recipe.settings;
    if new.model.is_none() && (settings.provider.is_some() || settings.model.is_some()) {
        new.model = Some(ModelSelection {
            provider_id: settings.provider.clone().unwrap_or_default(),
            model_id: settings.model.clone().unwrap_or_default(),
            ..ModelSelection::default()
        });
    }
}

/// The recipe of a session as its turns follow it. One that came with an import and cannot be read is left aside: its
/// conversation goes on without it.
///
/// # Errors
/// `RECIPE_PARAMETERS_MISSING` until all required values are there.
pub(crate) fn parsed(session: &Session) -> Result<Option<Recipe>, ErrorDetail> {
    let Some(kept) = &session.recipe else { return Ok(None) };
    let parse = |text: &str| serde_json::from_str(text).ok();
    if let Some(document) = kept.rendered_json.as_deref().and_then(parse) {
        return Ok(gander_formats::recipe::read(&document).ok());
    }
    let Some(document) = parse(&kept.recipe_json) else { return Ok(None) };
    let directory = Path::new(&session.working_directory);
    match fill_document(document, kept.values.clone(), kept.recipe_id.clone(), directory) {
        Ok(Resolved { rendered: None, missing_required, .. }) if session.message_count == 0 => {
            Err(parameters_missing(&missing_required))
        }
        Ok(resolved) => Ok(resolved.rendered),
        Err(error) => {
            tracing::warn!(%error, session_id = %session.session_id, "the session's recipe cannot be used");
            Ok(None)
        }
    }
}
