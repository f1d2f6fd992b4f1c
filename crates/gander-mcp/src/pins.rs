//! Approved tool definitions. The first list of an extension counts as approved (whoever added it could look at it);
//! what differs later, or is new, is quarantined until somebody approves that very definition.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use gander_domain::{ErrorDetail, ErrorReason};

use crate::{catalog::Tool, client::SessionClient};

/// What was approved during this session: enough to notice a change where nothing is kept longer.
pub(crate) type Memory = Mutex<BTreeMap<String, String>>;

fn approved(key: &str, client: &dyn SessionClient, memory: &Memory) -> BTreeMap<String, String> {
    let pinned = client.pinned(key);
    if pinned.is_empty() { memory.lock().unwrap_or_else(PoisonError::into_inner).clone() } else { pinned }
}

fn keep(key: &str, client: &dyn SessionClient, memory: &Memory, definitions: BTreeMap<String, String>) {
    memory.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&definitions);
    client.pin(key, definitions);
}

/// Marks what is not as approved. Without anything approved yet, all of it is.
pub(crate) fn apply(key: &str, client: &dyn SessionClient, memory: &Memory, tools: &mut [Arc<Tool>]) {
    let pinned = approved(key, client, memory);
    if pinned.is_empty() {
        let all: BTreeMap<String, String> = tools
            .iter()
            .map(|tool| (tool.definition.tool_name.clone(), tool.definition.definition_hash.clone()))
            .collect();
        if !all.is_empty() {
            keep(key, client, memory, all);
        }
        return;
    }
    for tool in tools {
        if pinned.get(&tool.definition.tool_name) != Some(&tool.definition.definition_hash) {
            set_quarantined(tool, true);
        }
    }
}

fn set_quarantined(tool: &mut Arc<Tool>, quarantined: bool) {
    let mut changed = Tool::clone(tool);
    changed.definition.quarantined = quarantined;
    *tool = Arc::new(changed);
}

/// What to say of quarantined tools, if there are any.
pub(crate) fn trouble(tools: &[Arc<Tool>]) -> Option<String> {
    let names: Vec<&str> = tools
        .iter()
        .filter(|tool| tool.definition.quarantined)
        .map(|tool| tool.definition.tool_name.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    Some(format!("tool definitions are not as approved; quarantined until approved: {}", names.join(", ")))
}

/// Approves the definition with `hash` of `tool` (its own or its public name).
pub(crate) fn approve(
    key: &str,
    client: &dyn SessionClient,
    memory: &Memory,
    tools: &mut [Arc<Tool>],
    tool: &str,
    hash: &str,
) -> Result<(), ErrorDetail> {
    let found = tools.iter_mut().find(|t| t.definition.tool_name == tool || t.definition.name == tool);
    let Some(found) = found else {
        let text = format!("extension {key} has no tool {tool}");
        return Err(ErrorDetail::new(ErrorReason::ToolNotFound, text).with("extensionName", key));
    };
    let current = &found.definition.definition_hash;
    if current != hash {
        let text =
            format!("the tool {tool} is defined differently by now (hash {current}); look at it again");
        return Err(ErrorDetail::new(ErrorReason::EtagMismatch, text).with("definitionHash", current));
    }
    let mut pinned = approved(key, client, memory);
    pinned.insert(found.definition.tool_name.clone(), hash.to_owned());
    keep(key, client, memory, pinned);
    set_quarantined(found, false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        catalog::{from_mcp, select},
        client::NoClient,
    };

    #[test]
    fn changes_and_new_tools_are_noticed_also_where_nothing_is_kept() {
        let tools = |entries: &[(&str, &str)]| {
            let tool = |(name, text): &(&str, &str)| {
                from_mcp("k", false, &json!({"name": name, "description": text})).map(Arc::new)
            };
            select(entries.iter().filter_map(tool).collect(), &[])
        };
        let memory = Memory::default();
        let mut first = tools(&[("a", "1"), ("b", "1")]);
        apply("k", &NoClient, &memory, &mut first);
        assert_eq!(trouble(&first), None);
        let mut second = tools(&[("a", "1"), ("b", "2"), ("c", "1")]);
        apply("k", &NoClient, &memory, &mut second);
        assert!(trouble(&second).unwrap().ends_with("b, c"));
        let hash = second[1].definition.definition_hash.clone();
        approve("k", &NoClient, &memory, &mut second, "k__b", &hash).unwrap();
        assert!(trouble(&second).unwrap().ends_with(": c"));
        let error = approve("k", &NoClient, &memory, &mut second, "none", &hash).unwrap_err();
        assert_eq!(error.reason, ErrorReason::ToolNotFound);
    }
}
