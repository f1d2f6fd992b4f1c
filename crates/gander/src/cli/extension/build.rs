//! From what was typed to an extension's configuration. Pure; nothing is run or looked up, and no shell is involved.

use gander_domain::extension::extension_key;
use gander_formats::extension::{command_violation, from_value, is_disallowed_env_key};
use gander_proto::v1::{
    BuiltinExtension, ConfiguredSelection, ExactSelection, ExtensionConfig, ExtensionSandbox,
    ExtensionSelection, McpProtocol, SamplingMode, SamplingPolicy, SandboxMode, StdioExtension,
    StreamableHttpExtension, extension_config::Kind, extension_selection::Selection,
};
use serde_json::json;

use super::args::{AddArgs, OneOffArgs, Protocol, Sampling, Sandbox, WithArgs};
use crate::cli::error::{CliError, CliResult};

/// Programs that only start another one: the name is taken from what they start.
const LAUNCHERS: &[&str] =
    &["npx", "bunx", "uvx", "pipx", "node", "bun", "deno", "python", "python3", "uv", "docker", "env"];
/// Words of launchers that name nothing.
const LAUNCHER_WORDS: &[&str] = &["run", "exec", "tool", "dlx"];

/// A configuration for `gander extension add`.
pub(crate) fn from_add(args: &AddArgs) -> CliResult<ExtensionConfig> {
    let mut config = match (&args.cmd, &args.url) {
        (Some(command), _) => from_command("--cmd", command)?,
        (None, Some(url)) => from_url(url),
        (None, None) if args.builtin => builtin(&args.name),
        (None, None) => {
            return Err(CliError::usage(format!("what is {:?}?", args.name))
                .remedy("say it with --cmd COMMAND, --url URL or --builtin, or give a goose:// link"));
        }
    };
    config.name.clone_from(&args.name);
    config.env.extend(args.env.iter().cloned());
    config.env_keys.clone_from(&args.env_key);
    allowed(&config)?;
    if let Some(Kind::StreamableHttp(http)) = &mut config.kind {
        http.headers = args.header.iter().cloned().collect();
    }
    config.timeout = args
        .timeout
        .map(|time| {
            prost_types::Duration::try_from(time).map_err(|_| CliError::usage("--timeout: this is too long"))
        })
        .transpose()?;
    config.sampling = args.sampling.map(|sampling| SamplingPolicy {
        mode: match sampling {
            Sampling::Off => SamplingMode::Deny,
            Sampling::Ask => SamplingMode::Ask,
            Sampling::Allow => SamplingMode::Allow,
        } as i32,
        ..SamplingPolicy::default()
    });
    config.pin_definitions = args.pin;
    if let Some(protocol) = args.protocol {
        config.protocol = match protocol {
            Protocol::Auto => McpProtocol::Auto,
            Protocol::Legacy => McpProtocol::Legacy,
            Protocol::Modern => McpProtocol::Modern,
        } as i32;
    }
    config.sandbox = args.sandbox.map(|sandbox| ExtensionSandbox {
        mode: match sandbox {
            Sandbox::ReadOnly => SandboxMode::ReadOnly,
            Sandbox::WorkspaceWrite => SandboxMode::WorkspaceWrite,
        } as i32,
        allow_network: args.sandbox_network,
        readable_paths: args.sandbox_read.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        ..ExtensionSandbox::default()
    });
    Ok(config)
}

/// Whether `gander extension add` was given a link; it takes no other options then.
pub(crate) fn is_link(args: &AddArgs) -> CliResult<bool> {
    if !gander_formats::extension::is_link(&args.name) {
        return Ok(false);
    }
    let bare = AddArgs { name: args.name.clone(), ..AddArgs::default() };
    if format!("{args:?}") != format!("{bare:?}") {
        return Err(CliError::usage(
            "a link says itself how the extension runs; leave out the other options",
        )
        .remedy("add it, then change it with `gander extension add NAME …`"));
    }
    Ok(true)
}

