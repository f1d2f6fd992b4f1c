//! Orders of events.

use super::*;

#[test]
fn an_ordinary_turn_is_deltas_and_a_finish() {
    let log = log(vec![
        begun(),
        completed(item("u", "user-1", user("hi"))),
        started(item("a", "m", said(""))),
        delta("a", "Hel"),
        delta("a", "lo"),
        completed(item("a", "m", said("Hello"))),
        ended(TurnState::Completed),
    ]);
    let sent = sent(&mut stream(), &log);
    assert_eq!(
        brief(&sent),
        ["assistant m: Hel", "assistant m: lo", "Finish"],
        "the user's words are not echoed"
    );
    assert_eq!(
        sent[0],
        json!({"type": "Message", "message": {"id": "m", "role": "assistant", "created": 100,
            "content": [{"type": "text", "text": "Hel"}],
            "metadata": {"userVisible": true, "agentVisible": true}},
            "token_state": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0, "accumulatedInputTokens": 0,
            "accumulatedOutputTokens": 0, "accumulatedTotalTokens": 0}})
    );
    assert_eq!(sent[2]["reason"], json!("stop"));
}

#[test]
fn the_completed_text_adds_what_is_missing_and_replaces_what_differs() {
    let begin = || vec![started(item("a", "m", said(""))), delta("a", "Hel")];
    let after = |full: &str| {
        let mut payloads = begin();
        payloads.push(completed(item("a", "m", said(full))));
        brief(&sent(&mut stream(), &log(payloads)))
    };
    assert_eq!(after("Hello"), ["assistant m: Hel", "assistant m: lo"]);
    assert_eq!(after("Hel"), ["assistant m: Hel"]);
    assert_eq!(after("Something else"), ["assistant m: Hel", "snapshot"]);
    let whole = sent(&mut stream(), &log(vec![completed(item("a", "m", said("At once")))]));
    assert_eq!(brief(&whole), ["assistant m: At once"], "without deltas");
}

#[test]
fn tools_are_asked_for_once_and_answer_as_they_finish() {
    use ToolCallStatus as S;
    let ok = |text: &str| Some(gave(text, pb::ToolOutcome::Ok));
    let log = log(vec![
        begun(),
        started(item("a", "m", said(""))),
        delta("a", "Let me look."),
        completed(item("a", "m", said("Let me look."))),
        started(item("t1", "m", Body::ToolCall(Box::new(call(S::StreamingArguments, None))))),
        started(item("t2", "m", Body::ToolCall(Box::new(call(S::StreamingArguments, None))))),
        updated("t1", call(S::Pending, None)),
        updated("t2", call(S::Pending, None)),
        updated("t1", call(S::Running, None)),
        updated("t2", call(S::Running, None)),
        Payload::ToolOutputDelta(pb::ToolOutputDelta {
            item_id: "t1".into(),
            text: "line\n".into(),
            stream: pb::OutputStream::Stderr as i32,
        }),
        Payload::ToolProgress(pb::ToolProgress {
            item_id: "t1".into(),
            progress: 3.0,
            total: Some(10.0),
            message: "step".into(),
            subagent: None,
        }),
        Payload::ToolNotification(pb::ToolNotification {
            item_id: "t1".into(),
            method: "platform_event".into(),
            params_json: r#"{"extension": "apps"}"#.into(),
        }),
        completed(item("t2", "m", Body::ToolCall(Box::new(call(S::Completed, ok("second")))))),
        completed(item("t1", "m", Body::ToolCall(Box::new(call(S::Completed, ok("first")))))),
        started(item("b", "n", said(""))),
        delta("b", "Done."),
        completed(item("b", "n", said("Done."))),
        ended(TurnState::Completed),
    ]);
    let sent = sent(&mut stream(), &log);
    assert_eq!(
        brief(&sent),
        [
            "assistant m: Let me look.",
            "assistant m: request t1",
            "assistant m: request t2",
            "notification t1 notifications/message",
            "notification t1 notifications/progress",
            "notification t1 platform_event",
            "user t2-r: response t2 success",
            "user t1-r: response t1 success",
            "assistant n: Done.",
            "Finish",
        ]
    );
    let request = &sent[1]["message"]["content"][0];
    assert_eq!(request["_meta"], json!({"goose_extension": "developer"}));
    assert_eq!(
        request["toolCall"],
        json!({"status": "success", "value": {"name": "developer__shell", "arguments": {"command": "ls"}}})
    );
    let data = json!({"type": "shell_output", "stream": "stderr", "output": "line\n"});
    assert_eq!(sent[3]["message"]["params"]["data"], data);
    let progress = json!({"progressToken": "t1", "progress": 3.0, "total": 10.0, "message": "step"});
    assert_eq!(sent[4]["message"]["params"], progress);
    assert_eq!(sent[5]["message"]["params"], json!({"extension": "apps"}));
}

