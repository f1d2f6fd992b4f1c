//! `todo`: the plan of a session.

use std::sync::Arc;

use futures::{FutureExt as _, future, future::BoxFuture};
use gander_builtin::{HookError, MemoryState, StateStore, TODO_STATE_KEY};
use serde_json::{Value, json};

use crate::link::{BOTH, KILLED, Place};

fn list(content: &str) -> Value {
    json!({ "content": content })
}

#[tokio::test]
async fn a_list_is_kept_and_its_steps_are_told() {
    for link in BOTH {
        let mut place = Place::new();
        let state = Arc::new(MemoryState::default());
        place.context.state = state.clone();
        let mut client = place.connect_to("todo", link).await;
        assert!(!client.instructions().contains("earlier"));
        let text = "# Plan\n- [x] look\n- [~] fix (high)\n  - [ ] test\nnotes";
        let written = client.call("todo_write", list(text)).await.ok();
        assert_eq!(written.text, "Saved: 3 steps, 1 done, 1 in progress.");
        let entries = json!([
            {"content": "look", "priority": "medium", "status": "completed"},
            {"content": "fix", "priority": "high", "status": "in_progress"},
            {"content": "test", "priority": "medium", "status": "pending"},
        ]);
        assert_eq!(written.data, json!({"plan": {"entries": entries, "source_text": text}}));
        let saved = state.load(TODO_STATE_KEY).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&saved).unwrap(), list(text), "as Goose keeps it");

        // Who comes back to the session is told.
        let mut client = place.connect_to("todo", link).await;
        assert!(client.instructions().ends_with(&format!("earlier in this session:\n\n{text}")));
        let cleared = client.call("todo_write", list("")).await.ok();
        assert_eq!(cleared.text, "The list is empty now.");
        assert_eq!(cleared.data, json!({"plan": {"entries": [], "source_text": ""}}));
        assert!(!place.connect_to("todo", link).await.instructions().contains("earlier"));
    }
}

#[tokio::test]
async fn what_is_no_list_is_kept_as_notes_or_refused() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect_to("todo", link).await;
        let notes = client.call("todo_write", list("just words")).await.ok();
        assert_eq!(notes.data, json!({"plan": {"entries": [], "source_text": "just words"}}));
        assert!(notes.text.contains("There is no step in it"));
        client.call("todo_write", list(&"é".repeat(50_000))).await.ok();
        client
            .call("todo_write", list(&"é".repeat(50_001)))
            .await
            .error("50001 characters, 50000 are allowed");
        client.call("todo_write", json!({})).await.error("missing field `content`");
        client.call("todo_write", json!({"content": "x", "session": "y"})).await.error("unknown field");
        assert!(
            place.connect_to("todo", link).await.instructions().ends_with('é'),
            "the last good one stays"
        );
    }
}

/// A store that has failed, or never answers.
struct Broken {
    hangs: bool,
}

impl StateStore for Broken {
    fn load<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Option<String>, HookError>> {
        future::ready(Err(HookError::new("the disk is gone"))).boxed()
    }

    fn save<'a>(&'a self, _key: &'a str, _value: String) -> BoxFuture<'a, Result<(), HookError>> {
        if self.hangs {
            return future::pending().boxed();
        }
        future::ready(Err(HookError::new("the disk is full"))).boxed()
    }
}

#[tokio::test]
async fn what_is_not_saved_is_not_claimed() {
    for link in BOTH {
        let mut place = Place::new();
        place.context.state = Arc::new(Broken { hangs: false });
        let mut client = place.connect_to("todo", link).await;
        client.call("todo_write", list("- [ ] a")).await.error("as it was before: the disk is full");

        place.context.state = Arc::new(Broken { hangs: true });
        let mut client = place.connect_to("todo", link).await;
        client.start("todo_write", list("- [ ] a")).await;
        client.start("todo_write", list("- [ ] b")).await;
        assert!(client.server.take().unwrap().shutdown(KILLED).await, "a call in progress is no obstacle");
    }
}
