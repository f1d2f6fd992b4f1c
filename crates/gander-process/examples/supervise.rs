//! The supervisor as a program of its own, for the tests and for trying it by hand:
//! `supervise -- sh -c 'sleep 1000 & sleep 1000'`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gander_process::supervise_main(std::env::args_os().skip(1))
}