#[test]
fn results_say_how_the_call_ended() {
    use pb::ToolOutcome as O;
    let result = |outcome: O| {
        let body = Body::ToolCall(Box::new(call(ToolCallStatus::Failed, Some(gave("words", outcome)))));
        let sent = sent(&mut stream(), &log(vec![completed(item("t", "m", body))]));
        assert_eq!(brief(&sent)[0], "assistant m: request t", "a call that was never announced is");
        sent[1]["message"]["content"][0]["toolResult"].clone()
    };
    for outcome in [O::ToolError, O::Declined, O::Cancelled] {
        let result = result(outcome);
        assert_eq!(
            (&result["status"], &result["value"]["isError"]),
            (&json!("success"), &json!(true)),
            "{outcome:?}"
        );
    }
    for outcome in [O::ProtocolError, O::TimedOut, O::InvalidArguments] {
        assert_eq!(result(outcome), json!({"status": "error", "error": "words"}), "{outcome:?}");
    }
    let mut broken = call(ToolCallStatus::Invalid, None);
    broken.invalid_arguments = "expected a comma".into();
    let log = log(vec![completed(item("t", "m", Body::ToolCall(Box::new(broken))))]);
    let sent = sent(&mut stream(), &log);
    assert_eq!(sent[0]["message"]["content"][0]["toolCall"]["status"], json!("error"));
}

fn permission(reason: pb::PermissionReason, prompt: &str) -> pb::Interaction {
    pb::Interaction {
        interaction_id: "q".into(),
        session_id: "s".into(),
        item_id: "t".into(),
        create_time: at(102),
        question: Some(pb::interaction::Question::Permission(Box::new(pb::PermissionQuestion {
            tool_call: Some(call(ToolCallStatus::AwaitingApproval, None)),
            reason: reason as i32,
            prompt: prompt.into(),
            options: Vec::new(),
        }))),
        ..Default::default()
    }
}

fn asked(interaction: pb::Interaction) -> Payload {
    Payload::InteractionRequested(Box::new(pb::InteractionRequested { interaction: Some(interaction) }))
}

#[test]
fn an_approval_is_asked_with_an_id_of_its_own_and_the_id_of_the_call() {
    let question = permission(pb::PermissionReason::Policy, "anything");
    let log = log(vec![asked(question.clone()), asked(question)]);
    let sent = sent(&mut stream(), &log);
    assert_eq!(brief(&sent), ["assistant q: toolConfirmation t"], "once");
    let message = &sent[0]["message"];
    assert_eq!(message["metadata"], json!({"userVisible": true, "agentVisible": false}));
    assert_eq!(
        message["content"][0]["data"],
        json!({"actionType": "toolConfirmation", "id": "t", "toolName": "developer__shell",
            "arguments": {"command": "ls"}, "prompt": null}),
        "a prompt would hide the button that remembers"
    );
    let dangerous = super::log(vec![asked(permission(pb::PermissionReason::Security, "Careful"))]);
    let sent = super::sent(&mut stream(), &dangerous);
    assert_eq!(sent[0]["message"]["content"][0]["data"]["prompt"], json!("Careful"));
}

#[test]
fn forms_pages_and_model_calls_are_asked_too() {
    let question = |question| pb::Interaction {
        interaction_id: "q".into(),
        question: Some(question),
        ..pb::Interaction::default()
    };
    let form = pb::FormQuestion {
        message: "Where?".into(),
        schema_json: r#"{"type": "object", "required": ["city"]}"#.into(),
        ..Default::default()
    };
    let page = pb::UrlQuestion { url: "https://example.org/".into(), ..Default::default() };
    let sampling = pb::SamplingQuestion { extension_name: "clever".into(), ..Default::default() };
    let sent = |q: pb::interaction::Question| super::sent(&mut stream(), &log(vec![asked(question(q))]));
    let form = sent(pb::interaction::Question::ElicitForm(form));
    let data = json!({"actionType": "elicitation", "id": "q", "message": "Where?",
        "requested_schema": {"type": "object", "required": ["city"]}});
    assert_eq!(form[0]["message"]["content"][0]["data"], data);
    let page = brief(&sent(pb::interaction::Question::OpenUrl(page)));
    assert_eq!(page, ["assistant q: inlineMessage Please open this page: https://example.org/"]);
    let sampling = brief(&sent(pb::interaction::Question::Sampling(sampling)));
    assert_eq!(sampling, ["assistant q: toolConfirmation q"]);
}