/// The extensions that `gander run` was given, with names of their own.
pub(crate) fn from_with(args: &WithArgs) -> CliResult<Vec<ExtensionConfig>> {
    let mut configs = Vec::new();
    for command in &args.with_extension {
        configs.push(from_command("--with-extension", command)?);
    }
    configs.extend(args.with_http.iter().map(|url| from_url(url)));
    configs.extend(args.with_builtin.iter().filter(|name| !name.trim().is_empty()).map(|name| builtin(name)));
    make_unique(&mut configs);
    Ok(configs)
}

/// What a new session of `gander run` gets. `None`: what is configured.
pub(crate) fn selection(args: &WithArgs) -> CliResult<Option<ExtensionSelection>> {
    let configs = from_with(args)?;
    let selection = match (args.no_profile, configs.is_empty()) {
        (true, _) => Selection::Exactly(ExactSelection { extensions: configs }),
        (false, true) => return Ok(None),
        (false, false) => Selection::Configured(ConfiguredSelection { add: configs }),
    };
    Ok(Some(ExtensionSelection { selection: Some(selection) }))
}

/// The one extension of `gander tool`. `None`: those of the session.
pub(crate) fn one_off(args: &OneOffArgs) -> CliResult<Option<ExtensionConfig>> {
    match (&args.cmd, &args.url) {
        (Some(command), _) => from_command("--cmd", command).map(Some),
        (None, Some(url)) => Ok(Some(from_url(url))),
        (None, None) => Ok(None),
    }
}

/// Splits a command by the quoting rules of a shell; leading NAME=VALUE words are variables.
fn from_command(option: &str, text: &str) -> CliResult<ExtensionConfig> {
    let words = shlex::split(text).ok_or_else(|| {
        CliError::usage(format!("{option}: a quotation mark or a backslash at the end is not closed"))
    })?;
    let mut words = words.into_iter().peekable();
    let mut config = ExtensionConfig::default();
    while let Some((key, value)) = words.peek().and_then(|word| variable(word)) {
        config.env.insert(key, value);
        words.next();
    }
    allowed(&config)?;
    let command = words.next().filter(|command| !command.is_empty()).ok_or_else(|| {
        CliError::usage(format!("{option}: there is no program"))
            .remedy("write for example: --cmd \"npx -y @modelcontextprotocol/server-everything\"")
    })?;
    let args: Vec<String> = words.collect();
    config.name = command_name(&command, &args);
    no_shell(option, &command, &args)?;
    config.kind = Some(Kind::Stdio(StdioExtension { command, args }));
    Ok(config)
}

/// A text that a shell or a launcher would run as commands is refused here as well, before anything starts.
fn no_shell(option: &str, command: &str, args: &[String]) -> CliResult<()> {
    let document = json!({ "type": "stdio", "name": "command", "cmd": command, "args": args });
    let violation = from_value(&document).ok().and_then(|config| command_violation(&config));
    violation.map_or(Ok(()), |found| Err(CliError::usage(format!("{option}: {}", found.description))))
}

/// Variables that change which programs and libraries are loaded are never given to an extension. Saying so is better
/// than leaving them out.
fn allowed(config: &ExtensionConfig) -> CliResult<()> {
    match config.env.keys().chain(&config.env_keys).find(|key| is_disallowed_env_key(key)) {
        Some(key) => Err(CliError::usage(format!("the variable {key:?} may not be set for an extension"))
            .remedy("leave it out; an extension gets the PATH of the session")),
        None => Ok(()),
    }
}

fn variable(word: &str) -> Option<(String, String)> {
    let (key, value) = word.split_once('=')?;
    let named = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    named.then(|| (key.to_owned(), value.to_owned()))
}

