//! Recipes from the command line, and schedules that a living daemon runs by itself.

use std::{path::Path, time::Duration};

use gander_bridge_tests::{
    child,
    daemon::{TestDaemon, new_root},
    events::shell,
    eventually, pb,
};
use serde_json::{Value, json};

fn write(path: &Path, document: &Value) {
    std::fs::write(path, document.to_string()).expect("a file");
}

fn saying(word: &str) -> Value {
    json!({
        "title": "Say a word", "description": "Says it",
        "prompt": shell(&format!("echo said {word}")), "parameters": [{"key": "word", "description": "what to say"}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_runs_a_recipe_with_its_values() {
    let root = new_root();
    let root = root.path();
    let file = root.join("say.json");
    write(&file, &saying("{{ word }}"));
    let path = file.to_str().expect("a path");
    let output = child::run(root, &["run", "--json", "--recipe", path, "-p", "word=hello"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("said hello"), "{output:?}");
    let missing = child::run(root, &["run", "--recipe", path]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("word") && missing.stderr.contains("-p KEY=VALUE"), "{missing:?}");
    let unknown = child::run(root, &["run", "--recipe", path, "-p", "word=x", "-p", "wrod=y"]).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("wrod"), "{unknown:?}");
    let mut checked = saying("{{ word }}");
    checked["retry"] = json!({"max_retries": 1, "checks": [{"type": "shell", "command": "test -e made"}]});
    let checked_file = root.join("checked.json");
    write(&checked_file, &checked);
    let args = ["run", "--demo", "--recipe", checked_file.to_str().expect("a path"), "-p", "word=hello"];
    let failed = child::run(root, &args).await;
    assert_eq!(failed.code, Some(1), "checks that fail for good are a failure: {failed:?}");
    assert!(failed.stderr.contains("the check `test -e made` exited with 1"), "{failed:?}");
    let absent = child::run(root, &["run", "--recipe", "nothing-like-that"]).await;
    assert_eq!(absent.code, Some(2), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_recipes_links_and_harm() {
    let root = new_root();
    let root = root.path();
    let file = root.join("say.json");
    write(&file, &saying("{{ word }}"));
    let path = file.to_str().expect("a path");
    let saved = child::run(root, &["recipe", "save", path]).await;
    assert_eq!(saved.code, Some(0), "{saved:?}");
    let shown = child::run(root, &["recipe", "show", "say-a-word"]).await;
    assert!(shown.stdout.contains("title: Say a word"), "{shown:?}");
    let listed = child::run(root, &["recipe", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["title"], "Say a word");
    let link = child::run(root, &["recipe", "link", "say-a-word", "-p", "word=linked"]).await;
    let link = link.stdout.trim().to_owned();
    assert!(link.starts_with("goose://recipe?config="), "{link}");
    let run = child::run(root, &["run", "--json", "--recipe", &link]).await;
    assert!(run.code == Some(0) && run.stdout.contains("said linked"), "{run:?}");
    let fine = child::run(root, &["recipe", "validate", path]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    write(&file, &saying("{{ word }}\u{e0041}"));
    let found = child::run(root, &["recipe", "validate", path]).await;
    assert!(found.code == Some(1) && found.stdout.contains("security: prompt"), "{found:?}");
    let refused = child::run(root, &["run", "--recipe", path, "-p", "word=x"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("--trust"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_kept_by_the_command_line() {
    let root = new_root();
    let root = root.path();
    let file = root.join("say.json");
    write(&file, &saying("{{ word }}"));
    let path = file.to_str().expect("a path");
    let set = child::run(root, &["config", "set", "GOOSE_PROVIDER", "demo"]).await;
    assert_eq!(set.code, Some(0), "{set:?}");
    let add = ["schedule", "add", "0 9 * * 1-5", path, "--id", "morning", "-p", "word=early"];
    let added = child::run(root, &add).await;
    assert!(added.code == Some(0) && added.stdout.contains("morning is due next at"), "{added:?}");
    let wrong = child::run(root, &["schedule", "add", "0 9 * *", path, "-p", "word=x"]).await;
    assert!(wrong.code == Some(1) && wrong.stderr.contains("five"), "{wrong:?}");
    // Another process reads what the first one stored.
    let run = child::run(root, &["schedule", "run", "morning"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let session = run.stdout.trim();
    let events = child::run(root, &["session", "show", session]).await;
    assert!(events.stdout.contains("said early"), "{events:?}");
    let shown = child::run(root, &["schedule", "show", "morning"]).await;
    assert!(shown.stdout.contains(session) && shown.stdout.contains("waiting"), "{shown:?}");
    let paused = child::run(root, &["schedule", "pause", "morning"]).await;
    assert_eq!(paused.stdout.trim(), "morning is paused", "{paused:?}");
    let listed = child::run(root, &["schedule", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["schedule_id"], "morning");
    let deleted = child::run(root, &["schedule", "delete", "morning"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let gone = child::run(root, &["schedule", "show", "morning"]).await;
    assert!(gone.code == Some(1) && gone.stderr.contains("morning"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_runs_what_is_due_by_itself() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let set = pb::SetConfigValueRequest {
        key: "GOOSE_PROVIDER".to_owned(),
        value_json: "\"demo\"".to_owned(),
        ..Default::default()
    };
    client.config().set_config_value(set).await.expect("a setting");
    let create = pb::CreateScheduleRequest {
        schedule_id: "tick".to_owned(),
        recipe: Some(pb::RecipeSource {
            source: Some(pb::recipe_source::Source::RecipeJson(saying("{{ word }}").to_string())),
            values: [("word".to_owned(), "tick".to_owned())].into(),
            ..Default::default()
        }),
        cron: "* * * * * *".to_owned(),
        working_directory: daemon.work().to_str().expect("a path").to_owned(),
        ..Default::default()
    };
    client.schedules().create_schedule(create).await.expect("a schedule");
    let runs = || async {
        let request = pb::ListSessionsRequest { schedule_id: "tick".to_owned(), ..Default::default() };
        client.sessions().list_sessions(request).await.expect("a list").into_inner().sessions
    };
    eventually(Duration::from_secs(20), "a first run", || async { runs().await.first().map(|_| ()) }).await;
    let update = pb::UpdateScheduleRequest {
        schedule: Some(pb::Schedule { schedule_id: "tick".to_owned(), paused: true, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["paused".to_owned()] }),
        ..Default::default()
    };
    client.schedules().update_schedule(update).await.expect("a pause");
    let get = || pb::GetScheduleRequest { schedule_id: "tick".to_owned() };
    let schedule = eventually(Duration::from_secs(20), "the end of the run", || async {
        let found = client.schedules().get_schedule(get()).await.expect("a schedule").into_inner().schedule;
        found.filter(|s| s.state() == pb::ScheduleState::Paused && s.running_session_id.is_empty())
    })
    .await;
    assert!(schedule.last_run_time.is_some() && schedule.next_run_time.is_none(), "{schedule:?}");
    let sessions = runs().await;
    for session in &sessions {
        assert_eq!(session.kind(), pb::SessionKind::Scheduled);
        assert_eq!(session.schedule_id, "tick");
        let turns = pb::ListTurnsRequest { session_id: session.session_id.clone(), ..Default::default() };
        let turns = client.turns().list_turns(turns).await.expect("turns").into_inner().turns;
        assert_eq!(turns.len(), 1, "one turn per run");
        assert_eq!(turns[0].state(), pb::TurnState::Completed, "{turns:?}");
    }
    daemon.finish().await;
}