fn compaction(trigger: pb::CompactionTrigger) -> Body {
    Body::Compaction(pb::Compaction {
        summary_parts: vec![text_part("summary")],
        trigger: trigger as i32,
        ..Default::default()
    })
}

fn history(kind: pb::HistoryChangeKind) -> Payload {
    Payload::HistoryChanged(pb::HistoryChanged { kind: kind as i32, ..Default::default() })
}

#[test]
fn a_compaction_is_told_in_gooses_words() {
    let told = |trigger| {
        brief(&sent(
            &mut stream(),
            &log(vec![
                started(item("c", "c", compaction(trigger))),
                delta("c", "sum"),
                completed(item("c", "c", compaction(trigger))),
                history(pb::HistoryChangeKind::Compacted),
            ]),
        ))
    };
    let state = "assistant c-c: thinkingMessage goose is compacting the conversation...";
    let done = "assistant compacted-4: inlineMessage Compaction complete";
    assert_eq!(told(pb::CompactionTrigger::Manual), [state, "snapshot", done]);
    let auto = told(pb::CompactionTrigger::Threshold);
    assert_eq!(
        auto[0],
        "assistant c-n: inlineMessage Exceeded auto-compact threshold of 80%. Performing auto-compaction..."
    );
    assert_eq!(auto[1..], [state, "snapshot", done]);
    let overflow = told(pb::CompactionTrigger::Overflow);
    assert!(overflow[0].ends_with("Context limit reached. Compacting to continue conversation..."));
    let noted = Payload::StatusNoted(pb::StatusNoted {
        level: pb::NoticeLevel::Info as i32,
        text: "the context is nearly full".into(),
        code: "compaction_started".into(),
    });
    let summary = || item("c", "c", compaction(pb::CompactionTrigger::Threshold));
    let log =
        log(vec![noted, started(summary()), completed(summary()), history(pb::HistoryChangeKind::Compacted)]);
    assert_eq!(
        brief(&sent(&mut stream(), &log)),
        [
            "assistant compact-1-n: inlineMessage The context is nearly full",
            "assistant compact-1-c: thinkingMessage goose is compacting the conversation...",
            "snapshot",
            "assistant compacted-4: inlineMessage Compaction complete",
        ],
        "told once, in whichever way the daemon tells"
    );
}

#[test]
fn a_changed_history_is_sent_anew() {
    use pb::HistoryChangeKind as K;
    for kind in [K::Cleared, K::Rewound, K::Replaced] {
        let log = log(vec![history(kind), ended(TurnState::Completed)]);
        assert_eq!(brief(&sent(&mut stream(), &log)), ["snapshot", "Finish"], "{kind:?}");
    }
    let summarized = log(vec![history(K::PairSummarized)]);
    assert!(sent(&mut stream(), &summarized).is_empty(), "people see the same");
    let mut unknown = log(vec![begun()]);
    unknown[0].payload = None;
    assert_eq!(brief(&sent(&mut stream(), &unknown)), ["snapshot"], "of a later version");
    unknown[0].ignorable = true;
    assert!(sent(&mut stream(), &unknown).is_empty());
}

#[test]
fn an_end_that_is_no_success_is_told_before_the_finish() {
    let end = |turn: Turn| {
        let log = log(vec![Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))]);
        sent(&mut stream(), &log)
    };
    let failed = |reason: pb::ErrorReason| {
        let error = pb::ErrorDetail {
            reason: reason as i32,
            message: "The provider is down.".into(),
            metadata: [("topUpUrl".to_owned(), "https://example.org/pay".to_owned())].into(),
            ..Default::default()
        };
        end(Turn { error: Some(error), ..turn(TurnState::Failed) })
    };
    let down = brief(&failed(pb::ErrorReason::ProviderUnavailable));
    assert_eq!(
        down,
        [
            "assistant turn-e: Ran into this error: The provider is down.\n\n\
             Please retry if you think this is a transient or recoverable error.",
            "Finish"
        ]
    );
    let broke = failed(pb::ErrorReason::ProviderQuotaExhausted);
    let content = &broke[0]["message"]["content"][0];
    assert_eq!(content["notificationType"], json!("creditsExhausted"));
    assert_eq!(content["data"], json!({"top_up_url": "https://example.org/pay"}));
    assert_eq!(brief(&end(turn(TurnState::Cancelled))), ["Finish"]);
    assert_eq!(brief(&end(turn(TurnState::Interrupted))).len(), 2);
    let limit = Turn { stop_reason: pb::StopReason::MaxModelCalls as i32, ..turn(TurnState::Completed) };
    assert!(brief(&end(limit))[0].contains("Shall I go on?"));
}

