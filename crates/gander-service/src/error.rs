//! The one table from reasons to gRPC codes, and the one place where an error becomes a status.
//!
//! Every status carries `google.rpc.ErrorInfo`; its details stay below 4 KB, since clients bound their trailers. The
//! codes are those that `proto/gander/v1/error_reason.proto` promises in its comments (tested).

use std::{collections::HashMap, time::Duration};

use gander_domain::{ErrorDetail, ErrorReason};
use gander_proto::reason::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

/// Most bytes of encoded details.
const MAX_DETAILS_BYTES: usize = 3_900;
/// Longest message and longest value of metadata, before further cuts.
const MAX_MESSAGE_BYTES: usize = 1_024;
const MAX_VALUE_BYTES: usize = 512;

/// The gRPC code of a reason.
pub fn code(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::SessionNotFound
        | R::TurnNotFound
        | R::ItemNotFound
        | R::InteractionNotFound
        | R::ExtensionNotFound
        | R::RecipeNotFound
        | R::ScheduleNotFound
        | R::ContentNotFound
        | R::ResourceNotFound
        | R::PromptNotFound
        | R::ProviderNotFound
        | R::HostCallNotFound
        | R::ToolNotFound
        | R::ToolNotAllowed => Code::NotFound,

        R::SessionExists
        | R::TurnIdReused
        | R::RequestIdReused
        | R::ScheduleExists
        | R::HostAlreadyAttached => Code::AlreadyExists,

        R::InvalidField
        | R::WorkingDirectoryInvalid
        | R::ElicitationContentInvalid
        | R::PageTokenInvalid
        | R::RecipeInvalid
        | R::RecipeParametersMissing
        | R::LinkInvalid
        | R::CronInvalid
        | R::ImportInvalid
        | R::ModelUnknown
        | R::ProviderBadRequest => Code::InvalidArgument,

        R::TurnAlreadyRunning
        | R::TurnNotRunning
        | R::SessionArchived
        | R::InteractionResolved
        | R::ScheduleRunning
        | R::ScheduleNotRunning
        | R::ExtensionConfigInvalid
        | R::ExtensionTypeUnsupported
        | R::EnvKeyDisallowed
        | R::SecretMissing
        | R::CommandNotAllowed
        | R::ExtensionStartFailed
        | R::ExtensionStartTimeout
        | R::ExtensionNeedsAuth
        | R::ProviderNotConfigured
        | R::ProviderUnauthenticated
        | R::ContextWindowExceeded
        | R::ConfigReadOnly
        | R::ConfigMalformed => Code::FailedPrecondition,

        R::ProviderRateLimited | R::ProviderQuotaExhausted | R::BudgetExceeded | R::MessageTooLarge => {
            Code::ResourceExhausted
        }

        R::SequenceCompacted | R::SequenceAhead => Code::OutOfRange,
        R::EtagMismatch => Code::Aborted,
        R::ToolTimedOut => Code::DeadlineExceeded,
        R::TokenInvalid => Code::Unauthenticated,
        R::PolicyDenied | R::CallerIsTool | R::CapabilityMissing => Code::PermissionDenied,
        R::NotImplemented => Code::Unimplemented,
        R::StoreCorrupt => Code::DataLoss,
        R::Internal => Code::Internal,

        R::ExtensionUnavailable
        | R::ProviderOverloaded
        | R::ProviderUnavailable
        | R::ProviderStreamTruncated
        | R::SecretStoreUnavailable
        | R::StoreFull
        | R::StoreReadOnly
        | R::StoreFenced
        | R::StoreUnavailable
        | R::ShuttingDown
        | R::Overloaded => Code::Unavailable,
    }
}

/// An error as a gRPC status with its details.
pub fn status(error: &ErrorDetail) -> Status {
    let code = code(error.reason);
    if matches!(code, Code::Internal | Code::DataLoss) {
        tracing::error!(reason = %error.reason, message = %error.message, "request failed");
    }
    // Details are cut harder and harder until they fit; the first round fits nearly always.
    let (mut value_bytes, mut message_bytes, mut violations) = (MAX_VALUE_BYTES, MAX_MESSAGE_BYTES, 16);
    loop {
        let message = cut(&error.message, message_bytes);
        let details = details(error, code, value_bytes, violations);
        let status = Status::with_error_details(code, message, details);
        if status.details().len() <= MAX_DETAILS_BYTES || value_bytes < 16 {
            return status;
        }
        value_bytes /= 2;
        message_bytes = (message_bytes / 2).max(128);
        violations = (violations / 2).max(1);
    }
}

