//! Sessions, their settings and what belongs to them.

use std::collections::BTreeMap;

use gander_domain::{
    Session, SessionId,
    session::{
        Command, Instruction, ModelSelection, OptionChoice, ParentCall, Plan, PlanEntry, SessionOption,
        SessionRecipe,
    },
};
use gander_proto::v1 as pb;
use sha2::{Digest as _, Sha256};

use super::{At, MAX_NAME_BYTES, Violations, enums, int32, int64, non_empty, or_empty, time_to_pb, usage};

const PRIORITY: &str = "PLAN_PRIORITY_";
const STATUS: &str = "PLAN_STATUS_";
const COMMAND: &str = "COMMAND_KIND_";
/// Most labels, environment variables, instructions or directories of one request.
const MAX_ENTRIES: usize = 256;

/// A session without `loaded`, options and plan, which are no part of its row.
pub(crate) fn session_to_pb(session: &Session) -> pb::Session {
    pb::Session {
        session_id: session.session_id.as_str().to_owned(),
        title: session.title.clone(),
        title_source: enums::title_source_to_pb(session.title_source),
        kind: enums::session_kind_to_pb(session.kind),
        state: enums::session_state_to_pb(session.state),
        loaded: false,
        working_directory: session.working_directory.clone(),
        additional_directories: session.additional_directories.clone(),
        model: session.model.as_ref().map(model_to_pb),
        mode: session.mode.map(enums::mode_to_pb),
        last_sequence: session.last_sequence,
        // The domain names the oldest event, proto the oldest cursor.
        oldest_sequence: (session.oldest_sequence - 1).max(0),
        active_turn_id: or_empty(session.active_turn_id.as_ref()),
        pending_interaction_count: int32(session.pending_interaction_count),
        message_count: int32(session.message_count),
        create_time: Some(time_to_pb(session.create_time)),
        update_time: Some(time_to_pb(session.update_time)),
        archive_time: session.archive_time.map(time_to_pb),
        usage: Some(usage::session_usage_to_pb(&session.usage)),
        context: Some(pb::ContextUsage {
            used_tokens: session.context_used_tokens.map(int64),
            window_tokens: session.context_window_tokens.map(int64),
        }),
        options: Vec::new(),
        instructions: session.instructions.iter().map(instruction_to_pb).collect(),
        recipe: session.recipe.as_ref().map(recipe_to_pb),
        labels: map_to_pb(&session.labels),
        container: or_empty(session.container.as_ref()),
        schedule_id: or_empty(session.schedule_id.as_ref()),
        parent: session.parent.as_ref().map(|p| pb::SessionParent {
            session_id: p.session_id.as_str().to_owned(),
            item_id: or_empty(p.item_id.as_ref()),
        }),
        extension_state_json: map_to_pb(&session.extension_state),
        plan: None,
        owner: session.owner.clone(),
        etag: etag(session),
    }
}

