//! Conversions: round trips where both directions exist, tables of violations, and completeness of events.

use std::collections::BTreeMap;

use gander_domain::{
    Event, ItemBody, ItemId, MessageId, Part, Session, Timestamp,
    extension::{ExtensionState, ExtensionStateChange, ExtensionTransport},
    interaction::{Answer, DecisionKind, FormAction},
    item::*,
    permission::{PermissionRule, RememberScope, RuleDecision},
    session::{ModelSelection, ThoughtLevel},
};
use gander_proto::v1 as pb;

use super::{samples::*, *};

const AT: At<'static> = At::root("x");

/// Encodes and decodes, so that a round trip is one over the wire.
#[allow(clippy::needless_pass_by_value)] // The original is gone, as over a wire.
fn wire<M: prost::Message + Default>(message: M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn valid<T>(convert: impl FnOnce(&mut Violations) -> Option<T>) -> T {
    let mut v = Violations::default();
    let value = convert(&mut v);
    v.finish(value).unwrap()
}

/// The fields that a conversion complains about.
fn wrong<T: std::fmt::Debug>(convert: impl FnOnce(&mut Violations) -> T) -> Vec<String> {
    let mut v = Violations::default();
    let _ = convert(&mut v);
    v.finish::<()>(None).unwrap_err().violations.into_iter().map(|v| v.field).collect()
}

struct NoDefaults;
impl item::Defaults for NoDefaults {
    fn item_id(&self) -> Option<ItemId> {
        None
    }
    fn message_id(&self) -> Option<MessageId> {
        None
    }
    fn now(&self) -> Timestamp {
        Timestamp(99)
    }
}

#[test]
fn parts_come_back() {
    for part in parts() {
        assert_eq!(valid(|v| content::part_from_pb(wire(content::part_to_pb(&part)), &AT, v)), part);
    }
}

#[test]
fn items_come_back() {
    for body in item_bodies() {
        let expected = item(body);
        let pb = wire(item::item_to_pb(&expected));
        assert_eq!(valid(|v| item::item_from_pb(pb, Origin::Import, &NoDefaults, &AT, v)), expected);
    }
}

#[test]
fn models_limits_answers_and_rules_come_back() {
    let (model, limits) = (model(), turn().limits);
    assert_eq!(valid(|v| Some(session::model_from_pb(wire(session::model_to_pb(&model)), &AT, v))), model);
    for level in ThoughtLevel::ALL.map(Some).into_iter().chain([None]) {
        let model = ModelSelection { thought_level: level, ..model.clone() };
        assert_eq!(
            valid(|v| Some(session::model_from_pb(wire(session::model_to_pb(&model)), &AT, v))),
            model
        );
        // As the log keeps it, and as logs without it are read.
        let mut kept = serde_json::to_value(&model).unwrap();
        assert_eq!(kept.get("thought_level").is_some(), level.is_some());
        assert_eq!(serde_json::from_value::<ModelSelection>(kept.clone()).unwrap(), model);
        kept.as_object_mut().unwrap().remove("thought_level");
        assert_eq!(serde_json::from_value::<ModelSelection>(kept).unwrap().thought_level, None);
    }
    assert_eq!(
        valid(|v| Some(turn::limits_from_pb(Some(wire(turn::limits_to_pb(&limits))), &AT, v))),
        limits
    );
    for answer in [
        Answer::Option { option_id: "allow_once".into() },
        Answer::Decision {
            kind: DecisionKind::Cancel,
            remember_scope: RememberScope::Project,
            comment: Some("no".into()),
        },
        Answer::Form { action: FormAction::Accept, content_json: Some("{\"a\":1}".into()) },
        Answer::Form { action: FormAction::Decline, content_json: None },
        Answer::Url { done: true, callback_url: Some("http://x".into()) },
        Answer::Url { done: false, callback_url: None },
    ] {
        let pb = wire(interaction::answer_to_pb(&answer));
        assert_eq!(valid(|v| interaction::answer_from_pb(Some(pb), &AT, v)), answer);
    }
    for decision in [RuleDecision::AlwaysAllow, RuleDecision::Ask, RuleDecision::NeverAllow] {
        let rule = PermissionRule { tool_pattern: "a__*".into(), decision, scope: RememberScope::User };
        let edit = valid(|v| tool::rule_edit_from_pb(wire(tool::rule_to_pb(&rule, None)), &AT, v));
        assert_eq!(
            (edit.tool_pattern, edit.scope, edit.decision),
            (rule.tool_pattern, rule.scope, Some(decision))
        );
    }
}

#[test]
fn extension_configs_come_back_and_hide_their_values() {
    use extension::Reveal;
    for transport in transports() {
        let config = config(transport);
        let shown = wire(extension::config_to_pb(&config, Reveal::Values));
        assert_eq!(shown.key, "myserver");
        assert_eq!(valid(|v| extension::config_from_pb(shown, &AT, v)), config);
        let hidden = extension::config_to_pb(&config, Reveal::Keys);
        assert_eq!(hidden.env["TOKEN"], "");
        let text = format!("{hidden:?}");
        assert!(!text.contains("s3cret") && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn all_violations_are_told_at_once() {
    let bad = pb::TurnInput {
        message_id: "a b".into(),
        parts: vec![
            pb::Part::default(),
            pb::Part { meta_json: "[]".into(), ..content::part_to_pb(&Part::text("ok")) },
            pb::Part {
                body: Some(pb::part::Body::Image(pb::MediaPart::default())),
                annotations: Some(pb::Annotations { priority: Some(2.0), ..Default::default() }),
                ..Default::default()
            },
            pb::Part { body: Some(pb::part::Body::TextContentId("x/y".into())), ..Default::default() },
        ],
        client_create_time: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
    };
    let at = At::root("input");
    assert_eq!(
        wrong(|v| turn::input_from_pb(Some(bad), &at, v)),
        [
            "input.parts[0]",
            "input.parts[1].meta_json",
            "input.parts[2].image",
            "input.parts[3].text_content_id",
            "input.message_id",
            "input.client_create_time",
        ]
    );
}

#[test]
fn violations_of_single_values() {
    let limits = |limits| wrong(|v| turn::limits_from_pb(Some(limits), &At::root("limits"), v));
    assert_eq!(
        limits(pb::TurnLimits {
            max_model_calls: Some(0),
            max_tokens: Some(-1),
            max_cost_micros: Some(0),
            max_duration: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        }),
        ["limits.max_duration", "limits.max_model_calls", "limits.max_tokens", "limits.max_cost_micros"]
    );
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
        let duration = Some(prost_types::Duration { seconds, nanos });
        assert_eq!(wrong(|v| v.duration(&AT, duration)), ["x"], "{seconds} {nanos}");
    }
    let model = |m: pb::ModelSelection| wrong(|v| session::model_from_pb(m, &At::root("model"), v));
    assert_eq!(
        model(pb::ModelSelection {
            temperature: Some(f64::NAN),
            context_limit: Some(0),
            extra_params_json: "{".into(),
            recording: Some(pb::ModelRecording::default()),
            thought_level: 77,
            ..Default::default()
        }),
        [
            "model.recording",
            "model.thought_level",
            "model.temperature",
            "model.provider_id",
            "model.context_limit",
            "model.extra_params_json"
        ]
    );
    let answer = |a| wrong(|v| interaction::answer_from_pb(Some(a), &At::root("answer"), v));
    assert_eq!(answer(pb::InteractionAnswer::default()), ["answer"]);
    let decision = pb::PermissionAnswer { kind: 77, remember_scope: 99, ..Default::default() };
    let decision = pb::interaction_answer::Answer::Decision(decision);
    assert_eq!(
        answer(pb::InteractionAnswer { answer: Some(decision) }),
        ["answer.decision.remember_scope", "answer.decision.kind"]
    );
    for (pattern, ok) in
        [("a__b", true), ("a__*", true), ("*", true), ("*a", false), ("a*b*", false), ("", false)]
    {
        let rule = pb::PermissionRule {
            tool_pattern: pattern.into(),
            decision: pb::RuleDecision::Allow as i32,
            scope: pb::RememberScope::User as i32,
            ..Default::default()
        };
        let mut v = Violations::default();
        let rule = tool::rule_edit_from_pb(rule, &AT, &mut v);
        assert_eq!(v.finish(rule).is_ok(), ok, "{pattern:?}");
    }
}

#[test]
fn extension_configs_are_validated() {
    let base = || extension::config_to_pb(&config(ExtensionTransport::Builtin), extension::Reveal::Values);
    let check = |c: pb::ExtensionConfig| wrong(|v| extension::config_from_pb(c, &At::root("config"), v));
    assert_eq!(check(pb::ExtensionConfig { kind: None, ..base() }), ["config"]);
    assert_eq!(check(pb::ExtensionConfig { name: "--".into(), ..base() }), ["config.name"]);
    let sandbox = pb::ExtensionSandbox {
        mode: pb::SandboxMode::ReadOnly as i32,
        writable_paths: vec!["relative".into()],
        readable_paths: vec!["usr".into()],
        allow_network: false,
    };
    assert_eq!(
        check(pb::ExtensionConfig { sandbox: Some(sandbox), ..base() }),
        ["config.sandbox.readable_paths", "config.sandbox.writable_paths"]
    );
    let sampling = pb::SamplingPolicy { max_calls_per_turn: Some(1), ..Default::default() };
    assert_eq!(check(pb::ExtensionConfig { sampling: Some(sampling), ..base() }), ["config.sampling"]);
    let http = pb::StreamableHttpExtension { uri: "ftp://x".into(), ..Default::default() };
    let kind = Some(pb::extension_config::Kind::StreamableHttp(http));
    assert_eq!(check(pb::ExtensionConfig { kind, ..base() }), ["config.streamable_http.uri"]);
    let twice = vec![base(), base()];
    assert_eq!(
        wrong(|v| extension::configs_from_pb(twice, &At::root("extensions"), "add", v)),
        ["extensions.add[1].name"]
    );
}

#[test]
fn history_that_is_not_complete_is_refused() {
    let mut running = item::item_to_pb(&item(ItemBody::ToolCall(Box::new(call(ToolCallStatus::Running)))));
    running.state = pb::ItemState::InProgress as i32;
    running.item_id.clear();
    let fields =
        wrong(|v| item::item_from_pb(running, Origin::Client, &NoDefaults, &At::root_element("items", 2), v));
    assert_eq!(fields, ["items[2].state", "items[2].tool_call.status"]);
}

/// The payload's name in the oneof: the variant's name in snake case.
fn pb_name(payload: &pb::session_event::Payload) -> String {
    let debug = format!("{payload:?}");
    let variant = debug.split('(').next().unwrap();
    let mut out = String::new();
    for c in variant.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[test]
fn every_payload_has_its_own_case() {
    let payloads = payloads();
    let mut names = std::collections::BTreeSet::new();
    for payload in payloads {
        let name = payload.name();
        let ignorable = payload.ignorable();
        let event = Event { sequence: 7, turn_id: None, time: Timestamp(1_500_000), actor: None, payload };
        let pb = wire(event::event_to_pb(&event, &sid()));
        assert_eq!((pb.sequence, pb.session_id.as_str(), pb.ignorable), (7, "s1", ignorable));
        assert_eq!(pb.create_time, Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(pb_name(pb.payload.as_ref().unwrap()), name);
        names.insert(name);
    }
    assert_eq!(names.len(), 32, "one payload of every kind is tested");
}

#[test]
fn words_of_the_domain_become_enum_values() {
    let find = |name: &str| {
        let payload = payloads().into_iter().find(|p| p.name() == name).unwrap();
        let event = Event { sequence: 1, turn_id: None, time: Timestamp(0), actor: None, payload };
        event::event_to_pb(&event, &sid()).payload.unwrap()
    };
    use pb::session_event::Payload as P;
    let P::PlanUpdated(plan) = find("plan_updated") else { panic!() };
    let entry = &plan.plan.unwrap().entries[0];
    assert_eq!((entry.priority(), entry.status()), (pb::PlanPriority::High, pb::PlanStatus::InProgress));
    let P::ListChanged(list) = find("list_changed") else { panic!() };
    assert_eq!(list.list_kind(), pb::ListKind::Prompts);
    let P::ExtensionNotification(note) = find("extension_notification") else { panic!() };
    assert_eq!(note.level(), pb::LogLevel::Warning);
    let P::ExtensionStateChanged(change) = find("extension_state_changed") else { panic!() };
    assert_eq!(change.cause(), pb::ExtensionStateCause::Initialized);
    let P::ToolProgress(progress) = find("tool_progress") else { panic!() };
    assert_eq!((progress.progress, progress.total), (0.5, None));
    let P::InteractionRequested(asked) = find("interaction_requested") else { panic!() };
    let Some(pb::interaction::Question::Permission(question)) = asked.interaction.unwrap().question else {
        panic!()
    };
    let kinds: Vec<_> = question.options.iter().map(|o| (o.option_id.as_str(), o.kind())).collect();
    assert_eq!(kinds[0], ("allow_once", pb::PermissionOptionKind::AllowOnce));
    assert_eq!(kinds[2], ("allow_always", pb::PermissionOptionKind::AllowAlways));
    let permission = question.tool_call.unwrap().permission.unwrap();
    assert_eq!(permission.source(), pb::PermissionSource::Answer);
}

#[test]
fn a_failure_told_as_a_cause_becomes_an_error() {
    let change = |cause: &str, to| {
        extension::state_change_to_pb(&ExtensionStateChange {
            key: "k".into(),
            from: None,
            to,
            cause: cause.into(),
            attempt: 0,
            exit_code: None,
            stderr_tail: String::new(),
        })
    };
    let failed = change("npx: not found", ExtensionState::Failed);
    assert_eq!(failed.cause(), pb::ExtensionStateCause::StartFailed);
    assert_eq!(failed.error.unwrap().message, "npx: not found");
    let known = change("crash_loop", ExtensionState::Failed);
    assert_eq!((known.cause(), known.error), (pb::ExtensionStateCause::CrashLoop, None));
}

#[test]
fn etags_follow_settable_fields_only() {
    let base = session();
    let etag = session::etag(&base);
    assert_eq!(etag.len(), 16);
    assert_eq!(session::etag(&Session { last_sequence: 99, message_count: 4, ..session() }), etag);
    for changed in [
        Session { title: "U".into(), ..session() },
        Session { mode: None, ..session() },
        Session { labels: BTreeMap::new(), ..session() },
        Session { archive_time: Some(Timestamp(1)), ..session() },
        Session { container: Some("c".into()), ..session() },
    ] {
        assert_ne!(session::etag(&changed), etag);
    }
}

#[test]
fn times_and_durations() {
    for micros in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000] {
        let pb = time_to_pb(Timestamp(micros));
        assert!((0..1_000_000_000).contains(&pb.nanos));
        assert_eq!(valid(|v| v.time(&AT, Some(pb))), Timestamp(micros));
    }
    for ms in [0, 1, 999, 1_000, 86_400_001] {
        assert_eq!(valid(|v| v.duration(&AT, Some(millis_to_pb(ms)))).as_millis(), u128::from(ms));
    }
}

#[test]
fn paths_are_dotted() {
    let (a, b);
    let root = At::root_element("items", 3);
    a = root.field("tool_call");
    b = a.element("locations", 0);
    assert_eq!(b.field("line").to_string(), "items[3].tool_call.locations[0].line");
}
