//! Values for the tests of conversions, as full as possible.

use std::collections::BTreeMap;

use gander_domain::{
    Actor, ContentId, Interaction, InteractionId, Item, ItemBody, ItemId, MessageId, Part, PartBody, Payload,
    Session, SessionId, Timestamp, Turn, TurnId, Usage,
    content::{Annotations, Blob, Data},
    event::{
        HistoryChange, HistoryChangeKind, ListChange, OutputStream, SubagentProgress, ToolProgress,
        UpdateCause, UsageReport, VisibilityChange,
    },
    extension::{
        ExtensionConfig, ExtensionOrigin, ExtensionState, ExtensionStateChange, ExtensionSummary,
        ExtensionTransport, ProtocolEra,
    },
    interaction::{
        InteractionKind, InteractionOutcome, InteractionState, PermissionQuestion, PermissionReason,
        Resolution, standard_permission_options,
    },
    item::*,
    session::*,
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
    turn::{StopReason, TurnLimits, TurnState},
    usage::{Cost, CostSource, SessionUsage, UsagePurpose},
};

use super::*;

pub(super) fn sid() -> SessionId {
    SessionId::new("s1").unwrap()
}

pub(super) fn content_id() -> ContentId {
    ContentId::new("c".repeat(64)).unwrap()
}

pub(super) fn bodies() -> Vec<PartBody> {
    let blob = || Data::Inline(Blob(vec![0, 1, 255]));
    vec![
        PartBody::Text("täxt\n".into()),
        PartBody::Text(String::new()),
        PartBody::TextContent { content_id: content_id(), size_bytes: 300_000 },
        PartBody::Image { data: blob(), mime_type: "image/png".into() },
        PartBody::Audio { data: Data::Content(content_id()), mime_type: "audio/wav".into() },
        PartBody::Resource { uri: "file:///a".into(), mime_type: None, text: Some("x".into()), data: None },
        PartBody::Resource {
            uri: "file:///b".into(),
            mime_type: Some("application/zip".into()),
            text: None,
            data: Some(blob()),
        },
        PartBody::Resource {
            uri: "u:c".into(),
            mime_type: None,
            text: None,
            data: Some(Data::Content(content_id())),
        },
        PartBody::Resource { uri: "u:d".into(), mime_type: None, text: None, data: None },
        PartBody::ResourceLink {
            uri: "https://x".into(),
            name: "x".into(),
            title: Some("X".into()),
            mime_type: Some("text/html".into()),
            size_bytes: Some(7),
        },
        PartBody::Diff { path: "/a".into(), old_text: None, new_text: Some("n".into()), patch: None },
        PartBody::Terminal { terminal_id: "t".into(), exit_code: Some(-1), signal: Some("SIGKILL".into()) },
        PartBody::Unknown { kind: "hologram".into(), raw_json: "{\"type\":\"hologram\"}".into() },
    ]
}

pub(super) fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = bodies().into_iter().map(Part::new).collect();
    parts[0].annotations = Some(Annotations {
        audience: vec!["user".into()],
        priority_millis: Some(250),
        last_modified: Some(Timestamp(1_700_000_000_123_456)),
    });
    parts[1].meta_json = Some("{\"big\": 9007199254740993}".into());
    parts
}

