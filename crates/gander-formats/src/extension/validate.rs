//! What a readable configuration may still get wrong, without looking at the system.
//!
//! Fields are named as in the document (`cmd`, `envs.PORT`). Disallowed environment names are no violations: they
//! are dropped with a warning (`drop_disallowed_env`), so that configurations which Goose loads load here.

use gander_domain::{
    error::FieldViolation,
    extension::{ExtensionConfig, ExtensionTransport},
    tool::ToolDefinition,
};
use serde_json::Value;

use super::{disallowed_env_keys, secrets::unknown_fields};

/// Longest name, in characters.
const NAME_LIMIT: usize = 128;
/// One second to one hour, in milliseconds.
const TIMEOUT_RANGE: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
/// What `sockaddr_un` holds on Linux, without the final NUL.
const UNIX_SOCKET_LIMIT: usize = 107;

/// The violations found so far.
struct Findings(Vec<FieldViolation>);

impl Findings {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    fn add_if(&mut self, wrong: bool, field: impl Into<String>, description: impl Into<String>) {
        if wrong {
            self.add(field, description);
        }
    }
}

/// All violations at once; empty if the extension may be started. Includes [`command_violation`].
pub fn validate(config: &ExtensionConfig) -> Vec<FieldViolation> {
    let mut found = Findings(Vec::new());
    name(&config.name, &mut found);
    if config.timeout_ms.is_some_and(|millis| !TIMEOUT_RANGE.contains(&millis)) {
        found.add("timeout", "must be 1 second to 1 hour (3600); leave it out for 300 seconds");
    }
    for (index, tool) in config.tool_allowlist.iter().enumerate() {
        let field = format!("available_tools[{index}]");
        found.add_if(tool.trim().is_empty(), field, "empty; name a tool, or write `[]` to allow all");
    }
    environment(config, &mut found);
    argv("exec_prefix", &config.exec_prefix, &mut found);
    let unknown = config.unknown_json.as_deref().map(serde_json::from_str);
    let is_object = matches!(unknown, None | Some(Ok(Value::Object(_))));
    found.add_if(
        !is_object,
        "unknown_json",
        "no JSON object; write the unknown fields as one, or leave it out",
    );
    transport(&config.transport, &mut found);
    found.0.extend(command_violation(config));
    found.0
}

fn name(name: &str, found: &mut Findings) {
    if name.trim().is_empty() {
        found.add("name", "empty; say what the extension is called");
    } else if name.chars().count() > NAME_LIMIT {
        found.add("name", format!("longer than {NAME_LIMIT} characters; shorten it"));
    } else if name.chars().any(char::is_control) {
        found.add("name", "holds a control character; use printable ones");
    }
}

fn environment(config: &ExtensionConfig, found: &mut Findings) {
    for (key, value) in &config.env {
        let field = format!("envs.{key}");
        found.add_if(
            !is_env_name(key),
            &field,
            "no name for a variable; it may not be empty or hold `=` or NUL",
        );
        found.add_if(value.contains('\0'), &field, "the value holds a NUL character; remove it");
    }
    for (index, key) in config.env_keys.iter().enumerate() {
        let field = format!("env_keys[{index}]");
        let remedy =
            "no name for a variable; write the name of a secret, its value belongs in the secret store";
        found.add_if(!is_env_name(key), field, remedy);
    }
}

fn is_env_name(key: &str) -> bool {
    !key.trim().is_empty() && !key.contains(['=', '\0'])
}

fn argv(field: &str, words: &[String], found: &mut Findings) {
    for (index, word) in words.iter().enumerate() {
        let field = format!("{field}[{index}]");
        found.add_if(word.contains('\0'), field, "holds a NUL character; remove it");
    }
    if field == "exec_prefix" && words.first().is_some_and(|program| program.trim().is_empty()) {
        found.add("exec_prefix[0]", "empty; name the program to put in front, or write `[]`");
    }
}

fn transport(transport: &ExtensionTransport, found: &mut Findings) {
    match transport {
        ExtensionTransport::Stdio { command, args } => {
            program(command, found);
            argv("args", args, found);
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            if let Some(problem) = uri_problem(uri) {
                found.add("uri", problem);
            }
            for (name, value) in headers {
                let field = format!("headers.{name}");
                found.add_if(
                    !is_header_name(name),
                    &field,
                    "no HTTP header name; use letters, digits and `-`",
                );
                let broken = value.contains(|c: char| c.is_control() && c != '\t');
                found.add_if(broken, &field, "the value holds a line break or control character; remove it");
            }
            let wrong = unix_socket.as_deref().is_some_and(|path| !is_socket_path(path));
            found.add_if(
                wrong,
                "unix_socket",
                format!("must be an absolute path, or `@` and a name, of at most {UNIX_SOCKET_LIMIT} bytes"),
            );
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            found.add_if(code.trim().is_empty(), "code", "empty; write the Python source to run");
            for (index, dependency) in dependencies.iter().enumerate() {
                // A leading dash would be an option of the package runner.
                let wrong = dependency.trim().is_empty() || dependency.trim_start().starts_with('-');
                let field = format!("dependencies[{index}]");
                found.add_if(wrong, field, "no Python package; write its name, without options");
            }
        }
        ExtensionTransport::Client { tools, .. } => {
            tools.iter().enumerate().for_each(|(index, tool)| client_tool(index, tool, found));
        }
        ExtensionTransport::Builtin
        | ExtensionTransport::Platform
        | ExtensionTransport::Sse { .. }
        | ExtensionTransport::Unknown { .. } => {}
    }
}

