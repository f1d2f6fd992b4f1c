//! The supervisor: a helper process that runs one command and leaves nothing behind.
//!
//! It mirrors the command's exit code (`128 + n` for signal `n`; 127 and 126 when the command could not be found or
//! started). It ends the whole tree below it when the command has exited, when its control pipe ends (the daemon
//! died or let go), or on SIGTERM, SIGINT or SIGHUP: SIGTERM first, after [`GRACE`] SIGKILL until nothing is left.
//!
//! It must not write to the command's stdout, must not keep any of its pipes open after it, and hands neither the
//! control pipe nor any variable of its own to the command.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
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

use crate::{GRACE, exit::Exit, tree};

/// The option by which the daemon names the inherited descriptor of the control pipe.
pub(crate) const CONTROL_OPTION: &str = "--control-fd";
/// SIGKILL cannot be refused, but a process in an uninterruptible wait may take its time.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How often the process table is looked at again while the tree is being killed.
const POLL: Duration = Duration::from_millis(5);
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
const USAGE: u8 = 125;

/// Runs the supervisor: `[--control-fd N] [--] COMMAND ARGS...`.
///
/// The program calls this first thing for its hidden subcommand, with the arguments that follow it, before any
/// other thread or runtime exists, and returns the code from `main`.
pub fn supervise_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (control, argv) = match parse(args) {
        Ok(parsed) => parsed,
        Err(message) => return fail(USAGE, &message),
    };
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
    match runtime.block_on(run(argv, control)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(USAGE, &error.to_string()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "supervisor: {message}");
    ExitCode::from(code)
}

/// Splits the control descriptor from the command line.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Option<i32>, Vec<OsString>), String> {
    let mut args = args.into_iter().peekable();
    let mut control = None;
    if args.next_if(|arg| arg == CONTROL_OPTION).is_some() {
        let value = args.next().unwrap_or_default();
        let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 2);
        control = Some(number.ok_or_else(|| format!("{CONTROL_OPTION} needs a descriptor above 2"))?);
    }
    let _ = args.next_if(|arg| arg == "--");
    let argv: Vec<OsString> = args.collect();
    if argv.is_empty() { Err("no command was given".to_owned()) } else { Ok((control, argv)) }
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

async fn run(argv: Vec<OsString>, control: Option<File>) -> io::Result<u8> {
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
    let child = match Command::new(&program).args(parts).process_group(0).spawn() {
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

    #[test]
    fn the_command_line_is_split_once() {
        assert_eq!(parse(args(&["--", "a", "--", "b"])), Ok((None, args(&["a", "--", "b"]))));
        assert_eq!(parse(args(&["--control-fd", "7", "--", "a"])), Ok((Some(7), args(&["a"]))));
        assert_eq!(parse(args(&["a", "--control-fd", "7"])), Ok((None, args(&["a", "--control-fd", "7"]))));
        assert!(parse(args(&["--"])).is_err());
        assert!(parse(args(&["--control-fd", "1", "a"])).is_err(), "the standard streams are the command's");
        assert!(parse(args(&["--control-fd"])).is_err());
    }
}
