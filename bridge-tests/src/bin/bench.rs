//! The benchmark: what gander costs, measured from outside, next to the same work without it.
//!
//! Three processes: the provider (this program again), the daemon (`gander serve`) and the client (this program). All
//! is on the loopback interface; sizes and times are bounded; nothing is built here and nothing is left running.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person is what this program is for"
)]

#[path = "../bench/echo.rs"]
mod echo;
#[path = "../bench/processes.rs"]
mod processes;
#[path = "../bench/rest.rs"]
mod rest;
#[path = "../bench/rows.rs"]
mod rows;
#[path = "../bench/starts.rs"]
mod starts;
#[path = "../bench/streams.rs"]
mod streams;
#[path = "../bench/table.rs"]
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum as _, ValueHint};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    rows::{Bench, ROW_DEADLINE},
    table::{Outcome, Row},
};

/// Measures gander and prints a table with the floor and the budget of each line.
///
/// The floor is the same work without gander, by the same client in the same run. The daemon is the program that
/// GANDER_TEST_GANDER names, else `gander` beside this one; `cargo xtask bench` builds both.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Cli {
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROWS")]
    rows: Vec<Row>,
    /// Smaller sizes: a rough answer in about a minute
    #[arg(long)]
    quick: bool,
    /// Write the table as JSON too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// The model provider
    #[command(hide = true)]
    Provider,
    /// The MCP server with the echo tool
    #[command(hide = true, name = echo::ROLE)]
    EchoServer,
    /// The same, slow to start
    #[command(hide = true, name = echo::SLOW_ROLE)]
    SlowEchoServer,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli { role: Some(Role::EchoServer), .. } => echo::server_main().map(|()| true).map_err(Into::into),
        Cli { role: Some(Role::SlowEchoServer), .. } => {
            echo::slow_server_main().map(|()| true).map_err(Into::into)
        }
        Cli { role: Some(Role::Provider), .. } => {
            block_on(processes::provider_main(|url| println!("{url}"))).map(|()| true)
        }
        cli => block_on(run(&cli)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: the client must not compete with itself on a small machine.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    // The provider's thread may still wait for input.
    runtime.shutdown_background();
    outcome
}

/// Progress, for whoever watches.
fn say(text: &str) {
    eprintln!("{text}");
}

/// Measures; false when a row could not be. A missed budget is a result and no failure.
async fn run(cli: &Cli) -> Result<bool> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        // Dropping the work kills the processes that it owns.
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        outcome = measure_all(cli) => outcome,
    }
}

async fn measure_all(cli: &Cli) -> Result<bool> {
    let open_files = processes::raise_open_files()?;
    let bench = Bench {
        gander: gander_program()?,
        provider: processes::Provider::start().await?,
        open_files,
        quick: cli.quick,
    };
    let chosen = if cli.rows.is_empty() { Row::value_variants() } else { &cli.rows };
    let mut outcomes = Vec::new();
    for row in Row::value_variants().iter().filter(|row| chosen.contains(row)) {
        say(&format!("{} …", table::name(*row)));
        let started = Instant::now();
        let result = match timeout(ROW_DEADLINE, Box::pin(bench.measure(*row))).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("not done after {} s", ROW_DEADLINE.as_secs())),
        };
        outcomes.push(Outcome { row: *row, result, took: started.elapsed() });
    }
    bench.provider.stop().await?;
    print!("\n{}", table::render(&outcomes));
    if let Some(path) = &cli.json {
        write_json(path, &table::to_json(&outcomes, cli.quick))?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.result.is_ok()))
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// The daemon's program.
fn gander_program() -> Result<PathBuf> {
    let named = std::env::var_os("GANDER_TEST_GANDER").map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None => processes::own_executable()?.with_file_name("gander"),
    };
    if !path.is_file() {
        bail!("there is no program {}: `cargo xtask bench` builds it", path.display());
    }
    Ok(std::path::absolute(path)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["bench", "--rows", "burst,idle-watch", "--quick"]).unwrap();
        assert_eq!(cli.rows, [Row::Burst, Row::IdleWatch]);
        assert!(Cli::try_parse_from(["bench", "--rows", "nothing"]).is_err());
        assert!(matches!(Cli::try_parse_from(["bench", "provider"]).unwrap().role, Some(Role::Provider)));
    }
}
