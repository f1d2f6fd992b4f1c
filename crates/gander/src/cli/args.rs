//! The command line as data: every command, option and help text. Nothing here does anything.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::{
    extension::args::{ExtensionCommand, OneOffArgs, WithArgs},
    recipe::args::{RecipeArgs, RecipeCommand, ScheduleCommand},
};

const EXAMPLES: &str = "\
Examples:
  gander run \"list the files here\"        one turn with tools, in this directory
  gander run --session ID \"and the sizes\" go on with a session
  git diff | gander run -                 the prompt from a pipe
  gander serve                            the daemon in the foreground, for clients in any language
  gander session list                     what there is
  gander doctor                           is everything in order?

Commands use the daemon of this root if one runs, else they start the engine inside of themselves.";

/// One daemon that owns AI agent sessions: clients in any language work on the same live sessions.
#[derive(Debug, Parser)]
#[command(name = "gander", version, after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of all commands.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where and how")]
pub(super) struct Global {
    /// Directory that holds config, data and state. Default: $GANDER_PATH_ROOT, else the XDG directories.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) root: Option<PathBuf>,
    /// Daemon to talk to: HOST:PORT, http(s)://HOST:PORT or unix:PATH. Default: the one of this root.
    #[arg(long, global = true, value_name = "ADDR", env = "GANDER_SERVER")]
    pub(super) server: Option<String>,
    /// Token for a daemon on TCP. Default: the token file of this root.
    #[arg(long, global = true, value_name = "TOKEN", env = "GANDER_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Certificate authority (PEM) to trust for https, instead of the system's.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) tls_ca: Option<PathBuf>,
    /// Start the engine in this process even if a daemon could be used. Wins over --server.
    #[arg(long, global = true)]
    pub(super) embed: bool,
    /// When to use colours. `auto`: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
    /// Say more; -vv shows the log.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Say only what was asked for and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one turn and show it as it happens
    Run(Box<RunArgs>),
    /// Work with sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// List and call tools without a model
    #[command(subcommand)]
    Tool(ToolCommand),
    /// Manage extensions: the MCP servers that give sessions their tools
    #[command(subcommand)]
    Extension(ExtensionCommand),
    /// Work with recipes: stored instructions with parameters
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Run recipes at given times
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// See which models there are and whether they work
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Read and change the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the daemon in the foreground
    Serve(ServeArgs),
    /// Serve Goose's REST API to one window of Goose Desktop, on the shared daemon
    #[command(after_help = AGENT_HELP)]
    Agent,
    /// Serve an editor that speaks the Agent Client Protocol over stdin and stdout, on the shared daemon
    #[command(after_help = ACP_HELP)]
    Acp(AcpArgs),
    /// Tell whether a daemon runs, and how it is
    Status(JsonArg),
    /// Stop the running daemon
    Stop(StopArgs),
    /// Check configuration and stored sessions
    Doctor(JsonArg),
    /// Serve a builtin extension over stdin and stdout, as an MCP server for other programs
    Mcp(McpArgs),
    /// Write shell completions to stdout
    #[command(
        after_help = "Example:\n  gander completions bash > ~/.local/share/bash-completion/completions/gander"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const AGENT_HELP: &str = "\
Desktop starts it by itself:
  GOOSED_BINARY=$(command -v gander) goose-desktop

Settings come from the environment: GOOSE_HOST, GOOSE_PORT (3000), GOOSE_SERVER__SECRET_KEY (without it: the token of \
the root), GOOSE_TLS=false, GOOSE_TLS_CERT_PATH and GOOSE_TLS_KEY_PATH. One port answers TLS and, on loopback, plain \
text. The daemon is started in the background if none runs, and ends by itself (see the setting gander.linger).";

const ACP_HELP: &str = "\
Editors start it by themselves; examples/acp/README.md has settings for some. In a terminal:
  gander acp --setup        choose a provider, store its key and choose a model

The daemon is started in the background if none runs, and ends by itself (see the setting gander.linger).
With --embed the sessions end with the editor.";

/// `gander acp`.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct AcpArgs {
    /// Set up a model, in a terminal, instead of serving
    #[arg(long)]
    pub(super) setup: bool,
}