#[test]
fn tokens_follow_the_reports() {
    let usage = |purpose: pb::UsagePurpose, input: i64| {
        Payload::UsageReported(Box::new(pb::UsageReported {
            purpose: purpose as i32,
            call: Some(pb::Usage { input_tokens: Some(input), output_tokens: Some(2), ..Default::default() }),
            session_totals: Some(pb::Usage { total_tokens: Some(input * 10), ..Default::default() }),
            ..Default::default()
        }))
    };
    let log = log(vec![
        usage(pb::UsagePurpose::Turn, 5),
        usage(pb::UsagePurpose::Title, 7),
        ended(TurnState::Completed),
    ]);
    let finish = &sent(&mut stream(), &log)[0]["token_state"];
    assert_eq!(
        (&finish["inputTokens"], &finish["totalTokens"]),
        (&json!(5), &json!(7)),
        "of the turn's call"
    );
    assert_eq!(finish["accumulatedTotalTokens"], json!(70), "of all calls");
}

#[test]
fn thoughts_notices_and_steering_are_whole_messages() {
    let steered = Body::UserMessage(pb::UserMessage { parts: vec![text_part("wait")], steered: true });
    let thought =
        Body::Thought(pb::Thought { text: "hm".into(), signature: "s".into(), redacted_data: "x".into() });
    let notice = Body::Notice(pb::Notice { text: "memory is absent".into(), ..Default::default() });
    let mut hidden = item("h", "h", said("for the model"));
    hidden.visibility = Some(pb::Visibility { user: false, model: true });
    let log = log(vec![
        started(item("th", "m", Body::Thought(pb::Thought::default()))),
        Payload::ThoughtDelta(pb::ThoughtDelta { item_id: "th".into(), text: "h".into(), part_index: 0 }),
        completed(item("th", "m", thought)),
        completed(item("n", "n", notice)),
        completed(item("st", "st", steered)),
        completed(hidden),
    ]);
    assert_eq!(
        brief(&sent(&mut stream(), &log)),
        [
            "assistant m: thinking hm, redactedThinking",
            "assistant n: inlineMessage memory is absent",
            "user st: wait"
        ]
    );
}

#[test]
fn what_a_snapshot_covered_is_not_sent_again_but_the_end_is() {
    let mut shown = stream();
    let open = Item { state: ItemState::InProgress as i32, ..item("a", "m", said("Hel")) };
    shown.cover(&snapshot(vec![open], 3));
    let covered = log(vec![started(item("a", "m", said(""))), delta("a", "Hel"), begun()]);
    assert!(sent(&mut shown, &covered).is_empty());
    let rest = log_from(4, vec![delta("a", "lo"), completed(item("a", "m", said("Hello!")))]);
    assert_eq!(brief(&sent(&mut shown, &rest)), ["assistant m: lo", "assistant m: !"]);
    shown.cover(&snapshot(Vec::new(), 9));
    let failed = Turn { error: Some(pb::ErrorDetail::default()), ..turn(TurnState::Failed) };
    let end = log_from(6, vec![Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(failed) }))]);
    assert_eq!(brief(&sent(&mut shown, &end)), ["Finish"], "the snapshot has told the failure");
}

