//! Tools: from MCP's JSON to definitions, public names, and the index of a session. Pure, but for one cache.
//!
//! Public names depend on nothing but the pair (key, tool name), never on which other extensions there are or when
//! they were loaded: a name that a model has seen never comes to mean another tool.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use gander_domain::tool::{ToolAnnotations, ToolDefinition, ToolVisibility};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{arguments::ArgumentSchema, config::hex, content::json_text};

/// Longest public name; model vendors accept no more.
const MAX_NAME: usize = 64;
/// Hex digits of the hash in a name that cannot be used as it is.
const HASH_DIGITS: usize = 8;
/// Separates key and tool.
const SEPARATOR: &str = "__";

/// A tool with its compiled schemas.
#[derive(Clone)]
pub(crate) struct Tool {
    pub(crate) definition: ToolDefinition,
    pub(crate) schema: Arc<ArgumentSchema>,
    /// What structured results must match.
    pub(crate) output: Option<Arc<ArgumentSchema>>,
    /// Executed by the engine's host, not here.
    pub(crate) client: bool,
}

/// The public name of `tool` of the extension `key`: `key__tool` wherever that is a valid name that can be told
/// apart from any other pair's, else a shortened form with a hash of the pair.
pub(crate) fn public_name(key: &str, tool: &str) -> String {
    let valid = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    // With such a key the first separator would not end the key, and `a` + `b__c` could be `a__b` + `c`.
    let ambiguous = key.contains(SEPARATOR) || key.ends_with('_');
    let plain = format!("{key}{SEPARATOR}{tool}");
    if !ambiguous && !tool.is_empty() && valid(&plain) && plain.len() <= MAX_NAME {
        return plain;
    }
    let mut hash = Sha256::new();
    hash.update(key.as_bytes());
    hash.update([0]);
    hash.update(tool.as_bytes());
    let hash = hex(&hash.finalize());
    let mut name: String = plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' })
        .take(MAX_NAME - HASH_DIGITS - 1)
        .collect();
    name.push('_');
    name.push_str(&hash[..HASH_DIGITS]);
    name
}

/// Hex SHA-256 over what a person approved when they allowed a tool: name, description and schemas.
fn definition_hash(tool: &ToolDefinition) -> String {
    let mut hash = Sha256::new();
    let output = tool.output_schema_json.as_deref().unwrap_or_default();
    for field in [tool.tool_name.as_str(), &tool.description, &tool.input_schema_json, output] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field.as_bytes());
    }
    hex(&hash.finalize())
}

/// One entry of `tools/list`; `None` when it has no name.
pub(crate) fn from_mcp(key: &str, trusted: bool, entry: &Value) -> Option<Tool> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    let tool_name = text("name").filter(|name| !name.is_empty())?;
    let hints = entry.get("annotations");
    let hint = |name: &str| hints.and_then(|hints| hints.get(name)).and_then(Value::as_bool);
    let schema = entry.get("inputSchema").cloned().unwrap_or_else(|| serde_json::json!({"type": "object"}));
    let meta = entry.get("_meta");
    let mut definition = ToolDefinition {
        name: public_name(key, &tool_name),
        extension_name: key.to_owned(),
        title: text("title").or_else(|| {
            hints.and_then(|hints| hints.get("title")).and_then(Value::as_str).map(str::to_owned)
        }),
        tool_name,
        description: text("description").unwrap_or_default(),
        input_schema_json: schema.to_string(),
        output_schema_json: json_text(entry.get("outputSchema").cloned()),
        annotations: ToolAnnotations {
            read_only: hint("readOnlyHint"),
            destructive: hint("destructiveHint"),
            idempotent: hint("idempotentHint"),
            open_world: hint("openWorldHint"),
        },
        icons_json: json_text(entry.get("icons").cloned()),
        meta_json: json_text(meta.cloned()),
        visibility: visibility(meta),
        definition_hash: String::new(),
        quarantined: false,
        trusted,
    };
    definition.definition_hash = definition_hash(&definition);
    // After the hash: a change that cannot be seen is a change.
    definition.description = visible(&definition.description);
    definition.title = definition.title.as_deref().map(visible);
    let output = entry.get("outputSchema").filter(|schema| schema.is_object()).cloned();
    let output = output.map(|schema| Arc::new(ArgumentSchema::new(schema)));
    Some(Tool { definition, schema: Arc::new(ArgumentSchema::new(schema)), output, client: false })
}

