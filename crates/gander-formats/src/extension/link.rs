//! `goose://extension?…`: an extension that somebody offers on a web page.
//!
//! A link comes from a stranger. So nothing that it says is a value: variables become names of secrets, headers are
//! blank, and both are reported as missing. It may name only programs that run packages, and no shell in disguise.
//! Whoever stores it does so disabled, for a person to look at first.

use std::fmt;

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport},
};
use url::Url;

use super::{command_violation, disallowed_env_keys, drop_disallowed_env, read, validate};
use crate::FormatError;

/// Programs that a link may name: Goose's list.
pub const LINK_COMMANDS: &[&str] =
    &["cu", "docker", "jbang", "npx", "uvx", "goosed", "npx.cmd", "i-ching-mcp-server"];
/// Longest link; browsers cut at about this.
const MAX_LENGTH: usize = 32 * 1024;
/// Most arguments, variables and headers each.
const MAX_VALUES: usize = 256;
const KNOWN: &[&str] = &[
    "name",
    "cmd",
    "arg",
    "url",
    "transport",
    "type",
    "id",
    "description",
    "timeout",
    "env",
    "header",
    "installation_notes",
];

/// What a link offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionLink {
    /// Valid; `env_keys` and blank headers are what somebody has to fill in.
    pub config: ExtensionConfig,
    /// Variables and headers that the link names, without the values that it may have given.
    pub keys: Vec<LinkKey>,
    /// Text that the link brings, for people. May be empty.
    pub installation_notes: String,
    /// What a person should know before enabling it, one sentence each.
    pub warnings: Vec<String>,
}

/// Something that needs a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKey {
    /// A variable; its value belongs in the secret store under the same name.
    Secret(String),
    /// A header, blank in the configuration.
    Header(String),
}

impl LinkKey {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Secret(name) | Self::Header(name) => name,
        }
    }
}

