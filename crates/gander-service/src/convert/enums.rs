//! Enums, two ways where both exist. Unknown and unspecified numbers become `None`; the caller decides whether that is
//! a default or a violation.

use gander_domain::{
    ErrorReason,
    event::{HistoryChangeKind, OutputStream, UpdateCause},
    extension::{ExtensionOrigin, ExtensionState, ProtocolEra},
    interaction::{
        DecisionKind, FormAction, InteractionOutcome, InteractionState, PermissionReason, UrlPurpose,
    },
    item::{Executor, ItemState, NoticeLevel, Origin, ToolCallStatus, ToolKind, ToolOutcome},
    permission::{RememberScope, RuleDecision},
    session::{Mode, SessionKind, SessionState, ThoughtLevel, TitleSource},
    turn::{InterruptCause, StopReason, TurnState},
    usage::{CostSource, UsagePurpose},
};
use gander_proto::v1 as pb;

macro_rules! to_pb {
    ($($name:ident: $domain:ident => $pb:ident { $($d:ident = $p:ident),* $(,)? })*) => {$(
        pub(crate) fn $name(value: $domain) -> i32 {
            match value { $($domain::$d => pb::$pb::$p as i32,)* }
        }
    )*};
}

macro_rules! from_pb {
    ($($name:ident: $pb:ident => $domain:ident { $($p:ident = $d:ident),* $(,)? })*) => {$(
        pub(crate) fn $name(number: i32) -> Option<$domain> {
            match pb::$pb::try_from(number).ok()? {
                $(pb::$pb::$p => Some($domain::$d),)*
                _ => None,
            }
        }
    )*};
}

macro_rules! both {
    ($($to:ident, $from:ident: $domain:ident = $pb:ident { $($v:ident),* $(,)? })*) => {$(
        to_pb! { $to: $domain => $pb { $($v = $v),* } }
        from_pb! { $from: $pb => $domain { $($v = $v),* } }
    )*};
}

both! {
    notice_level_to_pb, notice_level_from_pb: NoticeLevel = NoticeLevel { Info, Warning, Error }
    tool_kind_to_pb, tool_kind_from_pb: ToolKind = ToolKind {
        Read, Edit, Delete, Move, Search, Execute, Think, Fetch, SwitchMode, Other,
    }
    call_status_to_pb, call_status_from_pb: ToolCallStatus = ToolCallStatus {
        StreamingArguments, Pending, AwaitingApproval, Running, Completed, Declined, Invalid, Cancelled, Failed,
        TimedOut, OutcomeUnknown,
    }
    executor_to_pb, executor_from_pb: Executor = ToolExecutor { Engine, Client, Backend }
    outcome_to_pb, outcome_from_pb: ToolOutcome = ToolOutcome {
        Ok, ToolError, ProtocolError, TimedOut, InvalidArguments, Declined, Cancelled, OutcomeUnknown,
    }
    session_kind_to_pb, session_kind_from_pb: SessionKind = SessionKind {
        User, Scheduled, Subagent, Hidden, Terminal,
    }
    mode_to_pb, mode_from_pb: Mode = SessionMode { Auto, Approve, SmartApprove, Chat }
    thought_level_to_pb, thought_level_from_pb: ThoughtLevel = ThoughtLevel { Off, Low, Medium, High, Max }
    turn_state_to_pb, turn_state_from_pb: TurnState = TurnState {
        Queued, Running, AwaitingInput, Cancelling, Completed, Failed, Cancelled, Interrupted,
    }
    interaction_state_to_pb, interaction_state_from_pb: InteractionState = InteractionState { Pending, Resolved }
    remember_scope_to_pb, remember_scope_from_pb: RememberScope = RememberScope { Once, Session, Project, User }
    decision_kind_to_pb, decision_kind_from_pb: DecisionKind = PermissionDecision { Allow, Deny, Cancel }
    form_action_to_pb, form_action_from_pb: FormAction = FormAction { Accept, Decline, Cancel }
    output_stream_to_pb, output_stream_from_pb: OutputStream = OutputStream { Stdout, Stderr }
    protocol_era_to_pb, protocol_era_from_pb: ProtocolEra = McpProtocol { Auto, Legacy, Modern }
}

