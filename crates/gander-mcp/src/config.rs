//! Checks of an extension's configuration before anything is started, and its hash. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport, ProtocolEra, extension_key},
};
use sha2::{Digest as _, Sha256};

use crate::launch;

/// Variables that change how programs are found or loaded; an extension's configuration may not set them.
const DISALLOWED: [&str; 22] = [
    "PATH",
    "PATHEXT",
    "SYSTEMROOT",
    "WINDIR",
    "PYTHONPATH",
    "PYTHONHOME",
    "NODE_OPTIONS",
    "RUBYOPT",
    "GEM_PATH",
    "GEM_HOME",
    "CLASSPATH",
    "GO111MODULE",
    "GOROOT",
    "APPINIT_DLLS",
    "SESSIONNAME",
    "COMSPEC",
    "TEMP",
    "TMP",
    "LOCALAPPDATA",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
];
/// The dynamic loader's families.
const DISALLOWED_PREFIXES: [&str; 2] = ["LD_", "DYLD_"];

/// What children get of the session's environment besides the families below: how to find programs, files and the
/// user's language. Everything else (the daemon's keys above all) must be configured for the extension.
const INHERITED: [&str; 10] =
    ["HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];
const INHERITED_PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// The part of the session's environment that child processes get.
pub(crate) fn child_environment(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let passes = |name: &str| {
        INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    environment
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether an extension may set the variable `name`.
fn is_disallowed(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    DISALLOWED.contains(&name.as_str()) || DISALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn invalid(config: &ExtensionConfig, text: impl std::fmt::Display) -> ErrorDetail {
    ErrorDetail::new(ErrorReason::ExtensionConfigInvalid, format!("extension {:?}: {text}", config.name))
        .with("extensionName", &config.name)
}

fn unsupported(config: &ExtensionConfig, text: impl std::fmt::Display) -> ErrorDetail {
    ErrorDetail::new(ErrorReason::ExtensionTypeUnsupported, format!("extension {:?}: {text}", config.name))
        .with("extensionName", &config.name)
        .with("type", config.transport.kind())
}

/// Checks everything that can be checked without starting it.
pub(crate) fn validate(
    config: &ExtensionConfig,
    secrets: &BTreeMap<String, String>,
    builtins: &[String],
) -> Result<String, ErrorDetail> {
    let key = extension_key(&config.name);
    if key.is_empty() {
        return Err(invalid(config, "the name must contain at least one character that is not white space"));
    }
    if config.timeout_ms == Some(0) {
        return Err(invalid(config, "the timeout must be at least 1 ms; leave it out for the default"));
    }
    validate_environment(config, secrets)?;
    validate_transport(config, &key, builtins)?;
    Ok(key)
}

fn validate_environment(
    config: &ExtensionConfig,
    secrets: &BTreeMap<String, String>,
) -> Result<(), ErrorDetail> {
    for name in config.env.keys().chain(&config.env_keys) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid(config, format!("{name:?} is no name of an environment variable")));
        }
        if is_disallowed(name) {
            return Err(ErrorDetail::new(
                ErrorReason::EnvKeyDisallowed,
                format!(
                    "extension {:?}: the variable {name} changes how programs are loaded and may not be set; remove it \
                     from the extension's environment",
                    config.name
                ),
            )
            .with("extensionName", &config.name)
            .with("envKey", name));
        }
    }
    let missing: Vec<&str> =
        config.env_keys.iter().filter(|key| !secrets.contains_key(*key)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(ErrorDetail::new(
            ErrorReason::SecretMissing,
            format!(
                "extension {:?} needs the secret(s) {}, which are not set; set them with SetSecret",
                config.name,
                missing.join(", ")
            ),
        )
        .with("extensionName", &config.name)
        .with("secretKeys", missing.join(",")));
    }
    Ok(())
}

fn validate_transport(config: &ExtensionConfig, key: &str, builtins: &[String]) -> Result<(), ErrorDetail> {
    match &config.transport {
        ExtensionTransport::Builtin => {
            if builtin_name(config, key, builtins).is_none() {
                return Err(invalid(
                    config,
                    format!("there is no such builtin extension; there are: {}", builtins.join(", ")),
                ));
            }
            Ok(())
        }
        ExtensionTransport::Stdio { command, args } => {
            if command.trim().is_empty() {
                return Err(invalid(config, "the command (cmd) must not be empty"));
            }
            let parts = config.exec_prefix.iter().chain([command]);
            if parts.clone().any(|part| part.contains(['\n', '\r']))
                || parts.chain(args).any(|part| part.contains('\0'))
            {
                return Err(invalid(config, "the command must not contain line breaks or NUL bytes"));
            }
            Ok(())
        }
        ExtensionTransport::StreamableHttp { uri, unix_socket, headers } => {
            if unix_socket.as_deref().is_some_and(|path| matches!(path, "" | "@") || path.contains('\0')) {
                return Err(invalid(
                    config,
                    "the socket must be the path of a unix socket, or @NAME for an abstract one",
                ));
            }
            if let Some(name) = headers.keys().find(|name| is_reserved_header(name)) {
                let text = format!("the header {name} belongs to the protocol; remove it from the headers");
                return Err(invalid(config, text));
            }
            let known = ["http://", "https://"].iter().any(|scheme| uri.starts_with(scheme));
            if known { Ok(()) } else { Err(invalid(config, "the uri must begin with http:// or https://")) }
        }
        ExtensionTransport::Client { tools, .. } => {
            if tools.iter().any(|tool| tool.tool_name.is_empty() && tool.name.is_empty()) {
                return Err(invalid(config, "every tool needs a name"));
            }
            Ok(())
        }
        ExtensionTransport::Sse { .. } => Err(unsupported(
            config,
            "the SSE transport was removed from MCP and is not supported; migrate to the type streamable_http with the \
             server's streamable HTTP endpoint (often the same address ending in /mcp)",
        )),
        ExtensionTransport::InlinePython { code, dependencies } => {
            if code.trim().is_empty() || code.contains('\0') {
                return Err(invalid(config, "the code must not be empty or contain NUL bytes"));
            }
            // A leading dash would be an option of the package runner.
            let wrong =
                |name: &&String| name.trim().is_empty() || name.starts_with('-') || name.contains('\0');
            match dependencies.iter().find(wrong) {
                Some(name) => Err(invalid(config, format!("{name:?} is no name of a Python package"))),
                None => Ok(()),
            }
        }
        ExtensionTransport::Platform => {
            Err(unsupported(config, "platform extensions are part of the engine and not started as servers"))
        }
        ExtensionTransport::Unknown { kind } => Err(unsupported(
            config,
            format!(
                "the type {kind:?} is not known; known types: builtin, stdio, streamable_http, inline_python, frontend"
            ),
        )),
    }
}

/// Headers that say how a message is to be read and to which connection it belongs.
fn is_reserved_header(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    let own = [
        "accept",
        "connection",
        "content-length",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "transfer-encoding",
    ];
    own.contains(&name.as_str()) || name.starts_with("mcp-param-")
}

/// The programs that an extension starts must be allowed, and must not be a way around that. `prefix` is what goes in
/// front of its own command.
pub(crate) fn validate_command(
    config: &ExtensionConfig,
    prefix: &[String],
    allowed: Option<&[String]>,
) -> Result<(), ErrorDetail> {
    let refused = |command: &str, text: &str| {
        Err(ErrorDetail::new(
            ErrorReason::CommandNotAllowed,
            format!("extension {:?}: the command {command:?} {text}", config.name),
        )
        .with("extensionName", &config.name)
        .with("command", command))
    };
    let own = match &config.transport {
        ExtensionTransport::Stdio { command, .. } => Some(command.as_str()),
        ExtensionTransport::InlinePython { .. } => Some(launch::PYTHON_RUNNER),
        ExtensionTransport::Builtin => None,
        _ => return Ok(()),
    };
    for program in prefix.first().map(String::as_str).into_iter().chain(own) {
        let known =
            |list: &[String]| list.iter().any(|known| known == program || known == file_name(program));
        if !allowed.is_none_or(known) {
            return refused(program, "is not on the list of allowed commands; ask whoever keeps that list");
        }
    }
    let ExtensionTransport::Stdio { command, args } = &config.transport else { return Ok(()) };
    // Such arguments are a shell's command line, not a package.
    let calls = args.iter().any(|arg| arg == "-c" || arg == "--call" || arg.starts_with("--call="));
    if calls && matches!(file_name(command), "npx" | "npx.cmd") {
        return refused(
            command,
            "must not be used with -c (--call), which runs a shell; name the package instead",
        );
    }
    Ok(())
}

fn file_name(program: &str) -> &str {
    program.rsplit(['/', '\\']).next().unwrap_or(program)
}

/// The factory's own spelling of a builtin's name.
pub(crate) fn builtin_name<'a>(
    config: &ExtensionConfig,
    key: &str,
    builtins: &'a [String],
) -> Option<&'a String> {
    builtins
        .iter()
        .find(|name| **name == config.name)
        .or_else(|| builtins.iter().find(|name| extension_key(name) == key))
}