fn client_tool(index: usize, tool: &ToolDefinition, found: &mut Findings) {
    let field = format!("tools[{index}]");
    found.add_if(tool.tool_name.trim().is_empty(), format!("{field}.name"), "empty; name the tool");
    for (name, json) in
        [("inputSchema", Some(&tool.input_schema_json)), ("outputSchema", tool.output_schema_json.as_ref())]
    {
        let wrong = json.is_some_and(|json| !matches!(serde_json::from_str(json), Ok(Value::Object(_))));
        found.add_if(wrong, format!("{field}.{name}"), "no JSON object; write a JSON Schema");
    }
}

/// The program alone, since no shell takes it apart.
fn program(command: &str, found: &mut Findings) {
    if command.trim().is_empty() {
        found.add("cmd", "empty; name the program to start");
    } else if command.contains(|c: char| c.is_control()) {
        found.add("cmd", "holds a line break or control character; name one program");
    } else if is_command_line(command) {
        found.add(
            "cmd",
            "looks like a command line; no shell reads it: put the program in `cmd` and each word after it in `args`",
        );
    }
}

/// Whether a command with blanks is several words rather than a path with blanks in it.
fn is_command_line(command: &str) -> bool {
    let is_path = |word: &str| word.contains(['/', '\\']);
    let mut words = command.split_whitespace();
    let first = words.next().unwrap_or_default();
    let mut rest = words.peekable();
    if rest.peek().is_none() {
        return command.trim() != command;
    }
    let is_operator = |word: &str| matches!(word, "|" | "||" | "&" | "&&" | ";" | ">" | ">>" | "<");
    !is_path(first)
        || first.ends_with(';')
        || rest.any(|word| word.starts_with('-') || word.ends_with(';') || is_operator(word))
}

fn uri_problem(uri: &str) -> Option<String> {
    let remedy = "write an address such as `https://host/mcp`";
    if uri.is_empty() {
        return Some(format!("empty; {remedy}"));
    }
    // The parser skips or escapes these silently; a look-alike of the address must not pass.
    if uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(format!("holds a blank or control character; {remedy}"));
    }
    match url::Url::parse(uri) {
        Err(error) => Some(format!("no address ({error}); {remedy}")),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Some(format!("must begin with http:// or https://; {remedy}"))
        }
        Ok(_) => None,
    }
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_socket_path(path: &str) -> bool {
    let is_absolute = path.starts_with('/') || (path.starts_with('@') && path.len() > 1);
    is_absolute && path.len() <= UNIX_SOCKET_LIMIT && !path.contains('\0')
}

/// Commands that hand text to a shell: `sh -c`, `cmd /c`, `powershell -Command`, `npx -c`, also behind `env` and in
/// `exec_prefix`. Such text hides what is started from every rule about commands. API errors made of it have the
/// reason `COMMAND_NOT_ALLOWED`.
pub fn command_violation(config: &ExtensionConfig) -> Option<FieldViolation> {
    let ExtensionTransport::Stdio { command, args } = &config.transport else { return None };
    let prefix = config.exec_prefix.len();
    let argv: Vec<&str> =
        config.exec_prefix.iter().chain([command]).chain(args).map(String::as_str).collect();
    // Which word of a prefix is a program is the prefix's own affair (`docker exec -i NAME sh`): any may be.
    let at = (0..=prefix).rev().find(|at| hands_text_to_a_shell(&argv[*at..]))?;
    let field = if at == prefix { "cmd".to_owned() } else { format!("exec_prefix[{at}]") };
    let program = base_name(argv[at]);
    Some(FieldViolation {
        field,
        description: format!(
            "`{program}` would run a text as commands; name the server's program and its arguments, or put the \
             commands into a script file and start that"
        ),
    })
}

fn hands_text_to_a_shell(argv: &[&str]) -> bool {
    let Some((program, args)) = argv.split_first() else { return false };
    if base_name(program) != "env" {
        return is_shell_text(argv);
    }
    // `env -S` splits a text into words itself. Options of `env` may have values: any word may be the program.
    let splits = args
        .iter()
        .take_while(|arg| arg.starts_with('-'))
        .any(|arg| arg.starts_with("--split-string") || (!arg.starts_with("--") && arg.contains('S')));
    splits || (0..args.len()).any(|at| is_shell_text(&args[at..]))
}