/// Changes whenever a field changes that `UpdateSession` can set.
pub(crate) fn etag(session: &Session) -> String {
    let settable = (
        (&session.title, &session.working_directory, &session.additional_directories, &session.model),
        (&session.mode, &session.archive_time, &session.instructions),
        (session.recipe.as_ref().map(|r| &r.values), &session.labels, &session.container),
    );
    // Maps are ordered and floats absent, so that equal settings give equal text; serialising them cannot fail.
    let text = serde_json::to_vec(&settable).unwrap_or_default();
    Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn map_to_pb(map: &BTreeMap<String, String>) -> std::collections::HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A map of a request, its size bounded.
pub(crate) fn map_from_pb(
    map: std::collections::HashMap<String, String>,
    at: &At<'_>,
    v: &mut Violations,
) -> BTreeMap<String, String> {
    if map.len() > MAX_ENTRIES {
        v.add(at, format!("must have at most {MAX_ENTRIES} entries, has {}", map.len()));
    }
    if map.keys().any(|k| k.is_empty() || k.len() > MAX_NAME_BYTES) {
        v.add(at, format!("must have keys of 1 to {MAX_NAME_BYTES} bytes"));
    }
    map.into_iter().collect()
}

pub(crate) fn model_to_pb(model: &ModelSelection) -> pb::ModelSelection {
    pb::ModelSelection {
        provider_id: model.provider_id.clone(),
        model_id: model.model_id.clone(),
        context_limit: model.context_limit.map(int64),
        extra_params_json: or_empty(model.extra_params_json.as_ref()),
        temperature: model.temperature_millis.map(|t| f64::from(t) / 1_000.0),
        max_output_tokens: model.max_output_tokens.map(int64),
        recording: None,
        thought_level: model.thought_level.map_or(0, enums::thought_level_to_pb),
    }
}

pub(crate) fn model_from_pb(model: pb::ModelSelection, at: &At<'_>, v: &mut Violations) -> ModelSelection {
    if model.recording.is_some() {
        v.add(&at.field("recording"), "is not supported by this build; leave it unset");
    }
    let thought_level = enums::thought_level_from_pb(model.thought_level);
    if model.thought_level != 0 && thought_level.is_none() {
        v.add(&at.field("thought_level"), "must be OFF, LOW, MEDIUM, HIGH or MAX");
    }
    let temperature_millis = model.temperature.and_then(|t| {
        if (0.0..=100.0).contains(&t) {
            // In range by the check above.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some((t * 1_000.0).round() as u32)
        } else {
            v.add(&at.field("temperature"), format!("must be between 0 and 100, is {t}"));
            None
        }
    });
    ModelSelection {
        provider_id: v.name(&at.field("provider_id"), model.provider_id),
        model_id: v.short(&at.field("model_id"), model.model_id),
        context_limit: v.positive(&at.field("context_limit"), model.context_limit),
        temperature_millis,
        max_output_tokens: v.positive(&at.field("max_output_tokens"), model.max_output_tokens),
        extra_params_json: v.json_object(&at.field("extra_params_json"), model.extra_params_json),
        thought_level,
    }
}

fn instruction_to_pb(instruction: &Instruction) -> pb::SessionInstruction {
    let mode = if instruction.replace { pb::InstructionMode::Replace } else { pb::InstructionMode::Append };
    pb::SessionInstruction { key: instruction.key.clone(), text: instruction.text.clone(), mode: mode as i32 }
}

/// Instructions; an empty text is kept, since an update removes the key with it.
pub(crate) fn instructions_from_pb(
    instructions: Vec<pb::SessionInstruction>,
    at: &At<'_>,
    v: &mut Violations,
) -> Vec<Instruction> {
    if instructions.len() > MAX_ENTRIES {
        v.add(at, format!("must have at most {MAX_ENTRIES} entries, has {}", instructions.len()));
        return Vec::new();
    }
    let convert = |(index, instruction): (usize, pb::SessionInstruction)| {
        let at = At { index: Some(index), ..*at };
        let replace = match pb::InstructionMode::try_from(instruction.mode) {
            Ok(mode) => mode == pb::InstructionMode::Replace,
            Err(_) => {
                v.add(&at.field("mode"), "must be APPEND or REPLACE");
                false
            }
        };
        Instruction {
            key: v.name(&at.field("key"), instruction.key),
            text: v.text(&at.field("text"), instruction.text),
            replace,
        }
    };
    instructions.into_iter().enumerate().map(convert).collect()
}

pub(crate) fn directories_from_pb(directories: Vec<String>, at: &At<'_>, v: &mut Violations) -> Vec<String> {
    if directories.len() > MAX_ENTRIES {
        v.add(at, format!("must have at most {MAX_ENTRIES} entries, has {}", directories.len()));
        return Vec::new();
    }
    let convert = |(index, directory)| v.absolute_path(&At { index: Some(index), ..*at }, directory);
    directories.into_iter().enumerate().map(convert).collect()
}

fn recipe_to_pb(recipe: &SessionRecipe) -> pb::SessionRecipe {
    pb::SessionRecipe {
        recipe_json: recipe.recipe_json.clone(),
        recipe_id: or_empty(recipe.recipe_id.as_ref()),
        values: map_to_pb(&recipe.values),
    }
}

pub(crate) fn recipe_from_pb(recipe: pb::SessionRecipe, at: &At<'_>, v: &mut Violations) -> SessionRecipe {
    SessionRecipe {
        recipe_json: v.json_object(&at.field("recipe_json"), recipe.recipe_json).unwrap_or_default(),
        recipe_id: non_empty(recipe.recipe_id),
        values: map_from_pb(recipe.values, &at.field("values"), v),
        rendered_json: None,
    }
}

pub(crate) fn parent_from_pb(
    parent: &pb::SessionParent,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<ParentCall> {
    Some(ParentCall {
        item_id: v.optional_id(&at.field("item_id"), &parent.item_id, |t| gander_domain::ItemId::new(t)),
        session_id: v.id(&at.field("session_id"), &parent.session_id, |t| SessionId::new(t))?,
    })
}

pub(crate) fn option_to_pb(option: &SessionOption) -> pb::SessionOption {
    use pb::session_option_value::Value;
    let value = match option.kind.as_str() {
        "boolean" => Value::Enabled(option.value == "true"),
        _ => Value::Choice(option.value.clone()),
    };
    pb::SessionOption {
        option_id: option.option_id.clone(),
        name: option.name.clone(),
        description: option.description.clone(),
        category: option.category.clone(),
        value: Some(pb::SessionOptionValue { value: Some(value) }),
        choices: option.choices.iter().map(choice_to_pb).collect(),
    }
}

fn choice_to_pb(choice: &OptionChoice) -> pb::SessionOptionChoice {
    pb::SessionOptionChoice {
        value: choice.value.clone(),
        name: choice.name.clone(),
        description: choice.description.clone(),
        group: String::new(),
    }
}

/// The text that the domain keeps for an option's value.
pub(crate) fn option_value_from_pb(
    value: Option<pb::SessionOptionValue>,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<String> {
    use pb::session_option_value::Value;
    match v.required(at, value.and_then(|x| x.value))? {
        Value::Choice(choice) => Some(v.name(&at.field("choice"), choice)),
        Value::Enabled(enabled) => Some(enabled.to_string()),
    }
}

pub(crate) fn plan_to_pb(plan: &Plan) -> pb::Plan {
    let entry = |e: &PlanEntry| pb::PlanEntry {
        content: e.content.clone(),
        priority: enums::word_to_pb(PRIORITY, &e.priority, pb::PlanPriority::from_str_name),
        status: enums::word_to_pb(STATUS, &e.status, pb::PlanStatus::from_str_name),
    };
    pb::Plan {
        plan_id: plan.plan_id.clone(),
        entries: plan.entries.iter().map(entry).collect(),
        source_text: plan.source_text.clone(),
    }
}

pub(crate) fn command_to_pb(command: &Command) -> pb::Command {
    pb::Command {
        name: command.name.clone(),
        help: command.help.clone(),
        input_hint: command.input_hint.clone(),
        kind: enums::word_to_pb(COMMAND, &command.kind, pb::CommandKind::from_str_name),
        recipe_id: or_empty(command.recipe_id.as_ref()),
    }
}