/// Hex SHA-256 over everything that decides how the extension is started and treated. Values of secrets are not
/// part of it (only their names), as the log carries it.
#[must_use]
pub fn config_hash(config: &ExtensionConfig) -> String {
    let mut hash = Fields(Sha256::new());
    hash.field(&config.name).field(config.transport.kind());
    match &config.transport {
        ExtensionTransport::Builtin | ExtensionTransport::Platform => {}
        ExtensionTransport::Stdio { command, args } => {
            hash.field(command).list(args);
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            hash.field(uri).map(headers).field(unix_socket.as_deref().unwrap_or(""));
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            hash.field(code).list(dependencies);
        }
        ExtensionTransport::Client { tools, instructions } => {
            hash.field(&serde_json::to_string(tools).unwrap_or_default());
            hash.field(instructions.as_deref().unwrap_or(""));
        }
        ExtensionTransport::Sse { uri } => {
            hash.field(uri);
        }
        ExtensionTransport::Unknown { kind } => {
            hash.field(kind);
        }
    }
    hash.field(&config.timeout_ms.map_or_else(String::new, |ms| ms.to_string()));
    hash.list(&config.tool_allowlist).map(&config.env).list(&config.env_keys).list(&config.exec_prefix);
    hash.field(match config.protocol {
        ProtocolEra::Auto => "auto",
        ProtocolEra::Legacy => "legacy",
        ProtocolEra::Modern => "modern",
    });
    hash.field(
        &serde_json::to_string(&(config.sampling, &config.sandbox, config.pin_definitions))
            .unwrap_or_default(),
    );
    hex(&hash.0.finalize())
}

