//! The command line. Every command is a client of the canonical API: it can do nothing that a program in another
//! language could not do.
//!
//! stdout carries what was asked for (the answer's text, a table, JSON), stderr everything else. The module reads
//! neither the environment nor the working directory of the process: `main` passes them in.

mod acp;
mod agent;
mod args;
mod ask;
mod config;
mod conformance;
mod connect;
mod diff;
mod doctor;
mod error;
mod extension;
mod json;
mod mcp;
mod output;
mod provider;
mod recipe;
mod render;
mod run;
mod schedule;
mod serve;
mod session;
mod system;
mod terminal;
mod tool;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use gander_config::Environment;

use self::{
    args::{Cli, Command},
    connect::Context,
    error::{CliError, CliResult, exit},
    output::Output,
};

/// What is still running when a command has ended gets this long; it is only threads that wait for input or disks.
const RUNTIME_DEADLINE: Duration = Duration::from_millis(200);

/// Runs the command line and returns the exit code. `working_directory` is the caller's, absolute.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment,
    working_directory: PathBuf,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as "errors" too and go to stdout. That nobody reads them changes nothing.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    let out = Output::new(&cli.global, &environment);
    let filter = log_filter(&cli);
    let protocol = if matches!(&cli.command, Command::Acp(_)) { "acp" } else { "cli" };
    let context = Context { global: cli.global, environment, cwd: working_directory, out, protocol };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            context.out.error(&CliError::new(format!("cannot start threads: {error}")));
            return ExitCode::from(exit::ERROR);
        }
    };
    let code = match runtime.block_on(logged(&context, filter, cli.command)) {
        Ok(code) => code,
        Err(error) => {
            context.out.error(&error);
            error.exit
        }
    };
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    ExitCode::from(code)
}

async fn logged(context: &Context, filter: &str, command: Command) -> CliResult<u8> {
    let started = crate::telemetry::start(&context.environment, filter, context.out.stderr_color);
    let _telemetry = match started {
        Ok(telemetry) => Some(telemetry),
        Err(problem) => {
            context.out.note(&format!("traces are not exported: {problem}"));
            None
        }
    };
    dispatch(context, command).await
}

/// Half the cores: measured to give shorter latency and less CPU per token than one worker per core, as the daemon's
/// work hops between few tasks.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}

async fn dispatch(context: &Context, command: Command) -> CliResult<u8> {
    match command {
        Command::Run(args) => Box::pin(run::run(context, *args)).await,
        Command::Session(command) => Box::pin(session::session(context, command)).await,
        Command::Tool(command) => Box::pin(tool::tool(context, command)).await,
        Command::Extension(command) => Box::pin(extension::extension(context, command)).await,
        Command::Recipe(command) => Box::pin(recipe::recipe(context, command)).await,
        Command::Schedule(command) => Box::pin(schedule::schedule(context, command)).await,
        Command::Provider(command) => Box::pin(provider::provider(context, command)).await,
        Command::Config(command) => Box::pin(config::config(context, command)).await,
        Command::Serve(args) => Box::pin(serve::serve(context, args)).await,
        Command::Agent => Box::pin(agent::agent(context)).await,
        Command::Acp(args) => Box::pin(acp::acp(context, args)).await,
        Command::Status(json) => Box::pin(system::status(context, json.json)).await,
        Command::Stop(args) => Box::pin(system::stop(context, args)).await,
        Command::Doctor(json) => Box::pin(doctor::doctor(context, json.json)).await,
        Command::Mcp(args) => Box::pin(mcp::mcp(context, &args)).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gander", &mut script);
            context.out.bytes(&script)?;
            Ok(exit::OK)
        }
    }
}

/// What the log says by default: the daemon's remarks for `serve`, nothing for other commands.
fn log_filter(cli: &Cli) -> &'static str {
    let serving = matches!(cli.command, Command::Serve(_));
    match (serving, cli.global.verbose, cli.global.quiet) {
        (true, _, true) => "warn",
        (true, 0, _) => "info,rmcp=warn,hyper=warn,h2=warn",
        (true, ..) => "debug,hyper=info,h2=info",
        (false, 0 | 1, _) => "off",
        (false, 2, _) => "info",
        (false, ..) => "debug,hyper=info,h2=info",
    }
}
