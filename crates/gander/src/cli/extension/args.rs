//! Options of `gander extension`, and those for extensions of `gander run` and `gander tool`. Data only.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand, ValueEnum, ValueHint};

use crate::cli::args::{JsonArg, parse_duration};

/// `gander extension …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExtensionCommand {
    /// List the configured extensions, or those of a session with their states
    List {
        /// The session
        #[arg(short, long, value_name = "ID")]
        session: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Configure an extension for new sessions; one of the same name is replaced
    Add(Box<AddArgs>),
    /// Remove an extension from the configuration
    Remove {
        /// Name or key
        name: String,
    },
    /// Start an extension in new sessions
    Enable {
        /// Name or key
        name: String,
    },
    /// Keep an extension in the configuration, but do not start it in new sessions
    Disable {
        /// Name or key
        name: String,
    },
    /// Stop an extension of a session and start it again
    Restart {
        /// Name or key
        name: String,
        /// The session
        #[arg(short, long, value_name = "ID")]
        session: String,
    },
    /// Show what an extension of a session wrote to standard error since it was started
    Logs {
        /// Name or key
        name: String,
        /// The session
        #[arg(short, long, value_name = "ID")]
        session: String,
        /// Go on with what it writes, until the extension is gone
        #[arg(short, long)]
        follow: bool,
    },
    /// List the extensions that are part of gander and those that are configured
    Available {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Check a configuration file, a recipe, a map of extensions or one extension, in YAML or JSON
    #[command(after_help = "Needs no daemon and starts nothing. Exit code 1 if there are errors.")]
    Check {
        /// File to read; `-` is stdin
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `gander extension add`.
#[derive(Clone, Debug, Default, Args)]
#[command(
    group(ArgGroup::new("kind").args(["cmd", "url", "builtin"])),
    after_help = "\
Examples:
  gander extension add memory --builtin
  gander extension add files --cmd \"npx -y @modelcontextprotocol/server-filesystem '/srv/my files'\"
  gander extension add tickets --url https://mcp.example.com/mcp --header 'Authorization: Bearer ${TICKETS_TOKEN}'
  gander extension add 'goose://extension?cmd=uvx&arg=mcp-server-time&name=Time'

A link is stored disabled: look at what it would run, then `gander extension enable NAME`.
The command is split into words as a shell would, and run without one: no pipes, no variables."
)]
pub(crate) struct AddArgs {
    /// Its name; with --builtin it says which. Or a goose://extension link, without other options
    pub(crate) name: String,
    /// Program and arguments of a server on standard input and output
    #[arg(long, value_name = "COMMAND")]
    pub(crate) cmd: Option<String>,
    /// Address of a server over HTTP
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// A part of gander, for example developer
    #[arg(long)]
    pub(crate) builtin: bool,
    /// Variable for its process, stored readably; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// Secret that its process gets as a variable; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) env_key: Vec<String>,
    /// Header to send, where ${KEY} stands for a secret; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header, conflicts_with_all = ["cmd", "builtin"])]
    pub(crate) header: Vec<(String, String)>,
    /// Time for its start and for each call, for example 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Whether it may call the model
    #[arg(long, value_name = "WHEN")]
    pub(crate) sampling: Option<Sampling>,
    /// Quarantine tools whose definition changes until a person approves them
    #[arg(long)]
    pub(crate) pin: bool,
    /// Generation of MCP to speak
    #[arg(long, value_name = "WHICH")]
    pub(crate) protocol: Option<Protocol>,
    /// What its process may write
    #[arg(long, value_name = "MODE", conflicts_with_all = ["url", "builtin"])]
    pub(crate) sandbox: Option<Sandbox>,
    /// Directory or file that it may read from its sandbox, besides the session's and the system's; may be repeated.
    /// Without any it may read everything but gander's own files
    #[arg(long, value_name = "PATH", requires = "sandbox", conflicts_with_all = ["url", "builtin"],
        value_hint = ValueHint::AnyPath)]
    pub(crate) sandbox_read: Vec<PathBuf>,
    /// Let it use the network from its sandbox
    #[arg(long, requires = "sandbox", conflicts_with_all = ["url", "builtin"])]
    pub(crate) sandbox_network: bool,
    /// Do not start it in new sessions yet
    #[arg(long)]
    pub(crate) disabled: bool,
}