fn is_shell_text(argv: &[&str]) -> bool {
    let is_multi_call = |word: &&&str| matches!(base_name(word).as_str(), "busybox" | "toybox");
    let argv = &argv[argv.iter().take_while(is_multi_call).count()..];
    let Some((program, args)) = argv.split_first() else { return false };
    match base_name(program).as_str() {
        "sh" | "bash" | "dash" | "ash" | "zsh" | "ksh" | "mksh" | "fish" | "csh" | "tcsh" => {
            shell_command_option(args)
        }
        "cmd" => args.iter().any(|arg| {
            let arg = arg.to_ascii_lowercase();
            ["/c", "/k", "/r"].iter().any(|option| arg.starts_with(option))
        }),
        "powershell" | "pwsh" => args.iter().any(|arg| powershell_command_option(arg)),
        "npx" | "pnpx" => npm_call(args),
        "npm" => matches!(args.first(), Some(&("exec" | "x"))) && npm_call(&args[1..]),
        _ => false,
    }
}

/// `-c`, alone or among other letters (`-lc`), before the first word that is no option.
fn shell_command_option(args: &[&str]) -> bool {
    args.iter().take_while(|arg| arg.starts_with(['-', '+']) && **arg != "--").any(|arg| {
        arg.starts_with("--command") || (!arg.starts_with("--") && arg.starts_with('-') && arg.contains('c'))
    })
}

/// PowerShell takes any prefix of `-Command` and `-EncodedCommand`.
fn powershell_command_option(arg: &str) -> bool {
    let Some(option) = arg.strip_prefix(['-', '/']) else { return false };
    let option = option.to_ascii_lowercase();
    !option.is_empty()
        && (["command", "commandwithargs", "encodedcommand"].iter().any(|name| name.starts_with(&option))
            || option == "ec")
}

/// `-c` or `--call` among npx's own options, which end at the package's name. Options that are not known to stand
/// alone are taken to have a value, so that a value is never mistaken for the package.
fn npm_call(args: &[&str]) -> bool {
    const ALONE: &[&str] = &[
        "-y",
        "--yes",
        "--no",
        "-n",
        "-q",
        "--quiet",
        "-s",
        "--silent",
        "--no-install",
        "--prefer-offline",
        "--prefer-online",
        "--offline",
        "--ignore-existing",
        "--ignore-scripts",
        "--workspaces",
    ];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if *arg == "--" || !arg.starts_with('-') {
            return false;
        }
        if matches!(*arg, "-c" | "--call") || arg.starts_with("-c=") || arg.starts_with("--call=") {
            return true;
        }
        if !ALONE.contains(arg) && !arg.contains('=') {
            // Its value, unless that is itself the option looked for.
            match args.clone().next() {
                Some(&("-c" | "--call")) => return true,
                Some(value) if !value.starts_with('-') => drop(args.next()),
                _ => {}
            }
        }
    }
    false
}

/// File name of a program, lower case, without the extension of an executable.
pub(super) fn base_name(program: &str) -> String {
    let name = program.rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase();
    let stem = [".exe", ".cmd", ".bat", ".ps1"].iter().find_map(|suffix| name.strip_suffix(suffix));
    stem.unwrap_or(&name).to_owned()
}

/// What does not prevent a start but probably is not meant: misspelt fields, disallowed variables, the SSE
/// transport that nobody starts any more.
pub fn warnings(config: &ExtensionConfig) -> Vec<FieldViolation> {
    const MISSPELT: &[(&str, &str)] = &[
        ("env", "envs"),
        ("environment", "envs"),
        ("envKeys", "env_keys"),
        ("command", "cmd"),
        ("arguments", "args"),
        ("url", "uri"),
        ("allowed_tools", "available_tools"),
        ("availableTools", "available_tools"),
        ("displayName", "display_name"),
        ("timeout_seconds", "timeout"),
    ];
    let mut found = Findings(Vec::new());
    if matches!(config.transport, ExtensionTransport::Sse { .. }) {
        found.add("type", "SSE is unsupported, migrate to streamable_http");
    }
    let is_unknown = matches!(config.transport, ExtensionTransport::Unknown { .. });
    found.add_if(is_unknown, "type", "not known to this version; the extension is kept but not started");
    for key in disallowed_env_keys(config) {
        let field = if config.env.contains_key(&key) { format!("envs.{key}") } else { "env_keys".to_owned() };
        found.add(field, format!("`{key}` may not be set for an extension and is dropped; remove it"));
    }
    let unknown = unknown_fields(config);
    for (field, meant) in MISSPELT.iter().filter(|(field, _)| !is_unknown && unknown.contains_key(*field)) {
        found.add(*field, format!("has no effect; use `{meant}`"));
    }
    found.0
}