/// Length-prefixed fields, so that no two different configurations are the same bytes.
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, text: &str) -> &mut Self {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
        self
    }

    fn list(&mut self, items: &[String]) -> &mut Self {
        self.0.update((items.len() as u64).to_be_bytes());
        for item in items {
            self.field(item);
        }
        self
    }

    fn map(&mut self, items: &BTreeMap<String, String>) -> &mut Self {
        self.0.update((items.len() as u64).to_be_bytes());
        for (name, value) in items {
            self.field(name).field(value);
        }
        self
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What may be shown: values of the environment and of headers withheld, names kept.
pub(crate) fn withheld(config: &ExtensionConfig) -> ExtensionConfig {
    let mut shown = config.clone();
    shown.env.values_mut().for_each(String::clear);
    if let ExtensionTransport::StreamableHttp { headers, .. } = &mut shown.transport {
        headers.values_mut().for_each(String::clear);
    }
    shown
}

/// What must not appear in text that a server wrote: secrets, values of variables that are named like one, headers.
pub(crate) fn sensitive_values(config: &ExtensionConfig, secrets: &BTreeMap<String, String>) -> Vec<String> {
    const TELLING: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASS", "AUTH", "CRED"];
    let telling = |name: &str| {
        let name = name.to_ascii_uppercase();
        TELLING.iter().any(|part| name.contains(part))
    };
    let mut values: Vec<String> = secrets.values().cloned().collect();
    values.extend(config.env.iter().filter(|(name, _)| telling(name)).map(|(_, value)| value.clone()));
    if let ExtensionTransport::StreamableHttp { headers, .. } = &config.transport {
        values.extend(headers.values().cloned());
    }
    values.retain(|value| value.len() >= 4);
    // Longest first, so that a value that contains another one goes as a whole.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.dedup();
    values
}

/// Replaces `$NAME` and `${NAME}` once (values are not expanded again). Unknown names stay as they are.
pub fn substitute(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, after)) => (name, after),
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        match values.get(name) {
            Some(value) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdio(command: &str, args: &[&str]) -> ExtensionConfig {
        ExtensionConfig {
            name: "x".to_owned(),
            transport: ExtensionTransport::Stdio {
                command: command.to_owned(),
                args: args.iter().map(ToString::to_string).collect(),
            },
            description: String::new(),
            display_name: None,
            bundled: false,
            timeout_ms: None,
            tool_allowlist: Vec::new(),
            env: BTreeMap::new(),
            env_keys: Vec::new(),
            exec_prefix: Vec::new(),
            protocol: ProtocolEra::Auto,
            sampling: gander_domain::extension::SamplingPolicy::Off,
            sandbox: None,
            pin_definitions: false,
            unknown_json: None,
        }
    }

    #[test]
    fn the_hash_sees_every_boundary_and_no_description() {
        let base = stdio("a", &["b", "c"]);
        let mut described = base.clone();
        described.description = "other".to_owned();
        assert_eq!(config_hash(&base), config_hash(&described));
        let mut env = base.clone();
        env.env.insert("b".to_owned(), "c".to_owned());
        let mut keys = base.clone();
        keys.env_keys = vec!["b".to_owned()];
        for other in [stdio("a", &["bc"]), stdio("ab", &["c"]), stdio("a", &["c", "b"]), env, keys] {
            assert_ne!(config_hash(&base), config_hash(&other), "{other:?}");
        }
    }

    #[test]
    fn loader_variables_are_disallowed_in_any_case() {
        for name in
            ["PATH", "path", "LD_PRELOAD", "Ld_Audit", "DYLD_INSERT_LIBRARIES", "Node_Options", "SystemRoot"]
        {
            assert!(is_disallowed(name), "{name}");
        }
        for name in ["PATH_PREFIX", "LDAP_HOST", "MY_PATH", "GOPROXY"] {
            assert!(!is_disallowed(name), "{name}");
        }
    }

    #[test]
    fn children_inherit_what_is_listed_and_nothing_else() {
        let names = [
            "PATH",
            "HOME",
            "LC_ALL",
            "XDG_CACHE_HOME",
            "OPENAI_API_KEY",
            "GANDER_SECRET",
            "LD_PRELOAD",
            "path",
        ];
        let given = names.map(|name| (name.to_owned(), "v".to_owned())).into();
        let kept: Vec<String> = child_environment(&given).into_keys().collect();
        assert_eq!(kept, ["HOME", "LC_ALL", "PATH", "XDG_CACHE_HOME"]);
    }

    #[test]
    fn commands_are_checked_against_the_list_and_shells_in_disguise_refused() {
        let list = ["uvx".to_owned(), "/opt/x".to_owned()];
        let check = |config: &ExtensionConfig, list| {
            validate_command(config, &config.exec_prefix, list).map_err(|error| error.reason)
        };
        let refused = Err(ErrorReason::CommandNotAllowed);
        for (command, args, allowed, want) in [
            ("npx", &["-y", "pkg"][..], None, Ok(())),
            ("/usr/bin/npx", &["-c", "touch P"], None, refused),
            ("npx", &["--call=touch P"], None, refused),
            ("/usr/bin/uvx", &[], Some(&list[..]), Ok(())),
            ("/opt/x", &[], Some(&list[..]), Ok(())),
            ("/tmp/x", &[], Some(&list[..]), refused),
        ] {
            assert_eq!(check(&stdio(command, args), allowed), want, "{command} {args:?}");
        }
        let mut prefixed = stdio("uvx", &[]);
        prefixed.exec_prefix = vec!["docker".to_owned()];
        assert_eq!(check(&prefixed, Some(&list)), refused);
        prefixed.transport = ExtensionTransport::Builtin;
        assert_eq!(check(&prefixed, Some(&list)), refused);
        prefixed.exec_prefix.clear();
        assert_eq!(check(&prefixed, Some(&list)), Ok(()));
        prefixed.transport =
            ExtensionTransport::InlinePython { code: "1".to_owned(), dependencies: Vec::new() };
        assert_eq!(check(&prefixed, Some(&list)), Ok(()), "uvx is on the list");
        assert_eq!(check(&prefixed, Some(&list[1..])), refused);
    }

    #[test]
    fn values_are_substituted_once() {
        let values = [("A", "1"), ("AB", "2"), ("L", "$A")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, want) in [
            ("$A-${AB}", "1-2"),
            ("$AB$A", "21"),
            ("$L ${L}", "$A $A"),
            ("$NONE ${NONE} $ 5$", "$NONE ${NONE} $ 5$"),
            ("${A", "${A"),
        ] {
            assert_eq!(substitute(text, &values), want);
        }
    }

    #[test]
    fn sensitive_values_are_secrets_and_what_is_named_like_one() {
        let mut config = stdio("a", &[]);
        config.env = [("MODE", "production"), ("API_KEY", "abcdef"), ("X_TOKEN", "abc")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let secrets = [("S".to_owned(), "a longer secret".to_owned())].into();
        assert_eq!(sensitive_values(&config, &secrets), ["a longer secret", "abcdef"]);
        assert_eq!(withheld(&config).env["API_KEY"], "");
    }
}
