//! What went wrong, told to a person: one sentence, what to do, the reason code; and the exit code.

use std::fmt;

use gander_client::ClientError;
use gander_proto::v1::{ErrorDetail, ErrorReason};

use super::output::clean;

/// Exit codes. The numbers are part of the interface of the program, see the README.
pub(super) mod exit {
    pub(crate) const OK: u8 = 0;
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const CANCELLED: u8 = 3;
    pub(crate) const INTERRUPTED: u8 = 4;
    pub(crate) const LIMIT: u8 = 5;
    pub(crate) const LEFT: u8 = 130;
    /// 128 + SIGPIPE: nobody reads the output any more.
    pub(crate) const BROKEN_PIPE: u8 = 141;
}

/// A failed command.
#[derive(Debug)]
pub(super) struct CliError {
    /// One sentence or several lines. Empty: say nothing.
    pub(super) message: String,
    /// What to do about it.
    pub(super) remedy: Option<String>,
    /// Code of the contract, for example `SESSION_NOT_FOUND`. May be empty.
    pub(super) reason: String,
    pub(super) exit: u8,
}

pub(super) type CliResult<T> = Result<T, CliError>;

impl CliError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, reason: String::new(), exit: exit::ERROR }
    }

    /// The command line does not make sense.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: exit::USAGE, ..Self::new(message) }
    }

    /// Ends the program with this code and no further word.
    pub(super) fn silent(exit: u8) -> Self {
        Self { exit, ..Self::new("") }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A failure inside a turn, a tool or a check.
    pub(super) fn detail(detail: &ErrorDetail) -> Self {
        let reason = detail.reason();
        Self {
            message: with_commands(&clean(&detail.message)),
            remedy: remedy_for(reason, detail.metadata.get("key")),
            reason: gander_proto::reason::wire_name(reason).to_owned(),
            exit: exit::ERROR,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let mut message = clean(&error.message);
        for violation in &error.violations {
            // With one violation the daemon's sentence is often the violation itself.
            if !message.contains(&violation.description) {
                message.push_str(&format!(
                    "\n  {}: {}",
                    clean(&violation.field),
                    clean(&violation.description)
                ));
            }
        }
        if message.is_empty() {
            message = format!("the daemon answered with {:?}", error.code);
        }
        let message = with_commands(&message);
        let known = error.error_reason().and_then(|reason| remedy_for(reason, error.metadata.get("key")));
        // The daemon's sentence may have said it already.
        let remedy = match known.filter(|remedy| !named_command(remedy).is_some_and(|c| message.contains(c)))
        {
            Some(remedy) => Some(remedy),
            None if error.is_transport_loss() => {
                Some("is the daemon running? `gander status` tells, `gander serve` starts one".to_owned())
            }
            None => error
                .retry_after
                .map(|pause| format!("try again in {}", super::output::human_duration(pause))),
        };
        Self { message, remedy, reason: error.reason, exit: exit::ERROR }
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        ClientError::from(status).into()
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<ClientError>() {
            Ok(error) => error.into(),
            Err(error) => Self::new(clean(&format!("{error:#}"))),
        }
    }
}

impl From<gander_config::ConfigError> for CliError {
    fn from(error: gander_config::ConfigError) -> Self {
        Self::new(clean(&error.to_string()))
    }
}

/// The daemon speaks of its methods; a person at this command line has commands for them.
const COMMANDS: &[(&str, &str)] = &[
    ("ListSessions", "`gander session list`"),
    ("ListExtensions", "`gander extension list`"),
    ("ListSchedules", "`gander schedule list`"),
    ("ListRecipes", "`gander recipe list`"),
    ("ListProviders", "`gander provider list`"),
    ("ListModels", "`gander provider models`"),
    ("ListItems", "`gander session show`"),
    ("with SetSecret under ", "with `gander config set --secret NAME`, as "),
];

fn with_commands(message: &str) -> String {
    COMMANDS.iter().fold(message.to_owned(), |text, (method, command)| text.replace(method, command))
}

/// The command at the beginning of a remedy, with its quotes.
fn named_command(remedy: &str) -> Option<&str> {
    let end = remedy.strip_prefix('`')?.find('`')?;
    remedy.get(..end + 2)
}

/// What a person at this command line can do. Only where the daemon's own sentence cannot know the command.
fn remedy_for(reason: ErrorReason, key: Option<&String>) -> Option<String> {
    match (reason, key) {
        (ErrorReason::ProviderNotConfigured | ErrorReason::ProviderUnauthenticated, Some(key)) => {
            Some(format!("`gander config set --secret {}` stores it", clean(key)))
        }
        (reason, _) => remedy_of(reason).map(str::to_owned),
    }
}

fn remedy_of(reason: ErrorReason) -> Option<&'static str> {
    Some(match reason {
        ErrorReason::SessionNotFound => "`gander session list` shows the sessions",
        ErrorReason::TurnAlreadyRunning => {
            "wait for it, watch it with `gander session events ID --follow`, or cancel it where it was started"
        }
        ErrorReason::ToolNotFound => "`gander tool list` shows the tools",
        ErrorReason::ExtensionNotFound => {
            "`gander extension list` shows the configured extensions, with --session ID those of a session"
        }
        ErrorReason::SecretMissing => "store it with `gander config set --secret NAME`",
        ErrorReason::ProviderNotFound => "`gander provider list` shows the providers",
        ErrorReason::ProviderNotConfigured => {
            "`gander provider list` shows what each provider needs; `gander config set GOOSE_PROVIDER NAME` chooses one, \
             and `gander run --demo` works without any"
        }
        ErrorReason::ProviderUnauthenticated => {
            "store a valid key with `gander config set --secret NAME`; `gander provider list` shows its name"
        }
        ErrorReason::ModelUnknown => "`gander provider models PROVIDER` shows the models",
        ErrorReason::TokenInvalid => {
            "pass --token or set GANDER_TOKEN; the token is in the file `token` of the daemon's data directory"
        }
        ErrorReason::CallerIsTool => "run this command outside of the session's tools",
        ErrorReason::StoreCorrupt => "`gander doctor` tells what is wrong",
        ErrorReason::StoreFull => "free disk space; nothing that was stored is lost",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_bring_reason_and_remedy() {
        let detail = ErrorDetail {
            reason: ErrorReason::ProviderUnauthenticated as i32,
            message: "the key was\x1b[2J refused".to_owned(),
            ..ErrorDetail::default()
        };
        let error = CliError::detail(&detail);
        assert_eq!(error.message, "the key was refused");
        assert_eq!(error.reason, "PROVIDER_UNAUTHENTICATED");
        assert!(error.remedy.unwrap().contains("config set --secret NAME"));
        let detail = ErrorDetail {
            metadata: [("key".to_owned(), "GROQ_API_KEY".to_owned())].into_iter().collect(),
            ..detail
        };
        let error = CliError::detail(&detail);
        assert_eq!(error.remedy.unwrap(), "`gander config set --secret GROQ_API_KEY` stores it");
        assert_eq!(error.exit, exit::ERROR);
    }

    #[test]
    fn methods_are_told_as_commands_and_nothing_twice() {
        let mut error =
            ClientError::from(tonic::Status::not_found("no such session; ListSessions shows them"));
        error.reason = "SESSION_NOT_FOUND".to_owned();
        let error = CliError::from(error);
        assert_eq!(error.message, "no such session; `gander session list` shows them");
        assert_eq!(error.remedy, None);
    }

    #[test]
    fn a_status_keeps_its_message() {
        let error = CliError::from(tonic::Status::internal("boom"));
        assert_eq!((error.message.as_str(), error.reason.as_str()), ("boom", ""));
        let nested =
            anyhow::Error::from(ClientError::from(tonic::Status::internal("boom"))).context("opening");
        assert!(CliError::from(nested).message.contains("boom"));
    }
}