to_pb! {
    item_state_to_pb: ItemState => ItemState { InProgress = InProgress, Completed = Completed }
    origin_to_pb: Origin => ItemOrigin {
        Client = Client, Model = Model, Engine = Engine, Backend = Backend, Import = Import,
    }
    rule_decision_to_pb: RuleDecision => RuleDecision { AlwaysAllow = Allow, Ask = Ask, NeverAllow = Deny }
    session_state_to_pb: SessionState => SessionState {
        Idle = Idle, Running = Running, AwaitingInput = AwaitingInput,
    }
    title_source_to_pb: TitleSource => TitleSource { Default = Default, Generated = Generated, User = User }
    stop_reason_to_pb: StopReason => StopReason {
        EndTurn = EndTurn, MaxOutputTokens = MaxOutputTokens, MaxModelCalls = MaxModelCalls, Budget = Budget,
        Refusal = Refusal,
    }
    interrupt_cause_to_pb: InterruptCause => InterruptCause { Restart = Restart, Drain = Drain, Fenced = Fenced }
    interaction_outcome_to_pb: InteractionOutcome => InteractionOutcome {
        Answered = Answered, Expired = Expired, Withdrawn = Withdrawn, Voided = Voided,
    }
    permission_reason_to_pb: PermissionReason => PermissionReason {
        Policy = Policy, Security = Security, ExtensionManagement = ExtensionManagement, Repetition = Repetition,
        DefinitionChanged = DefinitionChanged,
    }
    url_purpose_to_pb: UrlPurpose => UrlPurpose { Elicitation = Elicitation, Oauth = Oauth }
    update_cause_to_pb: UpdateCause => SessionUpdateCause {
        Client = Client, Fallback = Fallback, TitleGenerated = TitleGenerated, Config = Config,
    }
    history_change_to_pb: HistoryChangeKind => HistoryChangeKind {
        Compacted = Compacted, Rewound = Rewound, Cleared = Cleared, Replaced = Replaced,
        PairSummarized = PairSummarized,
    }
    extension_origin_to_pb: ExtensionOrigin => ExtensionOrigin {
        Config = Config, Session = Session, Recipe = Recipe, Client = Client, Link = Link,
    }
    extension_state_to_pb: ExtensionState => ExtensionState {
        Starting = Starting, Ready = Ready, NeedsAuth = NeedsAuth, Degraded = Degraded, Restarting = Restarting,
        Failed = Failed, Stopped = Stopped,
    }
    usage_purpose_to_pb: UsagePurpose => UsagePurpose {
        Turn = Turn, Title = Title, Compaction = Compaction, Judge = Judge, Sampling = Sampling,
        Subagent = Subagent,
    }
    cost_source_to_pb: CostSource => CostSource { Provider = Provider, Table = Table }
}

from_pb! {
    rule_decision_from_pb: RuleDecision => RuleDecision { Allow = AlwaysAllow, Ask = Ask, Deny = NeverAllow }
}

/// The proto value of the same name; a test makes sure that there is one for each reason.
pub(crate) fn error_reason_to_pb(reason: ErrorReason) -> pb::ErrorReason {
    gander_proto::reason::from_wire_name(reason.as_str()).unwrap_or(pb::ErrorReason::Unspecified)
}

/// The reverse; `None` for reasons that are no errors here.
pub(crate) fn error_reason_from_pb(number: i32) -> Option<ErrorReason> {
    let name = gander_proto::reason::wire_name(pb::ErrorReason::try_from(number).ok()?);
    ErrorReason::ALL.iter().copied().find(|r| r.as_str() == name)
}

/// Number of the proto enum value whose name is `prefix` and `word` in upper case; 0 when there is none. For fields that
/// the domain keeps as lower-case words.
pub(crate) fn word_to_pb<E: Into<i32>>(
    prefix: &str,
    word: &str,
    from_str_name: fn(&str) -> Option<E>,
) -> i32 {
    let name = format!("{prefix}{}", word.to_ascii_uppercase());
    from_str_name(&name).map_or(0, Into::into)
}

/// The reverse: the lower-case word of a value's name; empty for the unspecified one.
pub(crate) fn word_from_pb(prefix: &str, name: &str) -> String {
    match name.strip_prefix(prefix) {
        None | Some("UNSPECIFIED") => String::new(),
        Some(word) => word.to_ascii_lowercase(),
    }
}