/// Tools by what they were made from, as long as somebody has them: most sessions have the same extensions, whose
/// definitions and compiled schemas are the larger part of what a session holds.
#[derive(Default)]
pub(crate) struct ToolCache {
    known: Mutex<HashMap<[u8; 32], Weak<Tool>>>,
}

impl ToolCache {
    /// [`from_mcp`], or what it gave for the same before.
    pub(crate) fn tool(&self, key: &str, trusted: bool, entry: &Value) -> Option<Arc<Tool>> {
        let mut hash = Sha256::new();
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key.as_bytes());
        hash.update([u8::from(trusted)]);
        hash.update(entry.to_string().as_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        if let Some(tool) = self.known().get(&hash).and_then(Weak::upgrade) {
            return Some(tool);
        }
        // Not under the lock: definitions may be large.
        let tool = Arc::new(from_mcp(key, trusted, entry)?);
        let mut known = self.known();
        if known.len() == known.capacity() {
            known.retain(|_, tool| tool.strong_count() > 0);
        }
        known.insert(hash, Arc::downgrade(&tool));
        Some(tool)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Weak<Tool>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without what people cannot see and models can: control characters (terminal sequences), Unicode tags, characters
/// of no width, and those that turn the direction of text.
fn visible(text: &str) -> String {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200B}' | '\u{2060}' | '\u{FEFF}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
            || matches!(c, '\u{E0000}'..='\u{E007F}')
    };
    text.chars().filter(|c| !hidden(*c)).collect()
}

/// MCP Apps: `_meta.ui.visibility`, default both.
fn visibility(meta: Option<&Value>) -> ToolVisibility {
    let listed = meta.and_then(|meta| meta.get("ui")?.get("visibility")?.as_array());
    let Some(listed) = listed else { return ToolVisibility::default() };
    let has = |name: &str| listed.iter().any(|entry| entry.as_str() == Some(name));
    ToolVisibility { model: has("model"), app: has("app") }
}

/// A tool that the attached host executes.
pub(crate) fn from_client(key: &str, given: &ToolDefinition) -> Tool {
    let mut definition = given.clone();
    if definition.tool_name.is_empty() {
        definition.tool_name.clone_from(&definition.name);
    }
    definition.name = public_name(key, &definition.tool_name);
    key.clone_into(&mut definition.extension_name);
    definition.trusted = false;
    if definition.input_schema_json.trim().is_empty() {
        "{\"type\":\"object\"}".clone_into(&mut definition.input_schema_json);
    }
    definition.definition_hash = definition_hash(&definition);
    // An unreadable schema becomes one that accepts everything.
    let schema = serde_json::from_str(&definition.input_schema_json).unwrap_or(Value::Bool(true));
    Tool { definition, schema: Arc::new(ArgumentSchema::new(schema)), output: None, client: true }
}

/// Keeps what the configuration allows; the first of several tools of one name wins.
pub(crate) fn select(tools: Vec<Arc<Tool>>, allowlist: &[String]) -> Vec<Arc<Tool>> {
    let mut seen = std::collections::HashSet::new();
    tools
        .into_iter()
        .filter(|tool| {
            let name = &tool.definition.tool_name;
            (allowlist.is_empty() || allowlist.contains(name))
                && (seen.insert(name.clone()) || {
                    tracing::warn!(extension = %tool.definition.extension_name, tool = %name, "a tool is listed twice");
                    false
                })
        })
        .collect()
}

/// What is different between two lists of tools, by public name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolDiff {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<String>,
}