/// Whether an extension may call the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sampling {
    /// Never
    Off,
    /// After asking each time
    Ask,
    /// Without asking
    Allow,
}

/// Generation of MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// Find out
    Auto,
    /// With initialize, up to 2025-11-25
    Legacy,
    /// Stateless, 2026-07-28 and later
    Modern,
}

/// What a sandboxed process may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Nothing
    ReadOnly,
    /// The session's directories
    WorkspaceWrite,
}

/// Extensions of `gander run`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Extensions")]
pub(crate) struct WithArgs {
    /// Start this command as an extension as well; NAME=VALUE before the program sets variables
    #[arg(long, value_name = "COMMAND")]
    pub(crate) with_extension: Vec<String>,
    /// Use this MCP server over HTTP as well
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) with_http: Vec<String>,
    /// Use this builtin extension as well; several with commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) with_builtin: Vec<String>,
    /// Only these extensions, none of the configuration
    #[arg(long, conflicts_with = "session")]
    pub(crate) no_profile: bool,
    /// Container in which commands and builtins of the new session run, through docker exec
    #[arg(long, value_name = "ID", conflicts_with = "session")]
    pub(crate) container: Option<String>,
}

/// The one extension of `gander tool`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OneOffArgs {
    /// Use the tools of this command alone; NAME=VALUE before the program sets variables
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["session", "url"])]
    pub(crate) cmd: Option<String>,
    /// Use the tools of this MCP server over HTTP alone
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, conflicts_with = "session")]
    pub(crate) url: Option<String>,
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE; for a secret store it and use --env-key KEY".to_owned()),
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        // The text is left out: it may hold a token.
        _ => Err("write \"NAME: VALUE\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: ExtensionCommand,
    }

    #[test]
    fn lines_that_are_understood_or_not() {
        for (line, understood) in [
            (
                "add x --cmd srv --env A=1 --env B=2 --env-key C --sandbox workspace-write --sandbox-network",
                true,
            ),
            ("add x --url http://h/mcp --header A:b --timeout 5m --protocol modern --sampling off", true),
            ("add x --builtin --pin --disabled", true),
            // Refused later, as it might be a link.
            ("add x", true),
            ("add goose://extension?name=x", true),
            ("logs x --session s --follow", true),
            ("available --json", true),
            ("add --cmd srv", false),
            ("add x --cmd srv --builtin", false),
            ("add x --cmd srv --sandbox-network", false),
            ("add x --url http://h --sandbox-network", false),
            ("add x --cmd srv --header A:b", false),
            ("add x --builtin --header A:b", false),
            ("add x --builtin --sandbox read-only", false),
            ("add x --cmd srv --sampling perhaps", false),
            ("add x --cmd srv --protocol 2025-06-18", false),
            ("add x --cmd srv --timeout soon", false),
            ("list --session s --json", true),
            ("remove", false),
            ("restart x", false),
            ("restart x --session s", true),
            ("logs x", false),
            ("check", false),
            ("check - --json", true),
        ] {
            let words = std::iter::once("extension").chain(line.split(' '));
            let parsed = <Line as clap::Parser>::try_parse_from(words);
            assert_eq!(parsed.is_ok(), understood, "{line}: {parsed:?}");
        }
    }

    #[test]
    fn pairs() {
        let pair = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
        for (text, wanted) in [
            ("A=b", pair("A", "b")),
            ("A=", pair("A", "")),
            ("A=b=c ", pair("A", "b=c ")),
            ("=b", None),
            ("A", None),
            ("", None),
        ] {
            assert_eq!(parse_env(text).ok(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("Authorization: Bearer x", pair("Authorization", "Bearer x")),
            ("X:1:2", pair("X", "1:2")),
            (": x", None),
            ("token", None),
        ] {
            assert_eq!(parse_header(text).ok(), wanted, "{text}");
        }
    }
}