fn from_url(uri: &str) -> ExtensionConfig {
    let host = url::Url::parse(uri).ok().and_then(|url| url.host_str().map(str::to_owned));
    ExtensionConfig {
        name: tidy(&host.unwrap_or_default()),
        kind: Some(Kind::StreamableHttp(StreamableHttpExtension {
            uri: uri.to_owned(),
            ..StreamableHttpExtension::default()
        })),
        ..ExtensionConfig::default()
    }
}

fn builtin(name: &str) -> ExtensionConfig {
    ExtensionConfig {
        name: name.trim().to_owned(),
        kind: Some(Kind::Builtin(BuiltinExtension {})),
        ..ExtensionConfig::default()
    }
}

fn command_name(command: &str, args: &[String]) -> String {
    let program = base_name(command);
    let started = || {
        let named = |word: &&String| !word.starts_with('-') && !LAUNCHER_WORDS.contains(&word.as_str());
        args.iter().find(named).map(|word| base_name(word)).filter(|name| !name.is_empty())
    };
    let name = if LAUNCHERS.contains(&program.as_str()) { started().unwrap_or(program) } else { program };
    tidy(&name)
}

/// The last part of a path, without a version (`server@1.2`) and a script's ending.
fn base_name(word: &str) -> String {
    let last = word.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let last = last.split_once('@').map_or(last, |(name, _)| if name.is_empty() { last } else { name });
    let stem = [".py", ".js", ".mjs", ".ts", ".sh", ".exe"].iter().find_map(|end| last.strip_suffix(end));
    stem.unwrap_or(last).to_owned()
}

/// Letters, digits, `-` and `_`, so that the prefix of its tools looks as typed.
fn tidy(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let name = name.trim_matches('_');
    if name.is_empty() { "extension".to_owned() } else { name.to_owned() }
}

