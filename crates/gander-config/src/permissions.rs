//! Permission rules in Goose's `permission.yaml`.
//!
//! The section `user` has three lists of tool names: `always_allow`, `ask_before`, `never_allow`. Sections of the same
//! shape named `project:DIRECTORY` hold rules for work in and below a directory. All other sections (Goose keeps a cache
//! of its own in `smart_approve`) are left as they are. Which rule applies to a call is decided by the engine; this
//! module only stores them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_yaml_ng::{Mapping, Value as Yaml};

use crate::document;
use crate::error::ConfigError;

pub(crate) const USER_SECTION: &str = "user";
const PROJECT_PREFIX: &str = "project:";

/// The section of a project's rules.
pub(crate) fn project_section(directory: &str) -> String {
    format!("{PROJECT_PREFIX}{directory}")
}

/// What a rule says about a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleDecision {
    /// Runs without a question.
    AlwaysAllow,
    /// A person is asked.
    AskBefore,
    /// Never runs.
    NeverAllow,
}

impl RuleDecision {
    /// All decisions, the strictest first.
    pub const ALL: [Self; 3] = [Self::NeverAllow, Self::AskBefore, Self::AlwaysAllow];

    /// The name of the list in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlwaysAllow => "always_allow",
            Self::AskBefore => "ask_before",
            Self::NeverAllow => "never_allow",
        }
    }
}

/// The user's rules; a pattern that stands in several lists has the strictest decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PermissionRules {
    pub(crate) rules: Vec<(String, RuleDecision)>,
    /// Of projects, by directory.
    pub(crate) projects: BTreeMap<String, Vec<(String, RuleDecision)>>,
}

impl PermissionRules {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let document = document::parse(path, bytes)?;
        let mut projects = BTreeMap::new();
        for name in document.keys().map(document::key_text) {
            if let Some(directory) = name.strip_prefix(PROJECT_PREFIX) {
                projects.insert(directory.to_owned(), rules_of(path, &document, &name)?);
            }
        }
        Ok(Self { rules: rules_of(path, &document, USER_SECTION)?, projects })
    }
}

fn rules_of(path: &Path, document: &Mapping, name: &str) -> Result<Vec<(String, RuleDecision)>, ConfigError> {
    let lists = section(path, document, name)?;
    let mut rules: Vec<(String, RuleDecision)> = Vec::new();
    for decision in RuleDecision::ALL {
        for pattern in list(path, &lists, name, decision)? {
            if rules.iter().all(|(known, _)| *known != pattern) {
                rules.push((pattern, decision));
            }
        }
    }
    Ok(rules)
}

/// A section with `pattern` in exactly the list of `decision`, or in none.
pub(crate) fn section_with(
    path: &Path,
    document: &Mapping,
    name: &str,
    pattern: &str,
    decision: Option<RuleDecision>,
) -> Result<Mapping, ConfigError> {
    let mut user = section(path, document, name)?;
    // Goose needs all three lists to be there; they are made in its order.
    for each in [RuleDecision::AlwaysAllow, RuleDecision::AskBefore, RuleDecision::NeverAllow] {
        let mut patterns = list(path, &user, name, each)?;
        if decision == Some(each) {
            if !patterns.iter().any(|known| known == pattern) {
                patterns.push(pattern.to_owned());
            }
        } else {
            patterns.retain(|known| known != pattern);
        }
        let patterns = patterns.into_iter().map(Yaml::String).collect();
        user.insert(Yaml::String(each.as_str().to_owned()), Yaml::Sequence(patterns));
    }
    Ok(user)
}

fn section(path: &Path, document: &Mapping, name: &str) -> Result<Mapping, ConfigError> {
    match document.get(name) {
        None | Some(Yaml::Null) => Ok(Mapping::new()),
        Some(Yaml::Mapping(lists)) => Ok(lists.clone()),
        Some(other) => Err(shape(path, name.to_owned(), "a mapping of lists", other)),
    }
}

fn list(path: &Path, user: &Mapping, name: &str, decision: RuleDecision) -> Result<Vec<String>, ConfigError> {
    let field = || format!("{name}.{}", decision.as_str());
    match user.get(decision.as_str()) {
        None | Some(Yaml::Null) => Ok(Vec::new()),
        Some(Yaml::Sequence(items)) => items
            .iter()
            .map(|item| match item {
                Yaml::String(pattern) => Ok(pattern.clone()),
                other => Err(shape(path, field(), "a list of tool names", other)),
            })
            .collect(),
        Some(other) => Err(shape(path, field(), "a list of tool names", other)),
    }
}

fn shape(path: &Path, field: String, expected: &'static str, found: &Yaml) -> ConfigError {
    ConfigError::Shape { path: path.to_path_buf(), field, expected, found: document::kind(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RuleDecision::{AlwaysAllow, AskBefore, NeverAllow};

    fn rules(text: &str) -> Result<Vec<(String, RuleDecision)>, ConfigError> {
        PermissionRules::parse(Path::new("/permission.yaml"), text.as_bytes()).map(|rules| rules.rules)
    }

    #[test]
    fn the_strictest_decision_of_a_pattern_holds() {
        let found = rules(
            "user:\n  always_allow: [a, b]\n  ask_before: [b, c]\n  never_allow: [c]\nsmart_approve:\n  always_allow: [z]\n",
        );
        let expected = [("c", NeverAllow), ("b", AskBefore), ("a", AlwaysAllow)];
        assert_eq!(found.unwrap(), expected.map(|(pattern, decision)| (pattern.to_owned(), decision)));
        for text in ["", "user:\n", "user: {always_allow: }\n", "smart_approve: {}\n"] {
            assert_eq!(rules(text).unwrap(), [], "{text}");
        }
    }

    #[test]
    fn projects_have_sections_of_their_own() {
        let text = "user: {always_allow: [a]}\nproject:/src/x:\n  never_allow: [b]\n";
        let parsed = PermissionRules::parse(Path::new("/permission.yaml"), text.as_bytes()).unwrap();
        assert_eq!(parsed.rules, [("a".to_owned(), AlwaysAllow)]);
        assert_eq!(parsed.projects["/src/x"], [("b".to_owned(), NeverAllow)]);
        assert_eq!(parsed.projects.len(), 1);
    }

    #[test]
    fn wrong_shapes_are_errors_that_name_the_list() {
        for (text, field) in [
            ("user: []\n", "user"),
            ("user: {ask_before: x}\n", "user.ask_before"),
            ("user: {never_allow: [1]}\n", "user.never_allow"),
        ] {
            let error = rules(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{field} must be")), "{error}");
        }
    }
}