const RUN_HELP: &str = "\
Examples:
  gander run \"list the files here\"
  gander run --mode approve \"tidy up this directory\"
  gander run --session ID                 continue where the conversation stands
  gander run --recipe triage.yaml -p repo=a/b
  gander run --no-profile --with-extension \"npx -y some-mcp-server\" \"use it\"
  gander run --json \"…\" | jq .text_delta   one JSON object per event

Without a configured model the builtin `demo` model answers: fixed rules, real tools.
The answer goes to stdout, everything else to stderr. Ctrl-C cancels the turn, a second one leaves.

Exit codes: 0 completed, 1 error, failed turn or failed checks of a recipe, 2 wrong usage, 3 cancelled,
4 interrupted (the daemon stopped), 5 stopped at a limit, 130 left with a second Ctrl-C.";

/// `gander run`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = RUN_HELP)]
pub(super) struct RunArgs {
    /// What to tell the model; `-` reads it from stdin. With --session it may be left out: the turn continues
    #[arg(value_name = "PROMPT")]
    pub(super) prompt: Vec<String>,
    /// Session to go on with
    #[arg(short, long, value_name = "ID")]
    pub(super) session: Option<String>,
    /// Directory in which tools work. Default: this one
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "session")]
    pub(super) cwd: Option<PathBuf>,
    /// Model to use, for example openai/gpt-5
    #[arg(short, long, value_name = "PROVIDER/MODEL")]
    pub(super) model: Option<String>,
    /// Provider to use with its default model: an agent on the PATH, for example claude-acp, or one of `gander provider list`
    #[arg(long, value_name = "PROVIDER", conflicts_with_all = ["model", "demo"])]
    pub(super) provider: Option<String>,
    /// When tools may run
    #[arg(long, value_name = "MODE")]
    pub(super) mode: Option<Mode>,
    /// Title of the new session
    #[arg(long, value_name = "TEXT", conflicts_with = "session")]
    pub(super) title: Option<String>,
    /// Use the builtin demo model, even if another one is configured
    #[arg(long, conflicts_with = "model")]
    pub(super) demo: bool,
    /// Print one JSON object per event (ProtoJSON of gander.v1.SessionEvent)
    #[arg(long)]
    pub(super) json: bool,
    /// Record what the model and extensions answer in this directory, for --replay. Runs in this process, without the
    /// daemon
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "replay")]
    pub(super) record: Option<PathBuf>,
    /// Play the answers of a record back instead of calling a model and starting extensions (builtin ones run): offline,
    /// and the same every time
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) replay: Option<PathBuf>,
    /// Ask nothing: questions are answered with no
    #[arg(long)]
    pub(super) no_interactive: bool,
    /// Stop the turn after so many calls of the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) max_model_calls: Option<i32>,
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    #[command(flatten)]
    pub(super) with: WithArgs,
}

/// When tools may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Without asking, unless a rule says otherwise
    Auto,
    /// Only after asking
    Approve,
    /// Reading without asking, changing only after asking
    #[value(alias = "smart_approve")]
    SmartApprove,
    /// Not at all
    Chat,
}

/// `--json` alone.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct JsonArg {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `gander serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gander serve
  gander serve --listen 127.0.0.1:0          a free port; the ready line names it
  gander serve --listen 0.0.0.0:7717 --tls-cert cert.pem --tls-key key.pem

SIGTERM or Ctrl-C lets running turns finish within the deadline; the second signal ends the process at once.")]
pub(super) struct ServeArgs {
    /// TCP address. Default: the setting gander.listen, 127.0.0.1:7717
    #[arg(long, value_name = "ADDR", conflicts_with = "no_tcp")]
    pub(super) listen: Option<SocketAddr>,
    /// Listen on the unix socket only
    #[arg(long)]
    pub(super) no_tcp: bool,
    /// Address for /metrics and /health, without authentication: loopback only
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
    /// Certificate chain (PEM); needed for addresses beyond loopback
    #[arg(long, value_name = "FILE", requires = "tls_key", value_hint = ValueHint::FilePath)]
    pub(super) tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub(super) tls_key: Option<PathBuf>,
    /// Certificate authority (PEM) of clients; every TCP client must then show a certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Socket only, in a session of its own, until nobody uses it; how `gander agent` and `gander acp` start a daemon
    #[arg(long, hide = true, conflicts_with_all = ["listen", "admin", "tls_cert"])]
    pub(super) background: bool,
}