impl ToolDiff {
    pub(crate) fn between(old: &[Arc<Tool>], new: &[Arc<Tool>]) -> Self {
        fn index(tools: &[Arc<Tool>]) -> HashMap<&str, &Arc<Tool>> {
            tools.iter().map(|t| (t.definition.name.as_str(), t)).collect()
        }
        let (before, after) = (index(old), index(new));
        let mut diff = Self::default();
        for tool in new {
            let name = &tool.definition.name;
            match before.get(name.as_str()) {
                None => diff.added.push(name.clone()),
                Some(old) if !Arc::ptr_eq(old, tool) && old.definition != tool.definition => {
                    diff.changed.push(name.clone());
                }
                Some(_) => {}
            }
        }
        diff.removed = old
            .iter()
            .map(|t| t.definition.name.clone())
            .filter(|n| !after.contains_key(n.as_str()))
            .collect();
        diff
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Two extensions (or one, twice) that offer what cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Clash {
    /// The public names are the same: the later extension's tool is left out. Else only the extensions' own names
    /// are, and both can be called.
    pub(crate) public: bool,
    pub(crate) name: String,
    /// Key of the extension that was added first.
    pub(crate) kept: String,
    pub(crate) other: String,
}

/// All tools of a session by public name, in the order of the extensions.
#[derive(Default)]
pub(crate) struct Catalog {
    by_name: HashMap<String, (String, Arc<Tool>)>,
    order: Vec<String>,
    /// Own name → key of the first extension that has it.
    owners: HashMap<String, String>,
    clashes: Vec<Clash>,
}

impl Catalog {
    /// Adds an extension's tools. A name that is taken already (two pairs with the same hash) is left out: the
    /// extension that was added to the session first wins, however fast each starts.
    pub(crate) fn add(&mut self, key: &str, tools: &[Arc<Tool>]) {
        for tool in tools {
            let name = tool.definition.name.clone();
            let clash = |public: bool, name: &str, kept: &str| Clash {
                public,
                name: name.to_owned(),
                kept: kept.to_owned(),
                other: key.to_owned(),
            };
            if let Some((kept, _)) = self.by_name.get(&name) {
                self.clashes.push(clash(true, &name, kept));
                continue;
            }
            let own = &tool.definition.tool_name;
            match self.owners.get(own) {
                Some(kept) => self.clashes.push(clash(false, own, kept)),
                None => {
                    self.owners.insert(own.clone(), key.to_owned());
                }
            }
            self.order.push(name.clone());
            self.by_name.insert(name, (key.to_owned(), Arc::clone(tool)));
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&(String, Arc<Tool>)> {
        self.by_name.get(name)
    }

    pub(crate) fn definitions(&self) -> Vec<ToolDefinition> {
        self.order
            .iter()
            .filter_map(|name| self.by_name.get(name))
            .map(|(_, tool)| tool.definition.clone())
            .collect()
    }

    pub(crate) fn clashes(&self) -> &[Clash] {
        &self.clashes
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn public_names_are_valid_stable_and_distinct() {
        assert_eq!(public_name("developer", "shell"), "developer__shell");
        assert_eq!(public_name("a", "b__c"), "a__b__c");
        let pairs = [
            ("a", "b__c"),
            ("a__b", "c"),
            ("a_", "b"),
            ("a", "_b"),
            ("a", "b.c"),
            ("a", "b/c"),
            ("a", ""),
            ("a", "ü"),
            ("long", &"x".repeat(100)),
            ("long", &"x".repeat(101)),
        ];
        let names: HashSet<String> = pairs.iter().map(|(key, tool)| public_name(key, tool)).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
        for name in names {
            assert!((1..=64).contains(&name.len()), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')), "{name}");
        }
    }

    /// All short keys and names of the characters that matter: no pair can pass for another one.
    #[test]
    fn no_two_pairs_of_key_and_tool_share_a_public_name() {
        let words = |letters: &[&str], longest: usize| {
            let mut all = vec![String::new()];
            let mut last = all.clone();
            for _ in 0..longest {
                last =
                    last.iter().flat_map(|word| letters.iter().map(move |l| format!("{word}{l}"))).collect();
                all.extend(last.clone());
            }
            all
        };
        let mut seen = std::collections::HashMap::new();
        for key in words(&["a", "_", "-"], 5).iter().filter(|key| !key.is_empty()) {
            for tool in words(&["a", "_", "."], 4) {
                let name = public_name(key, &tool);
                assert!(name.len() <= MAX_NAME);
                if let Some(other) = seen.insert(name.clone(), (key.clone(), tool.clone())) {
                    panic!("{name} is {other:?} and {:?}", (key, tool));
                }
            }
        }
        assert!(seen.len() > 40_000);
    }

    #[test]
    fn a_tool_keeps_what_the_server_said() {
        let tool = from_mcp(
            "k",
            false,
            &json!({
                "name": "t", "description": "d", "inputSchema": {"type": "object", "x-vendor": [1]},
                "outputSchema": {"type": "object"}, "annotations": {"title": "T", "readOnlyHint": true},
                "_meta": {"ui": {"visibility": ["app"], "resourceUri": "ui://x"}}, "icons": [{"src": "i"}]
            }),
        )
        .unwrap();
        let d = &tool.definition;
        assert_eq!((d.name.as_str(), d.title.as_deref()), ("k__t", Some("T")));
        assert!(d.input_schema_json.contains("x-vendor"));
        assert_eq!(d.annotations.read_only, Some(true));
        assert_eq!(d.annotations.destructive, None);
        assert_eq!(d.visibility, ToolVisibility { model: false, app: true });
        assert!(d.meta_json.as_deref().unwrap().contains("ui://x"));
        assert_eq!(d.definition_hash.len(), 64);
        assert!(from_mcp("k", false, &json!({"description": "nameless"})).is_none());
    }

    #[test]
    fn the_first_extension_keeps_a_name_and_clashes_are_known() {
        let tools = |key: &str, public: Option<&str>| {
            let mut tool = from_mcp(key, false, &json!({"name": "t"})).unwrap();
            if let Some(name) = public {
                name.clone_into(&mut tool.definition.name);
            }
            vec![Arc::new(tool)]
        };
        let mut catalog = Catalog::default();
        catalog.add("a", &tools("a", Some("same")));
        catalog.add("b", &tools("b", Some("same")));
        catalog.add("c", &tools("c", None));
        assert_eq!(catalog.find("same").unwrap().0, "a");
        assert_eq!(catalog.names(), ["same", "c__t"]);
        let clash = |public, name: &str, other: &str| Clash {
            public,
            name: name.to_owned(),
            kept: "a".to_owned(),
            other: other.to_owned(),
        };
        assert_eq!(catalog.clashes(), [clash(true, "same", "b"), clash(false, "t", "c")]);
    }

    #[test]
    fn the_same_tool_is_kept_once_and_not_longer_than_needed() {
        let cache = ToolCache::default();
        let entry = |text: &str| json!({"name": "t", "description": text});
        let tool = |key: &str, trusted, text: &str| cache.tool(key, trusted, &entry(text)).unwrap();
        let first = tool("k", false, "d");
        assert!(Arc::ptr_eq(&first, &tool("k", false, "d")));
        for other in [tool("l", false, "d"), tool("k", true, "d"), tool("k", false, "e")] {
            assert!(!Arc::ptr_eq(&first, &other));
        }
        for number in 0..1000 {
            tool("k", false, &number.to_string());
        }
        assert!(cache.known().len() < 100, "what nobody has is forgotten");
        assert!(Arc::ptr_eq(&first, &tool("k", false, "d")));
    }

    #[test]
    fn what_cannot_be_seen_is_taken_out_but_changes_the_hash() {
        let tool =
            |description: &str| from_mcp("k", false, &json!({"name": "t", "description": description}));
        let (plain, hidden) = (tool("a\nb").unwrap(), tool("a\n\u{1b}\u{E0041}\u{202E}b\u{200B}").unwrap());
        assert_eq!(hidden.definition.description, plain.definition.description);
        assert_ne!(hidden.definition.definition_hash, plain.definition.definition_hash);
    }

    #[test]
    fn differences_are_found_by_content() {
        let list = |entries: &[Value]| {
            select(entries.iter().filter_map(|e| from_mcp("k", false, e).map(Arc::new)).collect(), &[])
        };
        let old = list(&[json!({"name": "a"}), json!({"name": "b"})]);
        let new =
            list(&[json!({"name": "b", "description": "other"}), json!({"name": "c"}), json!({"name": "c"})]);
        let diff = ToolDiff::between(&old, &new);
        assert_eq!(diff.added, ["k__c"]);
        assert_eq!(diff.removed, ["k__a"]);
        assert_eq!(diff.changed, ["k__b"]);
        assert!(ToolDiff::between(&old, &old).is_empty());
    }
}
