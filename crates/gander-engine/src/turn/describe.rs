//! What a tool call is called, what kind it is and where it works: for people who watch. Pure.

use gander_domain::{
    Part, PartBody,
    item::{Location, ToolKind},
    session::{Plan, PlanEntry},
    tool::ToolDefinition,
};
use serde_json::Value;

/// Longest title in characters.
const MAX_TITLE: usize = 120;

/// Title, kind and locations of a call.
pub(super) struct Description {
    pub title: String,
    pub kind: ToolKind,
    pub locations: Vec<Location>,
}

/// Describes a call by its tool and arguments.
pub(super) fn describe(tool: &ToolDefinition, arguments_json: &str) -> Description {
    let arguments: Value = serde_json::from_str(arguments_json).unwrap_or(Value::Null);
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let path = text("path").or_else(|| text("file_path"));
    let subject = text("command")
        .or(path)
        .or_else(|| text("pattern"))
        .or_else(|| text("query"))
        .or_else(|| text("url"));
    let name = tool.title.as_deref().unwrap_or(&tool.tool_name);
    let title = match subject {
        Some(subject) => shorten(&format!("{name}: {}", first_line(subject))),
        None => shorten(name),
    };
    let line = ["line", "offset"].iter().find_map(|k| arguments.get(*k)).and_then(Value::as_u64);
    let locations = path
        .map(|path| Location { path: path.to_owned(), line: line.and_then(|l| u32::try_from(l).ok()) })
        .into_iter()
        .collect();
    Description { title, kind: kind(tool), locations }
}

fn kind(tool: &ToolDefinition) -> ToolKind {
    match kind_by_name(&tool.tool_name) {
        ToolKind::Other if tool.annotations.read_only == Some(true) => ToolKind::Read,
        kind => kind,
    }
}

/// The kind as far as a name tells it: of a tool, or with its extension's in front of it.
pub(super) fn kind_by_name(name: &str) -> ToolKind {
    match name.rsplit("__").next().unwrap_or_default() {
        "shell" | "bash" | "execute" | "run" => ToolKind::Execute,
        "read" | "view" | "list" | "read_file" => ToolKind::Read,
        "write" | "edit" | "text_editor" | "write_file" | "edit_file" => ToolKind::Edit,
        "search" | "grep" | "find" => ToolKind::Search,
        "fetch" | "web_fetch" => ToolKind::Fetch,
        _ => ToolKind::Other,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_TITLE {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MAX_TITLE - 1).collect();
    short.push('…');
    short
}

/// Display parts out of a trusted tool's structured result: `{"diff":[{"path","old_text","new_text","patch"}]}`.
pub(super) fn display_parts(structured_json: Option<&str>) -> Vec<Part> {
    let Some(value) = structured_json.and_then(|j| serde_json::from_str::<Value>(j).ok()) else {
        return Vec::new();
    };
    let Some(diffs) = value.get("diff").and_then(Value::as_array) else { return Vec::new() };
    diffs
        .iter()
        .filter_map(|diff| {
            let text = |key: &str| diff.get(key).and_then(Value::as_str).map(str::to_owned);
            Some(Part::new(PartBody::Diff {
                path: text("path")?,
                old_text: text("old_text"),
                new_text: text("new_text"),
                patch: text("patch"),
            }))
        })
        .collect()
}

/// The plan out of the todo extension's structured result: `{"plan":{"entries":[…],"source_text":…}}`.
pub(super) fn plan(structured_json: Option<&str>) -> Option<Plan> {
    let value = serde_json::from_str::<Value>(structured_json?).ok()?;
    let plan = value.get("plan")?;
    let entries = plan.get("entries")?.as_array()?.iter();
    let text =
        |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Plan {
        plan_id: "todo".to_owned(),
        entries: entries
            .map(|e| PlanEntry {
                content: text(e, "content"),
                priority: text(e, "priority"),
                status: text(e, "status"),
            })
            .collect(),
        source_text: text(plan, "source_text"),
    })
}

#[cfg(test)]
mod tests {
    use gander_domain::tool::{ToolAnnotations, ToolVisibility};

    use super::*;

    fn tool(name: &str) -> ToolDefinition {
        ToolDefinition {
            name: format!("x__{name}"),
            extension_name: "x".into(),
            tool_name: name.into(),
            title: None,
            description: String::new(),
            input_schema_json: "{}".into(),
            output_schema_json: None,
            annotations: ToolAnnotations::default(),
            icons_json: None,
            meta_json: None,
            visibility: ToolVisibility::default(),
            definition_hash: String::new(),
            quarantined: false,
            trusted: true,
        }
    }

    #[test]
    fn titles_name_the_subject() {
        for (name, arguments, title, kind) in [
            ("shell", r#"{"command":"ls -la\nrm x"}"#, "shell: ls -la", ToolKind::Execute),
            ("read", r#"{"path":"a.rs","offset":7}"#, "read: a.rs", ToolKind::Read),
            ("frob", "{}", "frob", ToolKind::Other),
            ("frob", "not json", "frob", ToolKind::Other),
        ] {
            let d = describe(&tool(name), arguments);
            assert_eq!((d.title.as_str(), d.kind), (title, kind));
        }
        let d = describe(&tool("read"), r#"{"path":"a.rs","offset":7}"#);
        assert_eq!(d.locations, [Location { path: "a.rs".into(), line: Some(7) }]);
    }

    #[test]
    fn plans_are_read() {
        let json = r#"{"plan":{"entries":[{"content":"a","priority":"high","status":"pending"}],"source_text":"- [ ] a"}}"#;
        let read = plan(Some(json)).unwrap();
        assert_eq!((read.entries[0].content.as_str(), read.entries[0].status.as_str()), ("a", "pending"));
        assert_eq!(plan(Some("{}")), None);
    }

    #[test]
    fn diffs_become_parts() {
        let parts =
            display_parts(Some(r#"{"diff":[{"path":"a","old_text":null,"new_text":"x"},{"no":"path"}]}"#));
        assert_eq!(parts.len(), 1);
        assert!(display_parts(Some("nonsense")).is_empty() && display_parts(None).is_empty());
    }
}