fn details(error: &ErrorDetail, code: Code, value_bytes: usize, violations: usize) -> ErrorDetails {
    // Facts beyond the first few are no facts but a dump.
    let metadata: HashMap<String, String> =
        error.metadata.iter().take(16).map(|(k, v)| (cut(k, 64), cut(v, value_bytes))).collect();
    let subject = ["turnId", "activeTurnId", "itemId", "interactionId", "extensionName", "key", "sessionId"]
        .iter()
        .find_map(|key| error.metadata.get(*key))
        .map(|s| cut(s, value_bytes))
        .unwrap_or_default();
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason.as_str(), ERROR_DOMAIN, metadata);
    if !error.violations.is_empty() {
        let list: Vec<_> = error
            .violations
            .iter()
            .take(violations)
            .map(|v| FieldViolation::new(cut(&v.field, value_bytes), cut(&v.description, value_bytes)))
            .collect();
        details.set_bad_request(list);
    }
    if let Some(millis) = error.retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(millis)));
    }
    if code == Code::FailedPrecondition {
        let description = cut(&error.message, value_bytes);
        details.set_precondition_failure(vec![PreconditionViolation::new(
            error.reason.as_str(),
            subject,
            description,
        )]);
    }
    details
}

/// At most `max` bytes of a text, cut between characters.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// Results of handlers: `?` on a domain error gives its status.
pub(crate) trait IntoStatus<T> {
    fn or_status(self) -> Result<T, Status>;
}

impl<T> IntoStatus<T> for Result<T, ErrorDetail> {
    fn or_status(self) -> Result<T, Status> {
        self.map_err(|error| status(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gander_domain::error::FieldViolation as DomainViolation;
    use gander_proto::v1 as pb;

    use super::*;

    const CONTRACT: &str = include_str!("../../../proto/gander/v1/error_reason.proto");

    /// Reasons that are no RPC errors and therefore have no domain value.
    const NOT_ERRORS: &[&str] = &["UNSPECIFIED", "MODEL_REFUSED"];

    /// Name → first sentence of the comment, which is the promised code.
    fn promised() -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut comment = String::new();
        for line in CONTRACT.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                comment.push_str(text);
            } else if let Some((name, _)) =
                line.strip_prefix("ERROR_REASON_").and_then(|rest| rest.split_once(" = "))
            {
                let code = comment.trim().split('.').next().unwrap_or_default().to_owned();
                out.insert(name.to_owned(), code);
                comment.clear();
            } else {
                comment.clear();
            }
        }
        out
    }

    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for (i, c) in format!("{code:?}").chars().enumerate() {
            if i > 0 && c.is_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn reasons_of_domain_and_proto_are_the_same() {
        let promised = promised();
        for reason in ErrorReason::ALL {
            assert!(promised.contains_key(reason.as_str()), "{reason} has no proto value");
            let pb = gander_proto::reason::from_wire_name(reason.as_str()).unwrap();
            assert_ne!(pb, pb::ErrorReason::Unspecified);
            assert_eq!(crate::convert::enums::error_reason_to_pb(*reason), pb);
            assert_eq!(crate::convert::enums::error_reason_from_pb(pb as i32), Some(*reason));
        }
        for name in promised.keys().filter(|n| !NOT_ERRORS.contains(&n.as_str())) {
            assert!(ErrorReason::ALL.iter().any(|r| r.as_str() == name), "{name} has no domain value");
        }
    }

    #[test]
    fn codes_are_those_that_the_contract_promises() {
        let promised = promised();
        let wrong: Vec<_> = ErrorReason::ALL
            .iter()
            .map(|r| (r.as_str(), code_name(code(*r)), promised[r.as_str()].clone()))
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect();
        assert!(wrong.is_empty(), "(reason, table, contract): {wrong:?}");
    }

    #[test]
    fn a_status_has_all_details_that_apply() {
        let mut error = ErrorDetail::new(ErrorReason::TurnAlreadyRunning, "turn t1 runs")
            .with("activeTurnId", "t1")
            .retry_after(Duration::from_millis(1_500));
        let status = super::status(&error);
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "turn t1 runs"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TURN_ALREADY_RUNNING", "gander.v1"));
        assert_eq!(info.metadata["activeTurnId"], "t1");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1_500)));
        let precondition = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(
            (precondition.r#type.as_str(), precondition.subject.as_str()),
            ("TURN_ALREADY_RUNNING", "t1")
        );
        assert!(details.bad_request().is_none());

        error = ErrorDetail::invalid("session_id", "must not be empty");
        let details = super::status(&error).get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "session_id");
        assert!(details.precondition_failure().is_none() && details.retry_info().is_none());
    }

    #[test]
    fn details_fit_into_trailers() {
        let mut error = ErrorDetail::new(ErrorReason::InvalidField, "ä".repeat(50_000));
        for i in 0..40 {
            error = error.with(&format!("key{i}"), "ü".repeat(3_000));
            let description = "ß".repeat(2_000);
            error.violations.push(DomainViolation { field: format!("input.parts[{i}]"), description });
        }
        let status = super::status(&error);
        assert!(status.details().len() <= MAX_DETAILS_BYTES, "{}", status.details().len());
        assert!(status.message().len() <= MAX_MESSAGE_BYTES);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        assert!(!details.bad_request().unwrap().field_violations.is_empty());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (text, max, expected) in [("abc", 3, "abc"), ("abcdef", 5, "ab…"), ("äöü", 5, "ä…")] {
            assert_eq!(cut(text, max), expected);
        }
    }
}