/// `gander stop`.
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// How long running turns may go on, for example 10s, 2m, 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(super) grace: std::time::Duration,
    /// Stop only if no turn runs
    #[arg(long)]
    pub(super) if_idle: bool,
}

/// `gander mcp`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gander mcp developer
  npx @modelcontextprotocol/conformance client --suite all --command \"gander mcp conformance\"")]
pub(super) struct McpArgs {
    /// Name of the builtin extension, for example developer; `conformance` runs a scenario of the official suite
    pub(super) name: String,
    /// Server of the suite, with `conformance`
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub(super) url: Option<String>,
}

/// `gander session …`.
#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// List sessions, the latest first
    List {
        /// Most sessions to show
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: u32,
        /// Archived and technical ones too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a conversation
    Show {
        /// The session
        id: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a session's event log
    #[command(
        after_help = "Examples:\n  gander session events ID --after 120\n  gander session events ID --follow --json"
    )]
    Events {
        /// The session
        id: String,
        /// Only events after this sequence
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        after: i64,
        /// Stay and show new events as they come
        #[arg(short, long)]
        follow: bool,
        /// Leave out pieces of texts that are complete later
        #[arg(long)]
        no_deltas: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Give a session another title
    Rename {
        /// The session
        id: String,
        /// The title
        title: String,
    },
    /// Copy a session, or its beginning, into a new one
    Fork {
        /// The session
        id: String,
        /// Copy what comes before this item
        #[arg(long, value_name = "ITEM")]
        before: Option<String>,
        /// Title of the copy
        #[arg(long, value_name = "TEXT")]
        title: Option<String>,
    },
    /// Write everything about a session to stdout or a file
    Export {
        /// The session
        id: String,
        /// File to write; must not exist
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Make a session from an export of gander's or Goose's
    Import {
        /// File to read; `-` is stdin
        #[arg(value_hint = ValueHint::FilePath, required_unless_present = "goose")]
        file: Option<PathBuf>,
        /// Bring over all sessions that Goose itself has stored; those that are here already are left alone
        #[arg(long, conflicts_with_all = ["file", "keep_id", "cwd"])]
        goose: bool,
        /// Keep the id of the exported session
        #[arg(long)]
        keep_id: bool,
        /// Directory in which its tools work. Default: as exported
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        cwd: Option<PathBuf>,
    },
    /// Erase sessions for good
    Delete {
        /// The sessions
        #[arg(required = true)]
        ids: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// `gander tool …`.
#[derive(Debug, Subcommand)]
pub(super) enum ToolCommand {
    /// List the tools of the configured extensions, or of a session
    List {
        /// The session. Default: a temporary one in this directory
        #[arg(short, long, value_name = "ID")]
        session: Option<String>,
        #[command(flatten)]
        only: OneOffArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Call a tool and print its result
    #[command(after_help = "\
Examples:
  gander tool call shell '{\"command\": \"ls\"}'
  gander tool call echo '{\"message\": \"hi\"}' --cmd \"npx -y @modelcontextprotocol/server-everything\"")]
    Call {
        /// Name of the tool, with or without its extension's
        name: String,
        /// Arguments, a JSON object; `-` reads it from stdin
        #[arg(default_value = "{}")]
        arguments: String,
        /// The session. Default: a temporary one in this directory
        #[arg(short, long, value_name = "ID")]
        session: Option<String>,
        #[command(flatten)]
        only: OneOffArgs,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `gander provider …`.
#[derive(Debug, Subcommand)]
pub(super) enum ProviderCommand {
    /// List providers and whether they are set up
    List(JsonArg),
    /// List a provider's models
    Models {
        /// The provider
        provider: String,
        /// Ask the provider instead of the builtin list
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Try whether a provider works
    Check {
        /// The provider
        provider: String,
        /// Make a real call of this model
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
    },
    /// Define a provider from a JSON file in Goose's custom provider format; `-` reads stdin
    #[command(after_help = "\
Example:
  {\"display_name\": \"My server\", \"engine\": \"openai\", \"base_url\": \"https://llm.example/v1\",
   \"models\": [{\"name\": \"big-1\", \"context_limit\": 128000}]}

engine is openai, openai_responses, anthropic, google, bedrock or ollama; acp with command and args is an agent. \
Add \"requires_auth\": false for a server without a key; headers, base_path, query_params, timeout_seconds and auth \
say how to reach others.")]
    Add {
        /// The file
        file: PathBuf,
        /// Ask for the provider's key and store it
        #[arg(long)]
        key: bool,
        /// Replace the definition of this provider
        #[arg(long, value_name = "PROVIDER")]
        replace: Option<String>,
    },
    /// Print the definition of a provider
    Show {
        /// The provider
        provider: String,
    },
    /// Remove a provider that you defined, and its key
    Remove {
        /// The provider
        provider: String,
    },
    /// Sign in at a provider with a browser on this machine, for a key that is stored
    SignIn {
        /// The provider, for example openrouter
        provider: String,
    },
    /// Find out which provider a key belongs to; it is read from the terminal or stdin and not stored
    Detect,
}

/// `gander config …`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a value
    Get {
        /// The key, for example GOOSE_MODEL
        key: String,
    },
    /// Set a value in the user's file
    #[command(after_help = "\
Examples:
  gander config set GOOSE_PROVIDER openai
  gander config set GOOSE_MODEL gpt-5
  gander config set --secret OPENAI_API_KEY      asks for the value; a pipe works too")]
    Set {
        /// The key
        key: String,
        /// The value: text, number, true, false or JSON. Left out with --secret: asked for
        #[arg(allow_negative_numbers = true)]
        value: Option<String>,
        /// Store it with the secrets; it can never be read back
        #[arg(long)]
        secret: bool,
    },
    /// Remove a value from the user's file
    Unset {
        /// The key
        key: String,
        /// It is a secret. Not needed where its name says so
        #[arg(long)]
        secret: bool,
    },
    /// List all values
    Show {
        /// Tell for each value where it comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Reads "10s", "500ms", "2m", "1h" or a bare number of seconds.
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bad = || format!("{text:?} is not a time; write for example 10s, 500ms or 2m");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(millis).map(std::time::Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("gander").chain(line.iter().copied()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_words_and_options_in_any_order() {
        let cli = parse(&["run", "list", "the", "files", "--mode", "smart-approve", "--json"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("run") };
        assert_eq!(args.prompt, ["list", "the", "files"]);
        assert_eq!(args.mode, Some(Mode::SmartApprove));
        assert!(args.json);
        let cli = parse(&["run", "-", "--root", "/r", "--embed"]).unwrap();
        assert_eq!(cli.global.root, Some(PathBuf::from("/r")));
        assert!(cli.global.embed);
    }

    #[test]
    fn wrong_usage_is_told() {
        for (line, says) in [
            (&["run", "--max-model-calls", "0", "x"][..], "1.."),
            (&["run", "--demo", "--model", "a/b", "x"], "cannot be used with"),
            (&["serve", "--no-tcp", "--listen", "127.0.0.1:1"], "cannot be used with"),
            (&["serve", "--tls-cert", "c"], "--tls-key"),
            (&["session", "delete"], "required"),
            (&["session", "events", "x", "--after=-1"], "--after"),
            (&["stop", "--grace", "soon"], "500ms"),
            (&["frobnicate"], "unrecognized subcommand"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
            assert!(error.to_string().contains(says), "{line:?}: {error}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in
            [("10s", 10_000), ("10", 10_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1 day", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_command_has_help() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