#[test]
fn a_window_that_comes_back_gets_the_rest_or_the_whole() {
    let resumed = |payloads: Vec<Payload>| {
        let mut shown = Shown::new(Scope::Session, TokenState::default());
        let pending = Body::ToolCall(Box::new(call(ToolCallStatus::Running, None)));
        let open = |item: Item| Item { state: ItemState::InProgress as i32, ..item };
        let items = vec![open(item("a", "m", said("Hello"))), open(item("t", "m", pending))];
        shown.resume(&snapshot(items, 50));
        brief(&sent(&mut shown, &log_from(10, payloads)))
    };
    let rest = resumed(vec![delta("a", "lo"), completed(item("a", "m", said("Hello")))]);
    assert_eq!(rest, ["assistant m: lo"], "the beginning was sent before");
    let dropped = resumed(vec![completed(item("a", "m", said("Hello")))]);
    assert_eq!(dropped, ["snapshot"], "nobody knows how much of it was");
    let running = resumed(vec![updated("t", call(ToolCallStatus::Running, None))]);
    assert!(running.is_empty(), "it was asked for before");
    let pending = resumed(vec![updated("t", call(ToolCallStatus::Pending, None))]);
    assert_eq!(pending, ["assistant m: request t"]);
}

#[test]
fn another_turn_before_this_one_is_shown_when_this_one_begins() {
    let mut events = log(vec![
        Payload::TurnQueued(Box::new(pb::TurnQueued { turn: Some(turn(TurnState::Queued)) })),
        started(item("x", "x", said(""))),
        delta("x", "for somebody else"),
        ended(TurnState::Completed),
        begun(),
        ended(TurnState::Completed),
    ]);
    for event in &mut events[1..4] {
        event.turn_id = "another".into();
    }
    assert_eq!(brief(&sent(&mut stream(), &events)), ["snapshot", "Finish"]);
}

#[test]
fn a_session_shows_what_other_clients_say() {
    let mut events = log(vec![completed(item("u", "u", user("from an editor")))]);
    events[0].actor = Some(pb::Actor { protocol: "acp".into(), ..Default::default() });
    let mut shown = Shown::new(Scope::Session, TokenState::default());
    assert_eq!(brief(&sent(&mut shown, &events)), ["user u: from an editor"]);
    events[0].actor = Some(pb::Actor { protocol: "rest".into(), ..Default::default() });
    assert!(sent(&mut shown, &events).is_empty(), "a window shows its own words itself");
}

#[test]
fn a_fallback_and_a_retry_are_told() {
    let session = pb::Session {
        model: Some(pb::ModelSelection { model_id: "second".into(), ..Default::default() }),
        ..Default::default()
    };
    let update = |cause: pb::SessionUpdateCause| {
        Payload::SessionUpdated(Box::new(pb::SessionUpdated {
            session: Some(session.clone()),
            changed_fields: vec!["model".into()],
            cause: cause as i32,
        }))
    };
    let log = log(vec![
        update(pb::SessionUpdateCause::Client),
        update(pb::SessionUpdateCause::Fallback),
        Payload::ModelRetryScheduled(pb::ModelRetryScheduled {
            attempt: 2,
            delay: Some(prost_types::Duration { seconds: 4, nanos: 0 }),
            error: Some(pb::ErrorDetail { message: "Busy.".into(), ..Default::default() }),
        }),
    ]);
    let sent = sent(&mut stream(), &log);
    assert_eq!(sent[0], json!({"type": "ModelChange", "model": "second", "mode": "fallback"}));
    let retry = "assistant turn-t3: thinkingMessage The model call failed (Busy); next try in 4 s";
    assert_eq!(brief(&sent)[1..], [retry]);
}

#[tokio::test]
async fn what_piled_up_of_one_text_is_one_frame() {
    use super::super::pump::{Sent, pump};
    let client = crate::testing::Daemon::new().client().await;
    let pumped = async |events: Vec<SessionEvent>| -> Vec<(String, Option<i64>)> {
        let mut shown = Shown::new(Scope::Session, TokenState::default());
        let (sent, error) = pump(&client, "s", events, &mut shown).await;
        assert!(error.is_none());
        let brief = |sent: Sent| {
            (super::brief(&[serde_json::to_value(&sent.event).expect("JSON")]).remove(0), sent.sequence)
        };
        sent.into_iter().map(brief).collect()
    };
    let sent = pumped(log(vec![
        started(item("a", "m", said(""))),
        delta("a", "Hel"),
        delta("a", "lo"),
        delta("a", " you"),
        completed(item("a", "m", said("Hello you!"))),
        started(item("b", "n", said(""))),
        delta("b", "Next"),
        ended(TurnState::Interrupted),
    ]))
    .await;
    assert_eq!(sent[0], ("assistant m: Hello you!".to_owned(), Some(5)), "with the id of its last event");
    assert_eq!(sent[1], ("assistant n: Next".to_owned(), Some(7)));
    assert_eq!((sent[2].1, &sent[3]), (None, &("Finish".to_owned(), Some(8))), "the last of two has the id");
    let mut apart = log(vec![started(item("a", "m", said(""))), delta("a", "one"), delta("a", "two")]);
    apart[2].turn_id = "other".into();
    assert_eq!(pumped(apart).await.len(), 2);
}