pub(super) fn call(status: ToolCallStatus) -> ToolCall {
    ToolCall {
        extension_name: "developer".into(),
        tool_name: "shell".into(),
        title: "Run".into(),
        kind: ToolKind::Execute,
        status,
        arguments_json: "{\"n\":9007199254740993}".into(),
        invalid_arguments: Some("no".into()),
        locations: vec![
            Location { path: "/a".into(), line: Some(3) },
            Location { path: "/b".into(), line: None },
        ],
        annotations: ToolAnnotations {
            read_only: Some(false),
            destructive: Some(true),
            ..Default::default()
        },
        tool_meta_json: Some("{}".into()),
        executor: Executor::Client,
        permission: Some(PermissionRecord { allowed: true, source: "answer".into() }),
        content: parts(),
        result: Some(ToolResult {
            outcome: ToolOutcome::ToolError,
            parts: parts(),
            structured_content_json: Some("[1.0]".into()),
            is_error: true,
            meta_json: Some("{\"a\":1}".into()),
            error: Some(
                ErrorDetail::new(ErrorReason::ToolTimedOut, "late")
                    .with("seconds", 3)
                    .retry_after(Duration::from_millis(1_500)),
            ),
            truncated: Some(Truncated { original_bytes: 12, content_id: Some(content_id()) }),
            duration_ms: 1_234,
        }),
        child_session_id: Some(sid()),
        start_time: Some(Timestamp(5)),
        ..ToolCall::streaming("developer__shell", "call_0")
    }
}

pub(super) fn item_bodies() -> Vec<ItemBody> {
    vec![
        ItemBody::UserMessage(UserMessage { parts: parts(), steered: true }),
        ItemBody::AgentMessage(AgentMessage { parts: parts(), demo: true }),
        ItemBody::Thought(Thought { text: "hm".into(), signature: Some("sig".into()), redacted_data: None }),
        ItemBody::ToolCall(Box::new(call(ToolCallStatus::Completed))),
        ItemBody::Compaction(Compaction {
            summary_parts: parts(),
            replaced_through_sequence: 9,
            trigger: "threshold".into(),
        }),
        ItemBody::Notice(Notice {
            level: NoticeLevel::Warning,
            code: "x".into(),
            text: "y".into(),
            data_json: Some("{}".into()),
        }),
    ]
}

pub(super) fn item(body: ItemBody) -> Item {
    Item {
        item_id: ItemId::new("i1").unwrap(),
        turn_id: Some(TurnId::new("t1").unwrap()),
        message_id: MessageId::new("m1").unwrap(),
        body,
        state: ItemState::Completed,
        incomplete: true,
        visibility: Visibility { user: true, model: false },
        origin: Origin::Import,
        create_time: Timestamp(-1),
        client_create_time: Some(Timestamp::from_seconds(7)),
        complete_time: Some(Timestamp(8)),
        redacted: false,
        model_id: Some("m".into()),
        provider_state_json: None,
    }
}

pub(super) fn turn() -> Turn {
    Turn {
        turn_id: TurnId::new("t1").unwrap(),
        state: TurnState::Queued,
        stop_reason: Some(StopReason::Budget),
        error: Some(ErrorDetail::internal("x")),
        started_by: Some(Actor {
            principal: "uid:1".into(),
            client_name: "c/1".into(),
            protocol: "grpc".into(),
        }),
        cancelled_by: None,
        interrupted_by: None,
        limits: TurnLimits {
            max_model_calls: Some(3),
            max_tokens: Some(4),
            max_cost_micros: Some(5),
            max_duration_ms: Some(6_001),
        },
        model: Some(model()),
        usage: Usage { input_tokens: Some(1), ..Usage::default() },
        model_calls: 2,
        create_time: Timestamp(1),
        start_time: None,
        end_time: Some(Timestamp(3)),
        first_sequence: 4,
        last_sequence: 5,
        request_hash: "h".into(),
    }
}

pub(super) fn model() -> ModelSelection {
    ModelSelection {
        provider_id: "p".into(),
        model_id: "m".into(),
        context_limit: Some(1_000),
        temperature_millis: Some(700),
        max_output_tokens: Some(10),
        extra_params_json: Some("{\"a\":1}".into()),
        thought_level: Some(ThoughtLevel::Max),
    }
}

