//! The program `gander`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("gander"));
    let rest: Vec<OsString> = arguments.collect();
    // Not a command for people: the helper process that every tool command runs under. It must be the only thread.
    if let Some((first, command)) = rest.split_first()
        && first == "__supervise"
    {
        return gander_process::supervise_main(command.iter().cloned());
    }
    // Nor is this: an agent starts it in the place of an extension.
    if let Some((first, behind)) = rest.split_first()
        && first == gander::DOOR_COMMAND
    {
        return gander::door_main(behind);
    }
    // A deleted working directory is no reason to fail: few commands need it.
    #[allow(clippy::disallowed_methods, reason = "the binary passes it to everybody else")]
    let working_directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let environment = gander_config::Environment::from_process();
    gander::cli::run(std::iter::once(program).chain(rest), environment, working_directory)
}
