//! How a command ended. Pure; shared by the supervisor, which encodes, and its owner, which decodes.

use std::process::ExitStatus;

use rustix::process::Signal;

/// Signals that a shell or the supervisor reports as exit code `128 + n`.
const NAMED: [(Signal, &str); 17] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::TERM, "SIGTERM"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
];

/// The name of a signal number of this platform, e.g. `SIGKILL`; unknown numbers become `signal N`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    NAMED
        .iter()
        .find(|(signal, _)| signal.as_raw() == number)
        .map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, 0 to 255; `128 + n` when signal `n` ended the command.
    pub code: i32,
    /// The signal that ended the command. A command that itself exits with `128 + n` for a well-known signal
    /// (as every shell does whose child was killed) is reported the same way.
    pub signal: Option<i32>,
}

impl Exit {
    /// Whether the command reported success.
    #[must_use]
    pub fn success(self) -> bool {
        self.code == 0
    }

    /// Decodes an exit code.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        let signal = NAMED.iter().map(|(signal, _)| signal.as_raw()).find(|number| code == 128 + number);
        Self { code, signal }
    }

    /// The end by a signal.
    #[must_use]
    pub fn from_signal(number: i32) -> Self {
        Self { code: 128 + number, signal: Some(number) }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::from_code(code),
            (None, Some(number)) => Self::from_signal(number),
            // Stopped or continued is never reported by a plain wait; treat it as a failure without a cause.
            (None, None) => Self { code: 255, signal: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_128_plus_a_known_signal_is_that_signal() {
        assert_eq!(Exit::from_code(0), Exit { code: 0, signal: None });
        assert_eq!(Exit::from_code(137), Exit { code: 137, signal: Some(9) });
        assert_eq!(Exit::from_code(143), Exit::from_signal(15));
        assert_eq!(Exit::from_code(200), Exit { code: 200, signal: None });
        assert!(!Exit::from_signal(15).success());
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(63), "signal 63");
    }
}