pub(super) fn session() -> Session {
    Session {
        session_id: sid(),
        title: "T".into(),
        title_source: TitleSource::User,
        kind: SessionKind::User,
        state: SessionState::AwaitingInput,
        archive_time: None,
        owner: "me".into(),
        working_directory: "/w".into(),
        additional_directories: vec!["/x".into()],
        model: Some(model()),
        mode: Some(Mode::SmartApprove),
        demo_allowed: true,
        instructions: vec![Instruction { key: "k".into(), text: "t".into(), replace: true }],
        recipe: None,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        container: None,
        schedule_id: None,
        parent: None,
        extension_state: BTreeMap::new(),
        usage: SessionUsage::default(),
        context_used_tokens: None,
        context_window_tokens: Some(8),
        message_count: 3,
        last_sequence: 17,
        oldest_sequence: 1,
        active_turn_id: None,
        pending_interaction_count: 1,
        create_time: Timestamp(1),
        update_time: Timestamp(2),
    }
}

pub(super) fn config(transport: ExtensionTransport) -> ExtensionConfig {
    ExtensionConfig {
        name: "My Server".into(),
        transport,
        description: "d".into(),
        display_name: Some("D".into()),
        bundled: true,
        timeout_ms: Some(1_500),
        tool_allowlist: vec!["a".into()],
        env: BTreeMap::from([("TOKEN".into(), "s3cret".into())]),
        env_keys: vec!["KEY".into()],
        exec_prefix: vec!["docker".into()],
        protocol: ProtocolEra::Modern,
        sampling: gander_domain::extension::SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: Some("{\"x\":\"hidden\"}".into()),
    }
}

pub(super) fn transports() -> Vec<ExtensionTransport> {
    let tool = ToolDefinition {
        name: "pick".into(),
        extension_name: "myserver".into(),
        tool_name: "pick".into(),
        title: Some("Pick".into()),
        description: "d".into(),
        input_schema_json: "{\"type\":\"object\"}".into(),
        output_schema_json: Some("{}".into()),
        annotations: ToolAnnotations { read_only: Some(true), ..Default::default() },
        icons_json: None,
        meta_json: Some("{}".into()),
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        trusted: false,
    };
    vec![
        ExtensionTransport::Builtin,
        ExtensionTransport::Platform,
        ExtensionTransport::Stdio { command: "c".into(), args: vec!["-x".into()] },
        ExtensionTransport::StreamableHttp {
            uri: "https://x".into(),
            headers: BTreeMap::from([("Authorization".into(), "Bearer s3cret".into())]),
            unix_socket: Some("@a".into()),
        },
        ExtensionTransport::InlinePython { code: "print()".into(), dependencies: vec!["mcp".into()] },
        ExtensionTransport::Client { tools: vec![tool], instructions: Some("i".into()) },
        ExtensionTransport::Sse { uri: "http://x".into() },
        ExtensionTransport::Unknown { kind: "odd".into() },
    ]
}

