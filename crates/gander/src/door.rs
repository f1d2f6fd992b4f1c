//! `gander __door SOCKET KEY`: connects stdin and stdout to a door of a daemon, so that a program that starts MCP servers
//! (an agent in the place of a model) gets one of the session's extensions. Not a command for people.
//!
//! It only passes bytes on: no engine, no configuration, no async runtime, so that it starts within a millisecond. It
//! ends when either side does.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::ExitCode,
};

/// Bytes that are passed on at once.
const BUFFER: usize = 64 * 1024;

/// What to say on the command line to get here.
pub const DOOR_COMMAND: &str = "__door";

/// Runs with the arguments behind the command.
#[must_use]
pub fn door_main(arguments: &[OsString]) -> ExitCode {
    match arguments {
        [socket, key] => match pass(socket, key) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("the session's door cannot be used: {error}")),
        },
        _ => fail("usage: gander __door SOCKET KEY"),
    }
}

fn fail(message: &str) -> ExitCode {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "gander: {message}");
    ExitCode::FAILURE
}

fn pass(socket: &OsString, key: &OsString) -> io::Result<()> {
    let mut down = UnixStream::connect(socket)?;
    let mut up = down.try_clone()?;
    writeln!(up, "{}", key.to_string_lossy())?;
    std::thread::Builder::new().name("door".to_owned()).spawn(move || {
        let copied = copy(&mut io::stdin().lock(), &mut up);
        // The daemon ends the visit, and with it what was asked for.
        let _ = up.shutdown(Shutdown::Write);
        copied
    })?;
    match copy(&mut down, &mut io::stdout().lock()) {
        // The program that started this one has gone: nothing is wrong.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Passes on whatever comes, at once. Not `io::copy`: between a socket and a pipe it lets the kernel splice, which holds
/// the pipe locked while it waits for the socket, so that even a reader that does not want to wait hangs.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}