/// Why a link is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    /// It is no link to an extension, or a parameter is missing or wrong.
    Invalid(FormatError),
    /// It would start what no link may start.
    Command {
        /// The program.
        command: String,
        /// Why, with the remedy.
        message: String,
    },
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "the link: {error}"),
            Self::Command { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<LinkError> for ErrorDetail {
    fn from(error: LinkError) -> Self {
        let text = error.to_string();
        match error {
            LinkError::Invalid(error) => {
                let mut detail = Self::from(error);
                detail.reason = ErrorReason::LinkInvalid;
                detail.message = text;
                detail
            }
            LinkError::Command { command, .. } => {
                Self::new(ErrorReason::CommandNotAllowed, text).with("command", command)
            }
        }
    }
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> LinkError {
    LinkError::Invalid(FormatError {
        reason: ErrorReason::LinkInvalid,
        field: field.into(),
        message: message.into(),
    })
}

/// Whether a text is meant to be such a link.
pub fn is_link(text: &str) -> bool {
    text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("goose://"))
}

/// Reads a link.
///
/// # Errors
/// [`LinkError`]: the first thing that is wrong.
pub fn parse_link(link: &str) -> Result<ExtensionLink, LinkError> {
    let parameters = Parameters::read(link)?;
    let name = parameters.one("name")?.ok_or_else(|| invalid("name", "missing; it says what to call it"))?;
    let mut warnings = parameters.warnings.clone();
    let mut config = read::empty();
    config.transport = transport(&parameters, name)?;
    name.clone_into(&mut config.name);
    if let (ExtensionTransport::Builtin, Some(builtin)) = (&config.transport, parameters.all("arg").nth(1)) {
        // A builtin is found by its name, whatever the link calls it.
        builtin.clone_into(&mut config.name);
        config.display_name = Some(name.to_owned());
    }
    config.description = parameters.one("description")?.unwrap_or_default().to_owned();
    if let Some(text) = parameters.one("timeout")?.filter(|text| !text.is_empty()) {
        let seconds = text.parse::<u64>().map_err(|_| invalid("timeout", "must be a number of seconds"))?;
        config.timeout_ms = Some(seconds.saturating_mul(1000));
    }
    let keys = keys(&parameters, &mut config)?;
    for key in disallowed_env_keys(&config) {
        warnings.push(format!("the link asks for the variable {key}, which no extension may set: left out"));
    }
    drop_disallowed_env(&mut config);
    if let Some(found) = command_violation(&config) {
        let command = parameters.one("cmd")?.unwrap_or_default().to_owned();
        return Err(LinkError::Command { command, message: format!("the link: {}", found.description) });
    }
    if let Some(found) = validate(&config).into_iter().next() {
        return Err(invalid(found.field, found.description));
    }
    warnings.extend(cautions(&config));
    let keys = keys.into_iter().filter(|key| match key {
        LinkKey::Secret(name) => config.env_keys.contains(name),
        LinkKey::Header(_) => true,
    });
    Ok(ExtensionLink {
        keys: keys.collect(),
        installation_notes: parameters.one("installation_notes")?.unwrap_or_default().to_owned(),
        warnings,
        config,
    })
}

fn transport(parameters: &Parameters, name: &str) -> Result<ExtensionTransport, LinkError> {
    let args: Vec<String> = parameters.all("arg").map(str::to_owned).collect();
    match (parameters.one("cmd")?, parameters.one("url")?) {
        (Some(_), Some(_)) => Err(invalid("cmd", "has a command and a url; one of them is enough")),
        (None, None) => Err(invalid("cmd", "missing; a link names a command (cmd, arg) or a server (url)")),
        (None, Some(_)) if !args.is_empty() => Err(invalid("arg", "belongs to cmd, and there is only a url")),
        (None, Some(url)) => match parameters.one("transport")?.or(parameters.one("type")?) {
            Some("sse") => Ok(ExtensionTransport::Sse { uri: url.to_owned() }),
            _ => Ok(ExtensionTransport::StreamableHttp {
                uri: url.to_owned(),
                headers: std::collections::BTreeMap::new(),
                unix_socket: None,
            }),
        },
        (Some("goosed"), None) => match args.as_slice() {
            [word, _builtin] if word == "mcp" => Ok(ExtensionTransport::Builtin),
            _ => Err(LinkError::Command {
                command: "goosed".to_owned(),
                message: format!("the link {name:?}: of goosed only `goosed mcp NAME` is known, a builtin"),
            }),
        },
        (Some(command), None) if LINK_COMMANDS.contains(&command) => {
            Ok(ExtensionTransport::Stdio { command: command.to_owned(), args })
        }
        (Some(command), None) => Err(LinkError::Command {
            command: command.to_owned(),
            message: format!(
                "the link {name:?} would start {command:?}; a link may start only {}. If you trust it, add the \
                 extension by hand",
                LINK_COMMANDS.join(", ")
            ),
        }),
    }
}

/// What needs a value: values in a link are somebody else's, or a description.
fn keys(parameters: &Parameters, config: &mut ExtensionConfig) -> Result<Vec<LinkKey>, LinkError> {
    let mut keys = Vec::new();
    for text in parameters.all("env") {
        let name = text.split_once('=').map_or(text, |(name, _)| name).trim();
        if name.is_empty() {
            return Err(invalid("env", "must be NAME=…"));
        }
        if !config.env_keys.iter().any(|known| known == name) {
            config.env_keys.push(name.to_owned());
            keys.push(LinkKey::Secret(name.to_owned()));
        }
    }
    for text in parameters.all("header") {
        let name = text.split_once(['=', ':']).map_or(text, |(name, _)| name).trim();
        let ExtensionTransport::StreamableHttp { headers, .. } = &mut config.transport else {
            return Err(invalid("header", "belongs to a url, and there is none"));
        };
        if name.is_empty() {
            return Err(invalid("header", "must be NAME=…"));
        }
        if headers.insert(name.to_owned(), String::new()).is_none() {
            keys.push(LinkKey::Header(name.to_owned()));
        }
    }
    Ok(keys)
}

fn cautions(config: &ExtensionConfig) -> Vec<String> {
    match &config.transport {
        ExtensionTransport::Stdio { command, args } => {
            vec![format!(
                "enabling it runs `{}` on this machine, as you",
                std::iter::once(command).chain(args).cloned().collect::<Vec<_>>().join(" ")
            )]
        }
        ExtensionTransport::StreamableHttp { uri, .. } => {
            let host =
                Url::parse(uri).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
            let mut found = vec![format!("what its tools are called with goes to {host}")];
            if uri.starts_with("http://") && !matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
                found.push(format!("the connection to {host} is not encrypted"));
            }
            found
        }
        ExtensionTransport::Sse { .. } => {
            vec![
                "the SSE transport is not supported: look for the server's streamable HTTP address"
                    .to_owned(),
            ]
        }
        _ => Vec::new(),
    }
}