/// Numbers the second and later ones of a name. What must differ is the key that is made of it.
fn make_unique(configs: &mut [ExtensionConfig]) {
    let mut taken: Vec<String> = Vec::new();
    for config in configs {
        let base = config.name.clone();
        let mut number = 1;
        while taken.contains(&extension_key(&config.name)) {
            number += 1;
            config.name = format!("{base}_{number}");
        }
        taken.push(extension_key(&config.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdio(config: &ExtensionConfig) -> (&str, Vec<&str>) {
        match &config.kind {
            Some(Kind::Stdio(stdio)) => (&stdio.command, stdio.args.iter().map(String::as_str).collect()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_are_split_and_named() {
        for (text, name, command, args) in [
            ("server", "server", "server", &[][..]),
            ("/opt/my-server --x 'a b'", "my-server", "/opt/my-server", &["--x", "a b"]),
            (
                "npx -y @scope/server-files@1.2 /tmp",
                "server-files",
                "npx",
                &["-y", "@scope/server-files@1.2", "/tmp"],
            ),
            ("uvx mcp-server-git", "mcp-server-git", "uvx", &["mcp-server-git"]),
            ("python3 \"/a dir/tool.py\"", "tool", "python3", &["/a dir/tool.py"]),
            ("npx -y", "npx", "npx", &["-y"]),
            ("./a.b", "a_b", "./a.b", &[]),
            ("srv -c 'echo $HOME | cat'", "srv", "srv", &["-c", "echo $HOME | cat"]),
            ("server A=b", "server", "server", &["A=b"]),
        ] {
            let config = from_command("--cmd", text).unwrap();
            assert_eq!(config.name, name, "{text}");
            assert_eq!(stdio(&config), (command, args.to_vec()), "{text}");
            assert!(config.env.is_empty(), "{text}");
        }
        let config = from_command("--cmd", "A=1 B='x y' server --flag").unwrap();
        assert_eq!(stdio(&config), ("server", vec!["--flag"]));
        assert_eq!((config.env["A"].as_str(), config.env["B"].as_str()), ("1", "x y"));
        for text in
            ["", "  ", "A=1", "'open", "x \\", "'' x", "ld_preload=/x srv", "sh -c 'a | b'", "npx -c x"]
        {
            assert_eq!(from_command("--cmd", text).unwrap_err().exit, 2, "{text}");
        }
    }

    #[test]
    fn addresses_are_named_by_their_host() {
        for (url, name) in [
            ("https://mcp.example.com/mcp?x=1", "mcp_example_com"),
            ("http://127.0.0.1:3000/", "127_0_0_1"),
            ("http://[::1]:1/", "1"),
            ("nonsense", "extension"),
        ] {
            assert_eq!(from_url(url).name, name, "{url}");
        }
    }

    #[test]
    fn what_run_adds_has_names_of_its_own() {
        let args = WithArgs {
            with_extension: vec!["A=1 srv one".to_owned(), "srv two".to_owned()],
            with_http: vec!["http://srv/mcp".to_owned()],
            with_builtin: vec!["Memory".to_owned()],
            ..WithArgs::default()
        };
        let configs = from_with(&args).unwrap();
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, ["srv", "srv_2", "srv_3", "Memory"]);
        assert!(configs.iter().all(|config| config.exec_prefix.is_empty()));
    }

    #[test]
    fn selections() {
        let of = |builtin: &[&str], no_profile| {
            let with_builtin = builtin.iter().map(|name| (*name).to_owned()).collect();
            selection(&WithArgs { with_builtin, no_profile, ..WithArgs::default() }).unwrap()
        };
        assert_eq!(of(&[], false), None);
        let Some(Selection::Exactly(none)) = of(&[], true).unwrap().selection else { panic!("exactly") };
        assert_eq!(none.extensions, []);
        let Some(Selection::Exactly(one)) = of(&["todo"], true).unwrap().selection else { panic!("exactly") };
        assert_eq!(one.extensions[0].name, "todo");
        let Some(Selection::Configured(more)) = of(&["todo"], false).unwrap().selection else {
            panic!("configured")
        };
        assert_eq!(more.add[0].name, "todo");
    }

    #[test]
    fn options_of_add_reach_the_configuration() {
        let args = AddArgs {
            name: "My Server".to_owned(),
            cmd: Some("srv --x".to_owned()),
            env: vec![("A".to_owned(), "1".to_owned())],
            env_key: vec!["TOKEN".to_owned()],
            timeout: Some(std::time::Duration::from_millis(1500)),
            sampling: Some(Sampling::Ask),
            pin: true,
            protocol: Some(Protocol::Legacy),
            sandbox: Some(Sandbox::WorkspaceWrite),
            sandbox_network: true,
            ..AddArgs::default()
        };
        let config = from_add(&args).unwrap();
        assert_eq!(config.name, "My Server");
        assert_eq!(stdio(&config), ("srv", vec!["--x"]));
        assert_eq!((config.env["A"].as_str(), config.env_keys.as_slice()), ("1", &["TOKEN".to_owned()][..]));
        assert_eq!(config.timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(config.sampling.as_ref().unwrap().mode(), SamplingMode::Ask);
        assert_eq!(config.protocol(), McpProtocol::Legacy);
        let sandbox = config.sandbox.clone().unwrap();
        assert_eq!((sandbox.mode(), sandbox.allow_network), (SandboxMode::WorkspaceWrite, true));
        assert!(config.pin_definitions);
        let http = AddArgs {
            name: "web".to_owned(),
            url: Some("https://x/mcp".to_owned()),
            header: vec![("A".to_owned(), "b".to_owned())],
            ..AddArgs::default()
        };
        let Some(Kind::StreamableHttp(http)) = from_add(&http).unwrap().kind else { panic!("http") };
        assert_eq!((http.uri.as_str(), http.headers["A"].as_str()), ("https://x/mcp", "b"));
        let plain = from_add(&AddArgs { name: "todo".to_owned(), builtin: true, ..AddArgs::default() });
        let plain = plain.unwrap();
        assert!(matches!(plain.kind, Some(Kind::Builtin(_))));
        assert_eq!((plain.sandbox, plain.sampling, plain.timeout, plain.protocol), (None, None, None, 0));
    }
}
