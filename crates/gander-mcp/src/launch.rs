//! What is started for an extension: its own command, the runner of its Python code, or, for a session in a container,
//! either of them (or a builtin) behind the container's exec command.
//!
//! Invariants: no shell is involved; no value of a variable is in a command line, only names are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::PermissionsExt as _,
};

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport},
};
use gander_process::find_program;
use tempfile::TempDir;

use crate::{config, host::SessionContext};

/// What runs Python code with its packages, fetching both where needed.
pub(crate) const PYTHON_RUNNER: &str = "uvx";
/// What runs code that needs no packages, where the runner is missing.
const PYTHON: &str = "python3";
/// The program that serves builtins in a container.
const OWN_PROGRAM: &str = "gander";
/// Longest code that fits into a command line (Linux takes 128 KiB per argument).
const MAX_INLINE_ARGUMENT: usize = 100 * 1024;

/// A container, and how commands are run in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id or name.
    pub id: String,
    /// Program and arguments in front of `-e NAME` for every variable, the id and the command: `docker exec -i`.
    pub exec: Vec<String>,
}

impl Container {
    /// With `docker exec -i`.
    #[must_use]
    pub fn docker(id: impl Into<String>) -> Self {
        Self { id: id.into(), exec: ["docker", "exec", "-i"].map(str::to_owned).to_vec() }
    }

    /// Variables are passed by name: the exec command has their values in its own environment.
    fn prefix(&self, config: &ExtensionConfig) -> Vec<String> {
        let names: BTreeSet<&String> = config.env.keys().chain(&config.env_keys).collect();
        let variables = names.into_iter().flat_map(|name| ["-e".to_owned(), name.clone()]);
        self.exec.iter().cloned().chain(variables).chain([self.id.clone()]).collect()
    }
}

/// A command, and the files that it needs.
pub(crate) struct Launch {
    pub(crate) argv: Vec<OsString>,
    /// Removed when the server is gone.
    pub(crate) script: Option<TempDir>,
}

/// What goes in front of the extension's own command. Its own configuration wins over the session's container.
pub(crate) fn prefix(config: &ExtensionConfig, context: &SessionContext) -> Vec<String> {
    match &context.container {
        Some(container) if config.exec_prefix.is_empty() => container.prefix(config),
        _ => config.exec_prefix.clone(),
    }
}

/// Whether a process is started for the extension.
pub(crate) fn has_process(config: &ExtensionConfig, context: &SessionContext) -> bool {
    match &config.transport {
        ExtensionTransport::Stdio { .. } | ExtensionTransport::InlinePython { .. } => true,
        ExtensionTransport::Builtin => context.container.is_some() || !config.exec_prefix.is_empty(),
        _ => false,
    }
}

/// The environment of the extension's process.
pub(crate) fn environment(
    config: &ExtensionConfig,
    secrets: &BTreeMap<String, String>,
    context: &SessionContext,
) -> BTreeMap<String, String> {
    let mut environment = config::child_environment(&context.environment);
    if context.container.is_some() {
        // How to reach the container's engine.
        let names = ["DOCKER_", "CONTAINER_"];
        let passes = |name: &String| names.iter().any(|prefix| name.starts_with(prefix));
        let found = context.environment.iter().filter(|(name, _)| passes(name));
        environment.extend(found.map(|(name, value)| (name.clone(), value.clone())));
    }
    environment.extend(config.env.clone());
    environment.extend(secrets.clone());
    environment
}

/// What to start. `builtin` is the name of a builtin extension as the factory spells it.
pub(crate) fn launch(
    config: &ExtensionConfig,
    key: &str,
    builtin: &str,
    environment: &BTreeMap<String, String>,
    context: &SessionContext,
) -> Result<Launch, ErrorDetail> {
    let prefix = prefix(config, context);
    let plain = |words: Vec<String>| Launch { argv: argv(&prefix, words), script: None };
    match &config.transport {
        ExtensionTransport::Stdio { command, args } => {
            Ok(plain(std::iter::once(command).chain(args).cloned().collect()))
        }
        ExtensionTransport::Builtin => Ok(plain([OWN_PROGRAM, "mcp", builtin].map(str::to_owned).to_vec())),
        ExtensionTransport::InlinePython { code, dependencies } if !prefix.is_empty() => {
            // A file of this machine is not there.
            if code.len() > MAX_INLINE_ARGUMENT {
                let text = format!(
                    "its code has {} bytes, and only {MAX_INLINE_ARGUMENT} can be passed into a container; put it \
                     into a file there and use the type stdio",
                    code.len()
                );
                return Err(failed(key, ErrorReason::ExtensionConfigInvalid, text));
            }
            let mut words = runner(dependencies);
            words.extend(["-c".to_owned(), code.clone()]);
            Ok(plain(words))
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            let find = |program: &str| {
                find_program(OsStr::new(program), &context.working_directory, environment).is_some()
            };
            let mut words = if find(PYTHON_RUNNER) {
                runner(dependencies)
            } else if !dependencies.is_empty() {
                let text = format!(
                    "it needs the Python packages {}, and {PYTHON_RUNNER}, which fetches them, is not in the session's \
                     PATH; install uv",
                    dependencies.join(", ")
                );
                return Err(failed(key, ErrorReason::ExtensionStartFailed, text));
            } else if find(PYTHON) {
                vec![PYTHON.to_owned()]
            } else {
                let text = format!(
                    "neither {PYTHON_RUNNER} nor {PYTHON} is in the session's PATH; install uv (or Python)"
                );
                return Err(failed(key, ErrorReason::ExtensionStartFailed, text));
            };
            let script = script(key, code).map_err(|error| {
                let text = format!("its code cannot be written to a temporary file: {error}");
                failed(key, ErrorReason::ExtensionStartFailed, text)
            })?;
            words.push(script.path().join(file_name(key)).to_string_lossy().into_owned());
            Ok(Launch { argv: argv(&[], words), script: Some(script) })
        }
        other => {
            let text = format!("the type {} has no process", other.kind());
            Err(failed(key, ErrorReason::ExtensionTypeUnsupported, text))
        }
    }
}

fn argv(prefix: &[String], words: Vec<String>) -> Vec<OsString> {
    prefix.iter().cloned().chain(words).map(OsString::from).collect()
}

/// As Goose calls it: the packages, MCP's own first, then the interpreter.
fn runner(dependencies: &[String]) -> Vec<String> {
    let packages = std::iter::once("mcp").chain(dependencies.iter().map(String::as_str));
    let options = packages.flat_map(|package| ["--with".to_owned(), package.to_owned()]);
    std::iter::once(PYTHON_RUNNER.to_owned()).chain(options).chain(["python".to_owned()]).collect()
}

/// Not the bare key: Python looks for modules beside the script, and an extension may be called like one.
fn file_name(key: &str) -> String {
    format!("inline_{key}.py")
}

/// The code in a directory that only this user can read.
fn script(key: &str, code: &str) -> io::Result<TempDir> {
    let private = fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("gander-").permissions(private).tempdir()?;
    fs::write(directory.path().join(file_name(key)), code)?;
    Ok(directory)
}

fn failed(key: &str, reason: ErrorReason, text: impl std::fmt::Display) -> ErrorDetail {
    ErrorDetail::new(reason, format!("extension {key} did not start: {text}")).with("extensionName", key)
}

#[cfg(test)]
mod tests;
