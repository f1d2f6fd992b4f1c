//! The repository's own commands: `cargo xtask test | lint | gen | bench | tools`.
//!
//! It only starts other programs: each with a deadline, its output in a log below `target/xtask/`, shown when it
//! fails.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person is what this program is for"
)]

#[cfg(test)]
mod invariants;
mod report;
mod run;
mod tools;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    report::Report,
    run::{Job, Runner},
    tools::{Installer, Tools},
};

const SHORT: Duration = Duration::from_secs(120);
const BUILD: Duration = Duration::from_secs(35 * 60);
const TESTS: Duration = Duration::from_secs(30 * 60);
const BENCH: Duration = Duration::from_secs(60 * 60);

const USAGE: &str = "\
cargo xtask test [ARGS]   everything that must hold: lints, proto checks, all tests; with ARGS only `cargo test ARGS`
cargo xtask lint          format, clippy, proto checks, cargo-deny if it is installed
cargo xtask gen           write the Rust code generated from proto/
cargo xtask bench [ARGS]  build for release and measure
cargo xtask tools         install the pinned tools of the tests below target/tools and print where they are";

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    }
    let command = arguments.remove(0);
    let outcome = Xtask::new(&command).and_then(|xtask| match command.to_str() {
        Some("test") => xtask.test(&arguments),
        Some("lint") => xtask.lint(),
        Some("gen") => xtask.generate(),
        Some("bench") => xtask.bench(&arguments),
        Some("tools") => xtask.install_tools(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => anyhow::bail!("no such command: {}\n\n{USAGE}", command.to_string_lossy()),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Xtask {
    root: PathBuf,
    target: PathBuf,
    tools: PathBuf,
    runner: Runner,
    ci: bool,
}

impl Xtask {
    fn new(command: &OsStr) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot handle signals")?;
        }
        let runner = Runner::new(target.join("xtask").join(command), interrupted)?;
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        let tools = target.join("tools");
        Ok(Self { root, target, tools, runner, ci })
    }

    fn test(&self, arguments: &[OsString]) -> Result<bool> {
        let mut report = Report::default();
        if !arguments.is_empty() {
            let tools = self.installer().all(&mut report)?;
            let job = self.test_job(&tools).args(arguments);
            report.tests(&self.runner, "tests", job)?;
            return Ok(report.finish_tests());
        }
        self.format(&mut report)?;
        let tools = self.installer().all(&mut report)?;
        self.protos(&tools, &mut report)?;
        self.clippy(&mut report)?;
        // All targets in one build: the tests start the programs, and one build resolves features once.
        let build = self.cargo("build tests", BUILD).args(["build", "--workspace", "--all-targets"]);
        if report.step(&self.runner, "build", build)? {
            let job = self.test_job(&tools).args(["--workspace", "--no-fail-fast"]);
            report.tests(&self.runner, "tests", job)?;
        }
        Ok(report.finish_tests())
    }

    fn lint(&self) -> Result<bool> {
        let mut report = Report::default();
        self.format(&mut report)?;
        let tools = self.installer().for_protos(&mut report)?;
        self.protos(&tools, &mut report)?;
        self.clippy(&mut report)?;
        if self.runner.probe("cargo", &["deny", "--version"], &self.root).is_some() {
            let job = self.cargo("cargo deny", SHORT).args(["deny", "--all-features", "check"]);
            report.step(&self.runner, "dependencies", job)?;
        } else {
            report.skip("dependencies", "cargo-deny not found: cargo install cargo-deny --locked");
        }
        Ok(report.finish_steps())
    }

    fn generate(&self) -> Result<bool> {
        let job = self
            .cargo("generate", BUILD)
            .args(["test", "--package", "gander-proto", "--test", "generate"])
            .env("GANDER_PROTO_WRITE", "1");
        let mut report = Report::default();
        let succeeded = report.step(&self.runner, "generate", job)?;
        if succeeded {
            println!("written: crates/gander-proto/src/generated");
        }
        Ok(succeeded)
    }

    fn bench(&self, arguments: &[OsString]) -> Result<bool> {
        // The daemon is built as well: the benchmark may start it as a process.
        for package in ["gander", "gander-bridge-tests"] {
            let build =
                self.cargo("build release", BUILD).args(["build", "--release", "--bins", "-p", package]);
            let finished = self.runner.run_visibly(build)?;
            if let Some(failure) = finished.failure {
                eprintln!("building {package}: {failure}");
                return Ok(false);
            }
        }
        let job = self
            .cargo("bench", BENCH)
            .args(["run", "--quiet", "--release", "-p", "gander-bridge-tests", "--bin", "bench", "--"])
            .args(arguments)
            .env("GANDER_TEST_GANDER", self.target.join("release/gander"));
        let finished = self.runner.run_visibly(job)?;
        if let Some(failure) = &finished.failure {
            eprintln!("bench: {failure} ({:.1} s)", finished.elapsed.as_secs_f64());
        }
        Ok(finished.succeeded())
    }

    fn install_tools(&self) -> Result<bool> {
        let mut report = Report::default();
        let tools = self.installer().all(&mut report)?;
        for path in [tools.buf(), tools.python, tools.litellm].into_iter().flatten() {
            println!("{}", path.display());
        }
        Ok(report.finish_steps())
    }

    fn format(&self, report: &mut Report) -> Result<bool> {
        let job = self.cargo("format", SHORT).args(["fmt", "--all", "--check"]);
        report.step(&self.runner, "format", job)
    }

    fn clippy(&self, report: &mut Report) -> Result<bool> {
        let job = self.cargo("clippy", BUILD).args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]);
        report.step(&self.runner, "clippy", job)
    }

    fn protos(&self, tools: &Tools, report: &mut Report) -> Result<()> {
        let Some(buf) = tools.buf() else {
            // In CI the missing toolchain has failed already.
            report.skip("proto checks", "buf is not installed");
            return Ok(());
        };
        let job = |title: &str| {
            Job::new(title, &buf, &self.root, SHORT).env("BUF_CACHE_DIR", self.tools.join("buf-cache"))
        };
        report.step(&self.runner, "proto lint", job("proto lint").args(["lint"]))?;
        let format = job("proto format").args(["format", "--diff", "--exit-code"]);
        report.step(&self.runner, "proto format", format)?;
        // The image of the last release: `buf build --exclude-source-info -o proto/released.binpb`.
        let released = "proto/released.binpb";
        if self.root.join(released).is_file() {
            let breaking = job("proto breaking").args(["breaking", "--against", released]);
            report.step(&self.runner, "proto breaking", breaking)?;
        } else {
            report.skip("proto breaking", &format!("no release yet, so there is no {released}"));
        }
        Ok(())
    }

    /// `cargo test`, with what tests may use in its environment (bridge-tests/toolchains/README.md).
    fn test_job(&self, tools: &Tools) -> Job {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let mut job = self
            .cargo("test", TESTS)
            .args(["test"])
            .env("GANDER_TEST_GANDER", self.target.join("debug/gander"))
            .env("RUST_BACKTRACE", "1");
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            // Many tests mostly wait for a daemon; more than eight of them are a load test that nobody asked for.
            job = job.env("RUST_TEST_THREADS", cores.clamp(2, 8).to_string());
        }
        if let Some(python) = &tools.python {
            job = job.env("GANDER_TEST_PYTHON", python);
        }
        if let Some(litellm) = &tools.litellm {
            job = job.env("GANDER_TEST_LITELLM", litellm);
        }
        if let Some(node_modules) = &tools.node_modules {
            job = job.env("GANDER_TEST_NODE_DIR", node_modules);
        }
        if let Some(agents) = &tools.agents {
            job = job.env("GANDER_TEST_AGENTS_DIR", agents);
        }
        if self.ci {
            job = job.env("GANDER_TEST_REQUIRE", "1");
        }
        job
    }

    fn cargo(&self, title: &str, deadline: Duration) -> Job {
        let cargo = std::env::var_os("CARGO");
        let cargo = cargo.as_deref().unwrap_or_else(|| OsStr::new("cargo"));
        Job::new(title, cargo, &self.root, deadline).env("CARGO_TERM_COLOR", "never")
    }

    fn installer(&self) -> Installer<'_> {
        Installer { runner: &self.runner, root: &self.root, tools: &self.tools, required: self.ci }
    }
}
