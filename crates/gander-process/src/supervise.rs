//! The supervisor: a helper process that runs one command and leaves nothing behind.
//!
//! It mirrors the command's exit code (`128 + n` for signal `n`; 127 and 126 when the command could not be found or
//! started). It ends the whole tree below it when the command has exited, when its control pipe ends (the daemon
//! died or let go), or on SIGTERM, SIGINT or SIGHUP: SIGTERM first, after [`GRACE`] SIGKILL until nothing is left.
//!
//! With a sandbox it starts the command restricted and stays unrestricted itself; when the sandbox cannot be set up it
//! exits with 125 and starts nothing.
//!
//! It must not write to the command's stdout, must not keep any of its pipes open after it, and hands neither the
//! control pipe nor any variable of its own to the command.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitCode},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Signal as Sig, WaitOptions},
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use crate::{GRACE, exit::Exit, sandbox, sandbox::Plan, tree};

/// The option by which the daemon names the inherited descriptor of the control pipe.
pub(crate) const CONTROL_OPTION: &str = "--control-fd";
/// The option by which the daemon passes a sandbox, as JSON.
pub(crate) const SANDBOX_OPTION: &str = "--sandbox";
/// SIGKILL cannot be refused, but a process in an uninterruptible wait may take its time.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How often the process table is looked at again while the tree is being killed.
const POLL: Duration = Duration::from_millis(5);
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
const USAGE: u8 = 125;

/// Runs the supervisor: `[--control-fd N] [--sandbox JSON] [--] COMMAND ARGS...`.
///
/// The program calls this first thing for its hidden subcommand, with the arguments that follow it, before any
/// other thread or runtime exists, and returns the code from `main`.
pub fn supervise_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Parsed { control, sandbox, argv } = match parse(args) {
        Ok(parsed) => parsed,
        Err(message) => return fail(USAGE, &message),
    };
    if sandbox.is_some()
        && let Err(error) = close_strays(control)
    {
        return fail(USAGE, &format!("inherited descriptors cannot be closed: {error}"));
    }
    let control = match control.map(open_control).transpose() {
        Ok(control) => control,
        Err(error) => return fail(USAGE, &format!("the control pipe cannot be opened: {error}")),
    };
    // Fails only for a process that already leads a group; then the group is what is wanted.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        return fail(USAGE, &format!("orphans cannot be collected: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(USAGE, &format!("no runtime: {error}")),
    };
    match runtime.block_on(run(argv, sandbox, control)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(USAGE, &error.to_string()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "supervisor: {message}");
    ExitCode::from(code)
}

/// The supervisor's own options, and the command line.
#[derive(Debug, PartialEq)]
struct Parsed {
    control: Option<i32>,
    sandbox: Option<Plan>,
    argv: Vec<OsString>,
}

/// Splits the options from the command line.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut args = args.into_iter().peekable();
    let (mut control, mut sandbox) = (None, None);
    if args.next_if(|arg| arg == CONTROL_OPTION).is_some() {
        let value = args.next().unwrap_or_default();
        let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 2);
        control = Some(number.ok_or_else(|| format!("{CONTROL_OPTION} needs a descriptor above 2"))?);
    }
    if args.next_if(|arg| arg == SANDBOX_OPTION).is_some() {
        let value = args.next().unwrap_or_default();
        let plan = serde_json::from_slice(value.as_encoded_bytes());
        sandbox = Some(plan.map_err(|error| format!("{SANDBOX_OPTION}: {error}"))?);
    }
    let _ = args.next_if(|arg| arg == "--");
    let argv: Vec<OsString> = args.collect();
    if argv.is_empty() {
        Err("no command was given".to_owned())
    } else {
        Ok(Parsed { control, sandbox, argv })
    }
}

/// Closes what was inherited by accident: an open descriptor is a way out of any sandbox.
fn close_strays(control: Option<i32>) -> io::Result<()> {
    let directory = std::fs::read_dir("/proc/self/fd")?;
    let numbers: Vec<i32> =
        directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The directory's own descriptor is among them, and closed by now.
    for number in numbers.into_iter().filter(|number| *number > 2 && Some(*number) != control) {
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Opens the inherited descriptor anew (which needs no trust in its number) and closes the inherited one, so that
/// the command does not get it.
fn open_control(number: i32) -> io::Result<File> {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let file = File::open(format!("{directory}/{number}"))?;
    nix::unistd::close(number)?;
    Ok(file)
}

struct Signals {
    child: Signal,
    term: Signal,
    int: Signal,
    hup: Signal,
}

async fn run(argv: Vec<OsString>, sandbox: Option<Plan>, control: Option<File>) -> io::Result<u8> {
    // Before the command starts: no exit may be missed.
    let mut signals = Signals {
        child: signal(SignalKind::child())?,
        term: signal(SignalKind::terminate())?,
        int: signal(SignalKind::interrupt())?,
        hup: signal(SignalKind::hangup())?,
    };
    let control = control.map(pipe::Receiver::from_file).transpose()?;
    let mut parts = argv.into_iter();
    let program = parts.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(parts).process_group(0);
    let started = match sandbox {
        Some(plan) => match spawn_restricted(command, plan) {
            Ok(started) => started,
            Err(reason) => return Err(io::Error::other(format!("the sandbox cannot be set up: {reason}"))),
        },
        None => command.spawn(),
    };
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED };
            let _ = writeln!(io::stderr(), "supervisor: cannot start {}: {error}", program.display());
            return Ok(code);
        }
    };
    let main = child.id();
    let mut exit = None;
    wait_for_reason(&mut signals, control, main, &mut exit).await;
    terminate(&mut signals, main, &mut exit).await;
    let code = exit.unwrap_or(Exit::from_signal(Sig::KILL.as_raw())).code;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Starts the command from a thread that is restricted first and ends right after: what it starts stays restricted,
