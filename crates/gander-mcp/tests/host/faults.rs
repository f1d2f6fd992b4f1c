//! Servers that break the rules: each fault ends in a typed failure within its deadline, and nobody else notices.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gander_domain::{
    ErrorReason,
    extension::{ExtensionConfig, ExtensionState, ExtensionTransport},
    item::{ToolOutcome, ToolResult},
};
use gander_mcp::{CallProgress, Fault, FaultInjector, HostEvent};
use gander_process::tree;

use crate::common::{PATIENCE, Session, config, request, stdio};

fn named(name: &str) -> ExtensionConfig {
    ExtensionConfig { name: name.to_owned(), ..stdio(&[]) }
}

fn text(result: &ToolResult) -> &str {
    assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
    result.parts[0].as_text().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_call_ends_at_its_deadline_and_others_go_on() {
    let session = Session::new();
    session.add(named("child")).await;
    session.add(named("other")).await;
    let (mut call, _progress) = request("child__silent", "");
    call.timeout = Some(Duration::from_millis(500));
    let calling = async {
        let before = Instant::now();
        (session.extensions.call(call).await, before.elapsed())
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(text(&session.call("other__echo", "{}").await), "{}");
        }
    };
    let ((result, elapsed), ()) = tokio::join!(calling, others);
    assert_eq!(result.outcome, ToolOutcome::TimedOut);
    assert_eq!(result.error.unwrap().reason, ErrorReason::ToolTimedOut);
    assert!((450..1500).contains(&elapsed.as_millis()), "{elapsed:?}");
    assert_eq!(text(&session.call("child__echo", "{}").await), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reads_nothing_blocks_only_itself() {
    let session = Session::new();
    session.add(named("child")).await;
    session.add(named("other")).await;
    assert_eq!(text(&session.call("child__deaf", "").await), "deaf from now on");
    let large = serde_json::json!({"text": "x".repeat(2 * 1024 * 1024)}).to_string();
    for _ in 0..3 {
        let (mut call, _progress) = request("child__echo", &large);
        call.timeout = Some(Duration::from_millis(200));
        let before = Instant::now();
        assert_eq!(session.extensions.call(call).await.outcome, ToolOutcome::TimedOut);
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    }
    assert_eq!(text(&session.call("other__echo", "{}").await), "{}");
    let before = Instant::now();
    assert!(session.extensions.remove("child").await);
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn confused_ids_reach_nobody_else() {
    let session = Session::new();
    session.add(named("child")).await;
    for _ in 0..3 {
        let (confused, echo) =
            tokio::join!(session.call("child__confused", ""), session.call("child__echo", r#"{"a":1}"#));
        assert_eq!(text(&confused), "right");
        assert_eq!(text(&echo), r#"{"a":1}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_notifications_is_bounded_and_the_call_returns() {
    let mut session = Session::new();
    session.add(named("child")).await;
    let (call, mut progress) = request("child__notices", "");
    // Nobody reads events or reports meanwhile.
    assert_eq!(text(&session.extensions.call(call).await), "done");
    let mut reports = 0;
    let mut last = 0.0;
    while let Ok(report) = progress.try_recv() {
        let CallProgress::Progress { progress, .. } = report else { panic!("{report:?}") };
        assert!(progress >= last);
        (reports, last) = (reports + 1, progress);
    }
    assert!(reports <= 8192, "{reports}");
    assert_eq!(text(&session.call("child__echo", "{}").await), "{}");
    session.extensions.shutdown(PATIENCE).await;
    let mut events = 0;
    loop {
        match session.event().await {
            HostEvent::StateChanged(change) if change.to == ExtensionState::Stopped => break,
            HostEvent::StateChanged(_) => {}
            _ => events += 1,
        }
    }
    assert!((64..=1024 + 64 + 8).contains(&events), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tool_of_two_servers_is_reported_and_both_can_be_called() {
    let mut session = Session::new();
    session.add(named("first")).await;
    session.add(named("second")).await;
    let notice = loop {
        if let HostEvent::Notification { extension_name, level, data_json, .. } = session.event().await {
            assert_eq!((extension_name.as_str(), level.as_str()), ("second", "notice"));
            break serde_json::from_str::<serde_json::Value>(&data_json).unwrap();
        }
    };
    assert_eq!((&notice["kind"], &notice["kept"]), (&"shadowing".into(), &"first".into()));
    for key in ["first", "second"] {
        assert_eq!(text(&session.call(&format!("{key}__echo"), "{}").await), "{}");
    }
    session.add(named("First")).await;
    loop {
        if let HostEvent::Notification { level, data_json, .. } = session.event().await
            && data_json.contains("replaced")
        {
            assert!(level == "warning" && data_json.contains("First"), "{data_json}");
            break;
        }
    }
}

/// The slowest but one percent.
async fn p99(session: &Session) -> Duration {
    let calls = (0..8).map(|server| async move {
        let mut times = Vec::new();
        for _ in 0..50 {
            let before = Instant::now();
            assert_eq!(text(&session.call(&format!("s{server}__echo"), "{}").await), "{}");
            times.push(before.elapsed());
        }
        times
    });
    let mut times = futures::future::join_all(calls).await.concat();
    times.sort();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_that_hangs_slows_no_other() {
    let session = Session::new();
    for server in 0..9 {
        session.add(named(&format!("s{server}"))).await;
    }
    let alone = p99(&session).await;
    let (hanging, _progress) = request("s8__silent", "");
    let cancel = hanging.cancel.clone();
    let measuring = async {
        let beside = p99(&session).await;
        cancel.cancel();
        beside
    };
    let (_, beside) = tokio::join!(session.extensions.call(hanging), measuring);
    // The machine is shared with other tests: a server that blocked others would cost seconds, not this.
    assert!(beside <= alone * 2 + Duration::from_millis(100), "alone {alone:?}, beside {beside:?}");
}

const TREE: &str = r#"
import json, os, subprocess, sys
child = subprocess.Popen(["sleep", "1000"])
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m:
        continue
    answer = {"jsonrpc": "2.0", "id": m["id"]}
    if m["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-06-18", "capabilities": {},
            "serverInfo": {"name": "tree", "version": "1"},
            "instructions": "%d %d %d" % (os.getppid(), os.getpid(), child.pid)}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_trees_leave_no_process_and_no_zombie() {
    let session = Session::new();
    let script = session.directory.path().join("tree.py");
    std::fs::write(&script, TREE).unwrap();
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut keys = Vec::new();
        for number in 0..10 {
            // The second command keeps the shell from becoming python.
            let args = vec!["-c".to_owned(), format!("python3 {}; true", script.display())];
            let tree = ExtensionTransport::Stdio { command: "sh".to_owned(), args };
            let tree = config(&format!("tree{number}"), tree);
            let origin = gander_domain::extension::ExtensionOrigin::Config;
            keys.push(session.extensions.add(tree, origin, Default::default()).unwrap().key);
        }
        for status in session.extensions.wait_ready(PATIENCE).await {
            assert_eq!(status.state, ExtensionState::Ready, "{status:?}");
            let pids: Vec<u32> =
                status.instructions.unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
            assert_eq!(pids.len(), 3);
            all.extend(pids.into_iter().map(|pid| tree::lookup(pid).unwrap().id));
        }
        futures::future::join_all(keys.iter().map(|key| session.extensions.remove(key))).await;
    }
    assert_eq!(all.len(), 150);
    let gone = async {
        // A zombie of this process would be the host's fault; one of init is init's.
        let left = |id: &tree::ProcessId| {
            tree::lookup(id.pid)
                .is_some_and(|now| now.id == *id && (!now.zombie || now.parent == std::process::id()))
        };
        while all.iter().any(left) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), gone).await.expect("all gone within 2 s");
}

/// A session whose wire does `fault` to the first message that `hits`.
fn faulty(fault: Fault, hits: impl Fn(bool, Option<&str>) -> bool + Send + Sync + 'static) -> Session {
    let left = AtomicUsize::new(1);
    let injector = FaultInjector::new(move |point| {
        assert_eq!(point.key, "lab");
        let hit = hits(point.incoming, point.method)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if hit { fault } else { Fault::None }
    });
    Session::with(|options| options.faults = Some(injector))
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_wire_end_in_typed_failures() {
    let lab = || config("lab", ExtensionTransport::Builtin);
    let call = |incoming: bool, method: Option<&str>| !incoming && method == Some("tools/call");
    let session = faulty(Fault::Lose, call);
    assert_eq!(session.add(lab()).await, ExtensionState::Ready);
    let (mut lost, _reports) = request("lab__echo", "{}");
    lost.timeout = Some(Duration::from_millis(200));
    let result = session.extensions.call(lost).await;
    assert_eq!(result.outcome, ToolOutcome::TimedOut);
    assert_eq!(session.call("lab__echo", "{}").await.outcome, ToolOutcome::Ok);

    // The answers to initialize and tools/list come before that of the call.
    for (fault, outcome) in [(Fault::Repeat, ToolOutcome::Ok), (Fault::Cut, ToolOutcome::ProtocolError)] {
        let answers = Mutex::new(0);
        let third = move |incoming: bool, method: Option<&str>| {
            let mut answers = answers.lock().unwrap();
            *answers += usize::from(incoming && method.is_none());
            incoming && method.is_none() && *answers == 3
        };
        let session = faulty(fault, third);
        assert_eq!(session.add(lab()).await, ExtensionState::Ready);
        let result = session.call("lab__echo", "{}").await;
        assert_eq!(result.outcome, outcome, "{fault:?}: {result:?}");
        if fault == Fault::Cut {
            assert_eq!(result.error.unwrap().reason, ErrorReason::ExtensionUnavailable);
        }
        assert_eq!(session.call("lab__echo", "{}").await.outcome, ToolOutcome::Ok, "it is there again");
    }
}