#[test]
fn a_call_for_a_client_is_offered_once_it_may_run() {
    use ToolCallStatus as S;
    let of = |status: S, executor: pb::ToolExecutor, result: Option<pb::ToolResult>| ToolCall {
        executor: executor as i32,
        ..call(status, result)
    };
    let run = |executor: pb::ToolExecutor| {
        let result = Some(gave("done", pb::ToolOutcome::Ok));
        let log = log(vec![
            started(item("t", "m", Body::ToolCall(Box::new(of(S::StreamingArguments, executor, None))))),
            updated("t", of(S::Pending, executor, None)),
            updated("t", of(S::AwaitingApproval, executor, None)),
            updated("t", of(S::Running, executor, None)),
            updated("t", of(S::Running, executor, None)),
            completed(item("t", "m", Body::ToolCall(Box::new(of(S::Completed, executor, result))))),
        ]);
        sent(&mut stream(), &log)
    };
    let offered = run(pb::ToolExecutor::Client);
    assert_eq!(
        brief(&offered),
        ["assistant m: request t", "assistant t-f: frontendToolRequest", "user t-r: response t success"]
    );
    let offer = &offered[1]["message"];
    assert_eq!(offer["metadata"], json!({"userVisible": false, "agentVisible": true}), "for programs");
    let call =
        json!({"status": "success", "value": {"name": "developer__shell", "arguments": {"command": "ls"}}});
    assert_eq!(offer["content"], json!([{"type": "frontendToolRequest", "id": "t", "toolCall": call}]));
    assert_eq!(
        brief(&run(pb::ToolExecutor::Engine)),
        ["assistant m: request t", "user t-r: response t success"]
    );

    // Who attaches while it runs is not to run it a second time.
    let running = of(S::Running, pb::ToolExecutor::Client, None);
    let open = Item {
        state: ItemState::InProgress as i32,
        ..item("t", "m", Body::ToolCall(Box::new(running.clone())))
    };
    let mut shown = stream();
    shown.cover(&snapshot(vec![open], 3));
    assert!(sent(&mut shown, &log_from(4, vec![updated("t", running)])).is_empty());
}

/// Goose's windows compare these words; a change of one of them breaks a state or a part of the page without an error.
#[test]
fn what_windows_match_on_is_spelled_as_they_spell_it() {
    let note = |code: &str, text: &str| {
        Payload::StatusNoted(pb::StatusNoted { code: code.into(), text: text.into(), ..Default::default() })
    };
    let compacting = sent(&mut stream(), &log(vec![note("compaction_started", "the context is full")]));
    let state = &compacting[1]["message"];
    assert_eq!(
        state["content"],
        json!([{"type": "systemNotification", "notificationType": "thinkingMessage",
            "msg": "goose is compacting the conversation..."}])
    );
    assert_eq!(compacting[0]["message"]["content"][0]["msg"], "The context is full");
    let output = Payload::ToolOutputDelta(pb::ToolOutputDelta {
        item_id: "t".into(),
        text: "x".into(),
        stream: pb::OutputStream::Stdout as i32,
    });
    let subagent = Payload::ToolProgress(pb::ToolProgress {
        item_id: "t".into(),
        subagent: Some(pb::SubagentProgress {
            child_session_id: "child".into(),
            tool_name: "developer__shell".into(),
            arguments_json: r#"{"command":"ls"}"#.into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let notes = sent(&mut stream(), &log(vec![output, subagent]));
    assert_eq!(
        notes[0],
        json!({"type": "Notification", "request_id": "t", "message": {"method": "notifications/message",
            "params": {"level": "info", "logger": "shell_tool",
                "data": {"type": "shell_output", "stream": "stdout", "output": "x"}}}})
    );
    assert_eq!(
        notes[1]["message"]["params"]["data"],
        json!({"type": "subagent_tool_request", "subagent_id": "child",
            "tool_call": {"name": "developer__shell", "arguments": {"command": "ls"}}})
    );
    assert_eq!(notes[1]["message"]["method"], "notifications/message");
}
