//! The session's options as configuration options, and the same once more as modes for older clients.

use agent_client_protocol_schema::v1 as acp;
use gander_proto::v1::{
    Command, Plan, PlanPriority, PlanStatus, SessionOption, SessionOptionChoice, session_option_value::Value,
};

use super::content::non_empty;
use crate::caps::ClientCaps;

/// Category and id of the option that is mirrored as modes.
const MODE: &str = "mode";

/// All options that the client can show: mode, model and thought level first.
pub(crate) fn config_options(options: &[SessionOption], caps: &ClientCaps) -> Vec<acp::SessionConfigOption> {
    // Editors have room for the first few; agents list theirs in any order.
    let rank = |option: &&SessionOption| {
        let first = [MODE, "model", "thought_level"];
        first.iter().position(|category| *category == option.category).unwrap_or(first.len())
    };
    let mut options: Vec<&SessionOption> = options.iter().collect();
    options.sort_by_key(rank);
    options.into_iter().filter_map(|option| config_option(option, caps)).collect()
}

fn config_option(option: &SessionOption, caps: &ClientCaps) -> Option<acp::SessionConfigOption> {
    let (id, name) = (option.option_id.clone(), option.name.clone());
    let shown = match option.value.as_ref()?.value.as_ref()? {
        Value::Choice(current) => {
            acp::SessionConfigOption::select(id, name, current.clone(), choices(&option.choices))
        }
        Value::Enabled(_) if !caps.boolean_options => return None,
        Value::Enabled(enabled) => acp::SessionConfigOption::boolean(id, name, *enabled),
    };
    let category = match option.category.as_str() {
        "" => None,
        "mode" => Some(acp::SessionConfigOptionCategory::Mode),
        "model" => Some(acp::SessionConfigOptionCategory::Model),
        "model_config" => Some(acp::SessionConfigOptionCategory::ModelConfig),
        "thought_level" => Some(acp::SessionConfigOptionCategory::ThoughtLevel),
        // Names without an underscore belong to the protocol.
        other if other.starts_with('_') => Some(acp::SessionConfigOptionCategory::Other(other.to_owned())),
        other => Some(acp::SessionConfigOptionCategory::Other(format!("_{other}"))),
    };
    Some(shown.description(non_empty(&option.description)).category(category))
}

fn choices(choices: &[SessionOptionChoice]) -> acp::SessionConfigSelectOptions {
    let shown = |choice: &SessionOptionChoice| {
        let name = if choice.name.is_empty() { &choice.value } else { &choice.name };
        acp::SessionConfigSelectOption::new(choice.value.clone(), name.clone())
            .description(non_empty(&choice.description))
    };
    if choices.iter().all(|choice| choice.group.is_empty()) {
        return choices.iter().map(shown).collect::<Vec<_>>().into();
    }
    let mut groups: Vec<(String, Vec<acp::SessionConfigSelectOption>)> = Vec::new();
    for choice in choices {
        match groups.iter_mut().find(|(name, _)| *name == choice.group) {
            Some((_, members)) => members.push(shown(choice)),
            None => groups.push((choice.group.clone(), vec![shown(choice)])),
        }
    }
    let groups = groups.into_iter().map(|(name, members)| {
        let title = if name.is_empty() { "Others".to_owned() } else { name.clone() };
        acp::SessionConfigSelectGroup::new(name, title, members)
    });
    groups.collect::<Vec<_>>().into()
}

fn mode_option(options: &[SessionOption]) -> Option<(&SessionOption, &str)> {
    let option = options.iter().find(|option| option.category == MODE)?;
    match option.value.as_ref()?.value.as_ref()? {
        Value::Choice(current) => Some((option, current)),
        Value::Enabled(_) => None,
    }
}

/// The modes, for clients that know no configuration options.
pub(crate) fn modes(options: &[SessionOption]) -> Option<acp::SessionModeState> {
    let (option, current) = mode_option(options)?;
    let modes = option.choices.iter().map(|choice| {
        let name = if choice.name.is_empty() { &choice.value } else { &choice.name };
        acp::SessionMode::new(choice.value.clone(), name.clone()).description(non_empty(&choice.description))
    });
    Some(acp::SessionModeState::new(current.to_owned(), modes.collect()))
}

/// The updates that take a client from `before` to `now`.
pub(crate) fn changes(
    before: &[SessionOption],
    now: &[SessionOption],
    caps: &ClientCaps,
) -> Vec<acp::SessionUpdate> {
    if before == now {
        return Vec::new();
    }
    let mut updates = Vec::new();
    let (old, new) = (mode_option(before), mode_option(now));
    if let Some((_, current)) = new
        && old.map(|(_, mode)| mode) != Some(current)
    {
        let update = acp::CurrentModeUpdate::new(current.to_owned());
        updates.push(acp::SessionUpdate::CurrentModeUpdate(update));
    }
    let update = acp::ConfigOptionUpdate::new(config_options(now, caps));
    updates.push(acp::SessionUpdate::ConfigOptionUpdate(update));
    updates
}

/// The text commands.
pub(crate) fn commands(commands: &[Command]) -> acp::SessionUpdate {
    let shown = commands.iter().map(|command| {
        let input = non_empty(&command.input_hint)
            .map(|hint| acp::AvailableCommandInput::Unstructured(acp::UnstructuredCommandInput::new(hint)));
        acp::AvailableCommand::new(command.name.clone(), command.help.clone()).input(input)
    });
    acp::SessionUpdate::AvailableCommandsUpdate(acp::AvailableCommandsUpdate::new(shown.collect()))
}

/// The whole plan; an empty one takes it down.
pub(crate) fn plan(plan: &Plan) -> acp::SessionUpdate {
    let entries = plan.entries.iter().map(|entry| {
        let priority = match entry.priority() {
            PlanPriority::High => acp::PlanEntryPriority::High,
            PlanPriority::Low => acp::PlanEntryPriority::Low,
            PlanPriority::Medium | PlanPriority::Unspecified => acp::PlanEntryPriority::Medium,
        };
        let status = match entry.status() {
            PlanStatus::InProgress => acp::PlanEntryStatus::InProgress,
            PlanStatus::Completed => acp::PlanEntryStatus::Completed,
            PlanStatus::Pending | PlanStatus::Unspecified => acp::PlanEntryStatus::Pending,
        };
        acp::PlanEntry::new(entry.content.clone(), priority, status)
    });
    acp::SessionUpdate::Plan(acp::Plan::new(entries.collect()))
}
