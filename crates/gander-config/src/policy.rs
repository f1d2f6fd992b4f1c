//! The enforced layer: what an administrator fixes above everything a user can set.
//!
//! A policy that is not understood completely is refused: unknown fields are errors, so that a misspelt rule
//! cannot pass for a rule that is absent. Patterns match exactly, or as a prefix when they end in `*`; there are no
//! wildcards in the middle, since `https://*.example/…` would also match a foreign host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::document;
use crate::error::ConfigError;
use crate::keys::{EXTENSIONS_KEY, is_secret_name};
use crate::layers::Origin;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct PolicyFile {
    /// Locked values by key.
    values: BTreeMap<String, Value>,
    /// Allowed provider ids.
    providers: Option<Vec<String>>,
    /// Allowed model ids.
    models: Option<Vec<String>>,
    extensions: ExtensionRules,
    require_sandbox: bool,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct ExtensionRules {
    names: Option<Vec<String>>,
    commands: Option<Vec<String>>,
    uris: Option<Vec<String>>,
    /// Packages that are fetched at the start must be named with an exact version.
    pinned_packages: bool,
}

/// The rules of a policy file. Without a file everything is allowed.
#[derive(Debug, Default, PartialEq)]
pub struct Policy {
    path: PathBuf,
    rules: PolicyFile,
}

impl Policy {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let mapping = document::parse(path, bytes)?;
        // Through JSON, so that values keep no YAML tags and errors name the field.
        let value = document::to_json(&serde_yaml_ng::Value::Mapping(mapping));
        let invalid = |message: String| ConfigError::InvalidPolicy { path: path.to_path_buf(), message };
        let rules: PolicyFile = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        // A lock that would not hold must not look like one.
        if let Some(key) = rules.values.keys().find(|key| *key == EXTENSIONS_KEY || is_secret_name(key)) {
            return Err(invalid(format!("values.{key}: only plain settings can be locked, remove it")));
        }
        if let Some((key, _)) = rules.values.iter().find(|(_, value)| value.is_null()) {
            return Err(invalid(format!("values.{key}: it has no value")));
        }
        Ok(Self { path: path.to_path_buf(), rules })
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin::Policy { path: self.path.clone() }
    }

    /// The enforced value of `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.rules.values.get(key)
    }

    pub(crate) fn locked_keys(&self) -> impl Iterator<Item = &str> {
        self.rules.values.keys().map(String::as_str)
    }

    /// The provider ids that may be used; `None` means any.
    pub fn allowed_providers(&self) -> Option<&[String]> {
        self.rules.providers.as_deref()
    }

    /// The model ids that may be used; `None` means any.
    pub fn allowed_models(&self) -> Option<&[String]> {
        self.rules.models.as_deref()
    }

    /// Extensions and tools must run in the sandbox, whatever the user says.
    pub fn requires_sandbox(&self) -> bool {
        self.rules.require_sandbox
    }

    /// Packages that an extension fetches when it starts must have an exact version.
    pub fn requires_pinned_packages(&self) -> bool {
        self.rules.extensions.pinned_packages
    }

    /// # Errors
    /// [`ConfigError::NotAllowed`] when a list exists and does not have this provider.
    pub fn check_provider(&self, provider_id: &str) -> Result<(), ConfigError> {
        self.check("provider", self.rules.providers.as_deref(), provider_id)
    }

    /// # Errors
    /// [`ConfigError::NotAllowed`] when a list exists and does not have this model.
    pub fn check_model(&self, model_id: &str) -> Result<(), ConfigError> {
        self.check("model", self.rules.models.as_deref(), model_id)
    }

    /// Checks an extension by its normalised name, its command (stdio types) and its address (remote types). Each
    /// list restricts what it names only: with `commands` alone, builtin and remote extensions stay free. A command
    /// is compared as it is written in the extension's definition.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`] naming the list that does not have it.
    pub fn check_extension(
        &self,
        name: &str,
        command: Option<&str>,
        uri: Option<&str>,
    ) -> Result<(), ConfigError> {
        let lists = &self.rules.extensions;
        self.check("extension name", lists.names.as_deref(), name)?;
        if let Some(command) = command {
            self.check("extension command", lists.commands.as_deref(), command)?;
        }
        if let Some(uri) = uri {
            self.check("extension uri", lists.uris.as_deref(), uri)?;
        }
        Ok(())
    }

    /// Whether extensions may be started by this program.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`].
    pub fn check_command(&self, command: &str) -> Result<(), ConfigError> {
        self.check("extension command", self.rules.extensions.commands.as_deref(), command)
    }

    fn check(&self, field: &str, allowed: Option<&[String]>, value: &str) -> Result<(), ConfigError> {
        match allowed {
            Some(patterns) if !patterns.iter().any(|pattern| matches(pattern, value)) => {
                Err(ConfigError::NotAllowed {
                    field: field.to_owned(),
                    value: value.to_owned(),
                    allowed: if patterns.is_empty() { "none".to_owned() } else { patterns.join(", ") },
                    origin: self.origin(),
                })
            }
            _ => Ok(()),
        }
    }
}

fn matches(pattern: &str, value: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => pattern == value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(Path::new("/p.yaml"), text.as_bytes()).unwrap()
    }

    #[test]
    fn lists_restrict_what_they_name() {
        let open = policy("");
        assert!(open.check_provider("any").is_ok() && open.check_extension("x", Some("y"), None).is_ok());
        assert!(!open.requires_sandbox() && !open.requires_pinned_packages());
        assert!(policy("extensions: {pinned_packages: true}").requires_pinned_packages());

        let strict = policy(
            "providers: [openai]\nmodels: ['gpt-4*', o3]\nrequire_sandbox: true\n\
             extensions: {names: [developer, 'corp-*'], commands: [npx], uris: ['https://mcp.corp/*']}\n",
        );
        assert!(strict.requires_sandbox());
        for (ok, result) in [
            (true, strict.check_provider("openai")),
            (false, strict.check_provider("openai2")),
            (true, strict.check_model("gpt-4o")),
            (true, strict.check_model("o3")),
            (false, strict.check_model("o3-mini")),
            (true, strict.check_extension("developer", None, None)),
            (false, strict.check_extension("other", None, None)),
            (true, strict.check_extension("corp-a", Some("npx"), None)),
            (false, strict.check_extension("corp-a", Some("/tmp/npx"), None)),
            (true, strict.check_extension("corp-a", None, Some("https://mcp.corp/x"))),
            (false, strict.check_extension("corp-a", None, Some("https://mcp.corp.evil/x"))),
        ] {
            assert_eq!(result.is_ok(), ok, "{result:?}");
        }
        let text = strict.check_model("x").unwrap_err().to_string();
        assert!(text.contains("model") && text.contains("gpt-4*, o3") && text.contains("/p.yaml"), "{text}");
        assert!(policy("models: []").check_model("x").unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_policy_that_is_not_understood_is_refused() {
        for text in [
            "provders: [x]\n",
            "providers: x\n",
            "extensions: {name: [x]}\n",
            "require_sandbox: maybe\n",
            "values: {extensions: {}}\n",
            "values: {OPENAI_API_KEY: x}\n",
            "values: {GOOSE_MODE: }\n",
        ] {
            let error = Policy::parse(Path::new("/p.yaml"), text.as_bytes()).unwrap_err();
            assert!(matches!(error, ConfigError::InvalidPolicy { .. }), "{error}");
        }
        assert!(matches!(
            Policy::parse(Path::new("/p.yaml"), b"[1]"),
            Err(ConfigError::Shape { found: "a list", .. })
        ));
    }
}