/// this process does not. The outer error is the sandbox's.
fn spawn_restricted(mut command: Command, plan: Plan) -> Result<io::Result<Child>, String> {
    let thread = std::thread::Builder::new().spawn(move || {
        sandbox::restrict_thread(&plan)?;
        Ok(command.spawn())
    });
    let thread = thread.map_err(|error| error.to_string())?;
    thread.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()))
}

/// Returns when there is a reason to end: the command has exited, or nobody wants it any more.
async fn wait_for_reason(
    signals: &mut Signals,
    control: Option<pipe::Receiver>,
    main: u32,
    exit: &mut Option<Exit>,
) {
    let mut gone = std::pin::pin!(control_ended(control));
    loop {
        let _ = collect(main, exit);
        if exit.is_some() {
            return;
        }
        tokio::select! {
            _ = signals.child.recv() => {}
            _ = signals.term.recv() => return,
            _ = signals.int.recv() => return,
            _ = signals.hup.recv() => return,
            () = &mut gone => return,
        }
    }
}

/// Ends when the control pipe ends. Nothing is ever written to it.
async fn control_ended(control: Option<pipe::Receiver>) {
    let Some(mut control) = control else { return std::future::pending().await };
    let mut buffer = [0_u8; 64];
    while let Ok(1..) = control.read(&mut buffer).await {}
}

/// Whether any child is left.
#[derive(PartialEq, Eq)]
enum Left {
    None,
    Some,
}

/// Collects every child that has ended, orphans included, and notes how the command itself ended. Orphans become
/// our children (Linux), so "no child" means "no descendant".
fn collect(main: u32, exit: &mut Option<Exit>) -> Left {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid.as_raw_nonzero().get().unsigned_abs() == main {
                    let by_code = status.exit_status().map(Exit::from_code);
                    *exit = by_code.or(status.terminating_signal().map(Exit::from_signal)).or(*exit);
                }
            }
            Ok(None) => return Left::Some,
            Err(Errno::INTR) => {}
            Err(_) => return Left::None,
        }
    }
}

/// Takes the whole tree down.
async fn terminate(signals: &mut Signals, main: u32, exit: &mut Option<Exit>) {
    let started = Instant::now();
    let mut asked = false;
    loop {
        if collect(main, exit) == Left::None && !group_left(main) {
            return;
        }
        let elapsed = started.elapsed();
        if elapsed >= GRACE + KILL_DEADLINE {
            let _ = writeln!(io::stderr(), "supervisor: some processes cannot be killed");
            return;
        }
        if elapsed >= GRACE {
            // Again and again: a tree may fork faster than it can be listed.
            signal_all(main, exit.is_some(), Sig::KILL);
        } else if !asked {
            asked = true;
            signal_all(main, exit.is_some(), Sig::TERM);
        }
        let _ = tokio::time::timeout(POLL, signals.child.recv()).await;
    }
}

/// Signals the command's group at once, and everything below us that has left it. Once the command was collected,
/// its number may name another group: with orphans collected the descendants are all there is.
fn signal_all(main: u32, collected: bool, signal: Sig) {
    if !collected || cfg!(not(target_os = "linux")) {
        tree::signal_group(main, signal);
    }
    tree::signal_each(&tree::descendants(std::process::id()), signal);
}

/// Whether the command's group still has members, asked only where orphans are not ours to collect.
fn group_left(main: u32) -> bool {
    cfg!(not(target_os = "linux")) && tree::group_lives(main)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn parsed(control: Option<i32>, argv: &[&str]) -> Result<Parsed, String> {
        Ok(Parsed { control, sandbox: None, argv: args(argv) })
    }

    #[test]
    fn the_command_line_is_split_once() {
        assert_eq!(parse(args(&["--", "a", "--", "b"])), parsed(None, &["a", "--", "b"]));
        assert_eq!(parse(args(&["--control-fd", "7", "--", "a"])), parsed(Some(7), &["a"]));
        assert_eq!(parse(args(&["a", "--control-fd", "7"])), parsed(None, &["a", "--control-fd", "7"]));
        assert!(parse(args(&["--"])).is_err());
        assert!(parse(args(&["--control-fd", "1", "a"])).is_err(), "the standard streams are the command's");
        assert!(parse(args(&["--control-fd"])).is_err());
    }

    #[test]
    fn a_sandbox_survives_the_command_line_and_a_broken_one_is_refused() {
        let plan = Plan {
            writable: vec!["/a b".into()],
            readable: Some(vec!["/r".into()]),
            denied: vec!["/\u{e9}\"".into()],
            network: true,
            require: false,
        };
        let json = serde_json::to_string(&plan).expect("JSON");
        let command = parse(args(&["--control-fd", "7", "--sandbox", &json, "--", "--sandbox"]));
        assert_eq!(command, Ok(Parsed { control: Some(7), sandbox: Some(plan), argv: args(&["--sandbox"]) }));
        let unknown = json.replacen("network", "netwerk", 1);
        for broken in ["", "{}", "null", unknown.as_str()] {
            let error = parse(args(&["--sandbox", broken, "--", "a"])).expect_err("refused");
            assert!(error.starts_with("--sandbox: "), "{error}");
        }
        assert!(parse(args(&["--sandbox"])).is_err());
    }
}