/// The query, decoded, in order.
struct Parameters {
    pairs: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Parameters {
    fn read(link: &str) -> Result<Self, LinkError> {
        if link.len() > MAX_LENGTH {
            return Err(invalid("link", format!("longer than {MAX_LENGTH} bytes")));
        }
        if link.chars().any(char::is_control) {
            return Err(invalid("link", "holds a line break or control character; copy it anew"));
        }
        let url =
            Url::parse(link.trim()).map_err(|_| invalid("link", "no address; it begins with goose://"))?;
        if url.scheme() != "goose" {
            return Err(invalid("link", "must begin with goose://"));
        }
        if url.host_str() != Some("extension") || !matches!(url.path(), "" | "/") {
            return Err(invalid("link", "does not lead to an extension: goose://extension?…"));
        }
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let mut warnings: Vec<String> = Vec::new();
        for (key, value) in &pairs {
            if value.chars().any(|c| c.is_control() && !(key == "installation_notes" && c == '\n')) {
                return Err(invalid(key, "holds a line break or control character"));
            }
            let warning = format!("the link's parameter {key:?} is not known and was left out");
            if !KNOWN.contains(&key.as_str()) && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        for key in ["arg", "env", "header"] {
            if pairs.iter().filter(|(name, _)| name == key).count() > MAX_VALUES {
                return Err(invalid(key, format!("more than {MAX_VALUES} of them")));
            }
        }
        Ok(Self { pairs, warnings })
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// `None` if it is missing or blank.
    fn one(&self, key: &str) -> Result<Option<&str>, LinkError> {
        let mut found = self.pairs.iter().filter(|(name, _)| name == key).map(|(_, value)| value.trim());
        let first = found.next();
        match found.next() {
            Some(_) => Err(invalid(key, "given more than once")),
            None => Ok(first.filter(|value| !value.is_empty())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_its_keys() {
        let link = "goose://extension?cmd=npx&arg=-y&arg=%40org%2Fserver&id=gh&name=Git%20Hub&description=Issues\
                    &timeout=30&env=TOKEN%3DYour%20token&env=TOKEN&env=PATH%3D%2Ftmp&installation_notes=Hi&color=red";
        let found = parse_link(link).unwrap();
        let config = &found.config;
        assert_eq!((config.name.as_str(), config.description.as_str()), ("Git Hub", "Issues"));
        assert_eq!(config.timeout_ms, Some(30_000));
        let words = ["-y", "@org/server"].map(str::to_owned).to_vec();
        assert_eq!(config.transport, ExtensionTransport::Stdio { command: "npx".to_owned(), args: words });
        assert_eq!(config.env_keys, ["TOKEN"]);
        assert!(config.env.is_empty(), "nothing that a link says is a value");
        assert_eq!(found.keys, [LinkKey::Secret("TOKEN".to_owned())]);
        assert_eq!(found.installation_notes, "Hi");
        let warnings = found.warnings.join("\n");
        for part in ["PATH", "color", "npx -y @org/server"] {
            assert!(warnings.contains(part), "{warnings}");
        }
    }

    #[test]
    fn a_server_with_headers_and_a_builtin() {
        let link = "goose://extension?name=Tickets&url=http%3A%2F%2Ft.example%2Fmcp&header=Authorization%3DBearer%20x&header=X-A";
        let found = parse_link(link).unwrap();
        let ExtensionTransport::StreamableHttp { uri, headers, .. } = &found.config.transport else {
            panic!()
        };
        assert_eq!(uri, "http://t.example/mcp");
        assert!(headers.len() == 2 && headers.values().all(String::is_empty), "{headers:?}");
        assert_eq!(found.keys.iter().map(LinkKey::name).collect::<Vec<_>>(), ["Authorization", "X-A"]);
        assert!(found.warnings.iter().any(|text| text.contains("not encrypted")));
        let builtin = parse_link("goose://extension?cmd=goosed&arg=mcp&arg=memory&name=My%20notes").unwrap();
        assert_eq!(builtin.config.transport, ExtensionTransport::Builtin);
        assert_eq!(builtin.config.name, "memory");
        assert_eq!(builtin.config.display_name.as_deref(), Some("My notes"));
        let sse = parse_link("goose://extension?name=o&url=https%3A%2F%2Fo%2Fsse&transport=sse").unwrap();
        assert!(matches!(sse.config.transport, ExtensionTransport::Sse { .. }));
    }

    #[test]
    fn what_is_refused() {
        for (query, field) in [
            ("name=x", "cmd"),
            ("cmd=npx&arg=p", "name"),
            ("name=%20&cmd=npx", "name"),
            ("name=x&cmd=npx&url=https%3A%2F%2Fh", "cmd"),
            ("name=x&url=https%3A%2F%2Fh&arg=a", "arg"),
            ("name=x&url=file%3A%2F%2F%2Fetc", "uri"),
            ("name=x&url=javascript%3Aalert(1)", "uri"),
            ("name=x&name=y&cmd=npx", "name"),
            ("name=x&cmd=npx&cmd=uvx", "cmd"),
            ("name=x&cmd=npx&arg=a%0Ab", "arg"),
            ("name=x&cmd=npx&timeout=soon", "timeout"),
            ("name=x&cmd=npx&timeout=0", "timeout"),
            ("name=x&cmd=npx&env=%3Dv", "env"),
            ("name=x&cmd=npx&header=A%3Db", "header"),
            ("name=x&url=https%3A%2F%2Fh&header=A%20B%3Dc", "headers.A B"),
        ] {
            match parse_link(&format!("goose://extension?{query}")) {
                Err(LinkError::Invalid(error)) => assert_eq!(error.field, field, "{query}: {error}"),
                other => panic!("{query}: {other:?}"),
            }
        }
        for link in [
            "goose://recipe?config=x",
            "https://extension?name=x",
            "goose://extension/x?name=x",
            "goose:",
            "",
        ] {
            let error = parse_link(link).unwrap_err();
            assert_eq!(ErrorDetail::from(error).reason, ErrorReason::LinkInvalid, "{link}");
        }
        for command in ["sh", "%2Fusr%2Fbin%2Fnpx", "bash", "python3", "goosed", "npx%20-y"] {
            let error = parse_link(&format!("goose://extension?name=x&cmd={command}&arg=a")).unwrap_err();
            assert_eq!(ErrorDetail::from(error).reason, ErrorReason::CommandNotAllowed, "{command}");
        }
        for args in ["arg=-c&arg=touch%20x", "arg=--call&arg=x", "arg=-y&arg=--call%3Dx"] {
            let error = parse_link(&format!("goose://extension?name=x&cmd=npx&{args}")).unwrap_err();
            assert_eq!(ErrorDetail::from(error).reason, ErrorReason::CommandNotAllowed, "{args}");
        }
    }

    #[test]
    fn links_are_told_from_names() {
        for (text, wanted) in
            [("goose://x", true), ("GOOSE://x", true), ("goose", false), ("gööse://", false)]
        {
            assert_eq!(is_link(text), wanted, "{text}");
        }
    }
}