/// One payload of every kind.
pub(super) fn payloads() -> Vec<Payload> {
    let item_id = || ItemId::new("i1").unwrap();
    let turn = || Box::new(turn());
    let text = || "x".to_owned();
    let summary = ExtensionSummary {
        key: "k".into(),
        name: "K".into(),
        kind: "frontend".into(),
        config_hash: "h".into(),
        origin: ExtensionOrigin::Recipe,
    };
    let question = PermissionQuestion {
        tool_call: call(ToolCallStatus::AwaitingApproval),
        reason: PermissionReason::Policy,
        prompt: String::new(),
        options: standard_permission_options(PermissionReason::Policy),
    };
    let interaction = Interaction {
        interaction_id: InteractionId::new("q1").unwrap(),
        turn_id: None,
        item_id: Some(item_id()),
        kind: InteractionKind::Permission(Box::new(question)),
        state: InteractionState::Pending,
        create_time: Timestamp(1),
        expire_time: Timestamp(2),
        outcome: None,
        answer: None,
        answered_by: None,
    };
    let boxed_session = || Box::new(session());
    vec![
        Payload::SessionCreated { session: boxed_session(), origin: SessionOrigin::New },
        Payload::SessionUpdated {
            session: boxed_session(),
            changed_fields: vec!["title".into()],
            cause: UpdateCause::Client,
        },
        Payload::SessionOptionsChanged { options: Vec::new() },
        Payload::CommandsChanged {
            commands: vec![Command {
                name: "compact".into(),
                help: text(),
                input_hint: String::new(),
                kind: "builtin".into(),
                recipe_id: None,
            }],
        },
        Payload::PlanUpdated {
            plan: Plan {
                entries: vec![PlanEntry {
                    content: text(),
                    priority: "high".into(),
                    status: "in_progress".into(),
                }],
                ..Plan::default()
            },
        },
        Payload::HistoryChanged(HistoryChange {
            kind: HistoryChangeKind::Rewound,
            visibility_changes: vec![VisibilityChange { item_id: item_id(), user: false, model: true }],
            hidden_from_sequence: Some(3),
            summary_item_id: None,
        }),
        Payload::TurnQueued { turn: turn() },
        Payload::TurnStarted { turn: turn() },
        Payload::TurnCancelRequested { turn: turn() },
        Payload::TurnEnded { turn: turn() },
        Payload::ModelCallStarted { model: model(), call_index: 1 },
        Payload::ModelRetryScheduled { attempt: 1, delay_ms: 1_500, error: ErrorDetail::internal("x") },
        Payload::ItemStarted { item: Box::new(item(item_bodies().remove(0))) },
        Payload::ItemCompleted { item: Box::new(item(item_bodies().remove(3))) },
        Payload::ItemRedacted { item_id: item_id() },
        Payload::ToolCallUpdated { item_id: item_id(), call: Box::new(call(ToolCallStatus::Pending)) },
        Payload::TextDelta { item_id: item_id(), part_index: 1, text: text() },
        Payload::ThoughtDelta { item_id: item_id(), text: text() },
        Payload::ArgumentsDelta { item_id: item_id(), text: text() },
        Payload::ToolOutputDelta { item_id: item_id(), stream: OutputStream::Stderr, text: text() },
        Payload::ToolProgress(ToolProgress {
            item_id: item_id(),
            progress: "0.5".into(),
            total: Some("NaN".into()),
            message: Some(text()),
            subagent: Some(SubagentProgress { child_session_id: sid(), summary: text() }),
        }),
        Payload::ToolNotification { item_id: item_id(), method: "m".into(), params_json: "{}".into() },
        Payload::InteractionRequested { interaction: Box::new(interaction) },
        Payload::InteractionResolved(Box::new(Resolution {
            interaction_id: InteractionId::new("q1").unwrap(),
            outcome: InteractionOutcome::Expired,
            answer: None,
            answered_by: None,
            rule_created: None,
        })),
        Payload::ExtensionAdded { extension: summary },
        Payload::ExtensionRemoved { key: "k".into() },
        Payload::ExtensionStateChanged(ExtensionStateChange {
            key: "k".into(),
            from: None,
            to: ExtensionState::Ready,
            cause: "initialized".into(),
            attempt: 1,
            exit_code: None,
            stderr_tail: String::new(),
        }),
        Payload::ListChanged(ListChange {
            extension_name: "e".into(),
            list: "prompts".into(),
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            generation: 2,
        }),
        Payload::ResourceUpdated { extension_name: "e".into(), uri: "u".into() },
        Payload::ExtensionNotification {
            extension_name: "e".into(),
            level: "warning".into(),
            logger: String::new(),
            data_json: "{}".into(),
        },
        Payload::UsageReported(Box::new(UsageReport {
            purpose: UsagePurpose::Turn,
            call: Usage::default(),
            session_totals: Usage::default(),
            context_used_tokens: Some(1),
            context_window_tokens: None,
            cost: Some(Cost { amount_micros: 1, currency: "USD".into(), source: CostSource::Table }),
            cost_totals: None,
        })),
        Payload::StatusNoted { level: NoticeLevel::Info, code: "c".into(), text: text() },
    ]
}
