//! The bridge to the configuration: configured extensions, policy, errors.

use gander_config::ConfigError;
use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport, Sandbox, SandboxMode, extension_key},
};
use gander_formats::extension::Entry;

use crate::{engine::Engine, services::Services};

/// The API error of a configuration error.
pub fn config_error(error: &ConfigError) -> ErrorDetail {
    let reason = match error {
        ConfigError::Malformed { .. } | ConfigError::Shape { .. } | ConfigError::InvalidPolicy { .. } => {
            ErrorReason::ConfigMalformed
        }
        ConfigError::ReadOnly { .. } => ErrorReason::ConfigReadOnly,
        ConfigError::NotAllowed { .. } => ErrorReason::PolicyDenied,
        ConfigError::InvalidKey { .. }
        | ConfigError::InvalidValue { .. }
        | ConfigError::SecretKey { .. }
        | ConfigError::WrongType { .. } => ErrorReason::InvalidField,
        _ => ErrorReason::SecretStoreUnavailable,
    };
    let detail = ErrorDetail::new(reason, error.to_string());
    match error {
        ConfigError::ReadOnly { key, .. }
        | ConfigError::InvalidKey { key, .. }
        | ConfigError::InvalidValue { key, .. }
        | ConfigError::SecretKey { key }
        | ConfigError::WrongType { key, .. } => detail.with("key", key),
        _ => detail,
    }
}

impl Services {
    /// The extensions of the configuration. Where it does not speak of them, the builtin `developer` is there and enabled.
    pub(crate) fn configured_extensions(&self) -> Vec<Entry> {
        self.configured_extensions_with_problems().0
    }

    /// The same, with what could not be read.
    pub(crate) fn configured_extensions_with_problems(&self) -> (Vec<Entry>, Vec<String>) {
        let config = self.config.current();
        let raw = config.extensions();
        if raw.is_empty() && !config.lists_extensions() {
            return (vec![default_extension()], Vec::new());
        }
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        for (key, entry) in raw {
            match gander_formats::extension::entry_from_value(&key, &entry.value) {
                Ok(entry) => entries.push(entry),
                Err(error) => problems.push(format!("extension {key}: {error}")),
            }
        }
        (entries, problems)
    }

    /// The configured extension of this name, enabled or not.
    pub(crate) fn configured_extension(&self, name: &str) -> Result<Entry, ErrorDetail> {
        let key = extension_key(name);
        let configured = self.configured_extensions();
        configured
            .into_iter()
            .find(|e| e.key == key || extension_key(&e.config.name) == key)
            .ok_or_else(|| crate::engine::extension_not_found(name))
    }

    /// Puts an extension into a sandbox where the organisation's policy demands one and its own configuration has none.
    pub(crate) fn enforce_sandbox(&self, config: &mut ExtensionConfig) {
        let none = config.sandbox.as_ref().is_none_or(|s| s.mode == SandboxMode::Off);
        if none && self.config.current().policy().requires_sandbox() {
            config.sandbox = Some(Sandbox { mode: SandboxMode::WorkspaceWrite, ..Sandbox::default() });
        }
    }

    /// Whether the organisation's policy allows an extension.
    pub(crate) fn extension_policy(&self, config: &ExtensionConfig) -> Result<(), ErrorDetail> {
        let (command, uri) = match &config.transport {
            ExtensionTransport::Stdio { command, .. } => (Some(command.as_str()), None),
            // What runs the code; the code itself could be anything.
            ExtensionTransport::InlinePython { .. } => (Some("uvx"), None),
            ExtensionTransport::StreamableHttp { uri, .. } | ExtensionTransport::Sse { uri } => {
                (None, Some(uri.as_str()))
            }
            _ => (None, None),
        };
        let current = self.config.current();
        let policy = current.policy();
        check_packages(policy, config)?;
        let prefix = config.exec_prefix.first().map_or(Ok(()), |program| policy.check_command(program));
        prefix
            .and_then(|()| policy.check_extension(&config.name, command, uri))
            .map_err(|e| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string()))
    }
}

impl Engine {
    /// The extensions of the configuration. Without any, the builtin `developer` is there and enabled.
    pub fn configured_extensions(&self) -> Vec<Entry> {
        self.services().configured_extensions()
    }

    /// The same, with what could not be read.
    pub fn configured_extensions_with_problems(&self) -> (Vec<Entry>, Vec<String>) {
        self.services().configured_extensions_with_problems()
    }
}

/// What an extension fetches when it starts must be a certain version where the policy says so.
fn check_packages(policy: &gander_config::Policy, config: &ExtensionConfig) -> Result<(), ErrorDetail> {
    if !policy.requires_pinned_packages() {
        return Ok(());
    }
    let Some(package) = gander_formats::extension::unpinned_package(config) else { return Ok(()) };
    let text = format!(
        "extension {}: the policy wants packages with an exact version, and {package} has none; write for example \
         NAME@1.2.3 (npx) or NAME==1.2.3 (uvx)",
        config.name
    );
    Err(ErrorDetail::new(ErrorReason::PolicyDenied, text).with("package", package))
}

fn default_extension() -> Entry {
    let config = ExtensionConfig {
        name: "developer".to_owned(),
        transport: ExtensionTransport::Builtin,
        description: "Shell and files".to_owned(),
        display_name: Some("Developer".to_owned()),
        bundled: true,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: std::collections::BTreeMap::new(),
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: gander_domain::extension::ProtocolEra::Auto,
        sampling: gander_domain::extension::SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    };
    Entry { key: "developer".to_owned(), enabled: true, config }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_may_refuse_packages_of_no_certain_version() {
        let root = tempfile::tempdir().unwrap();
        let policy = |text: &str| {
            let file = root.path().join("policy.yaml");
            std::fs::write(&file, text).unwrap();
            let environment = gander_config::Environment::default();
            let paths = gander_config::Paths::resolve(Some(root.path()), &environment).unwrap();
            let mut options = gander_config::ConfigOptions::new(paths, environment);
            options.policy_file = Some(file);
            gander_config::ConfigHandle::open(options).unwrap()
        };
        let npx = |package: &str| {
            let entry =
                serde_json::json!({"type": "stdio", "name": "hub", "cmd": "npx", "args": ["-y", package]});
            gander_formats::extension::from_value(&entry).unwrap()
        };
        let strict = policy("extensions: {pinned_packages: true}\n").current();
        assert!(check_packages(strict.policy(), &npx("server@1.2.3")).is_ok());
        let error = check_packages(strict.policy(), &npx("server")).unwrap_err();
        assert_eq!(error.reason, ErrorReason::PolicyDenied);
        for part in ["extension hub", "server has none", "NAME@1.2.3"] {
            assert!(error.message.contains(part), "{error}");
        }
        assert!(check_packages(policy("").current().policy(), &npx("server")).is_ok());
    }
}
