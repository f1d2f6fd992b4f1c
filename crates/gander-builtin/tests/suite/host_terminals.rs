//! `shell` with an editor attached: where a command runs, that it runs once, and what its result says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_builtin::{HookError, HostTerminals, ITEM_META_KEY, TerminalCommand, TerminalEnd};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::link::{BOTH, Client, Link, Outcome, Place};

/// An editor that does with commands what it is told.
#[derive(Default)]
struct Editor {
    commands: Mutex<Vec<TerminalCommand>>,
    /// Live output.
    pieces: Vec<&'static str>,
    /// `None`: it does not run commands.
    end: Option<TerminalEnd>,
    /// Never ends; told when the command is dropped.
    hangs: Option<Arc<Notify>>,
    started: Notify,
}

impl Editor {
    fn ending(end: TerminalEnd) -> Self {
        Self { end: Some(end), ..Self::default() }
    }

    fn commands(&self) -> usize {
        self.commands.lock().unwrap().len()
    }
}

struct Tell(Arc<Notify>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl HostTerminals for Editor {
    fn run(
        &self,
        command: TerminalCommand,
        output: mpsc::Sender<String>,
    ) -> BoxFuture<'_, Option<TerminalEnd>> {
        async move {
            let end = self.end.clone()?;
            self.commands.lock().unwrap().push(command);
            for piece in &self.pieces {
                output.send((*piece).to_owned()).await.unwrap();
            }
            if let Some(dropped) = &self.hangs {
                let _tell = Tell(dropped.clone());
                self.started.notify_one();
                std::future::pending::<()>().await;
            }
            Some(end)
        }
        .boxed()
    }
}

fn ended(output: &str, exit_code: Option<i32>, signal: Option<&str>) -> TerminalEnd {
    let signal = signal.map(str::to_owned);
    TerminalEnd::Ended { output: output.to_owned(), truncated: false, exit_code, signal }
}

async fn connect(link: Link, editor: &Arc<Editor>) -> (Place, Client) {
    let mut place = Place::new();
    place.context.host_terminals = Some(editor.clone());
    let client = place.connect(link).await;
    (place, client)
}

async fn start(client: &mut Client, arguments: Value) -> u64 {
    let meta = json!({ ITEM_META_KEY: "item-1", "progressToken": 7 });
    client.request("tools/call", json!({ "name": "shell", "arguments": arguments, "_meta": meta })).await
}

async fn shell(client: &mut Client, arguments: Value) -> Outcome {
    let id = start(client, arguments).await;
    client.outcome(id).await
}

#[tokio::test]
async fn a_command_that_is_shown_runs_at_the_editor_and_nowhere_else() {
    for link in BOTH {
        let output = "\u{1b}[32mone\u{1b}[0m\r\n10%\r100%\r\n";
        let editor = Editor {
            pieces: vec!["\u{1b}[32mo", "ne\u{1b}[0m\r\n"],
            ..Editor::ending(ended(output, Some(3), None))
        };
        let editor = Arc::new(editor);
        let (place, mut client) = connect(link, &editor).await;
        place.file("sub/x", "");
        let ran = shell(
            &mut client,
            json!({"command": "touch here", "working_directory": "sub", "timeout_seconds": 9}),
        )
        .await;
        assert_eq!(ran.text, "one\n100%\nexit code 3");
        assert!(ran.is_error);
        let data = json!({"exit_code": 3, "signal": null, "timed_out": false, "truncated": null, "ran_in": "editor"});
        assert_eq!(ran.data, data);
        let live: String =
            client.notifications.iter().map(|m| m["params"]["text"].as_str().unwrap()).collect();
        assert_eq!(live, "one\n");
        assert!(!place.root.join("work/sub/here").exists(), "the editor only says that it ran");
        {
            let commands = editor.commands.lock().unwrap();
            let [command] = commands.as_slice() else { panic!("{commands:?}") };
            assert_eq!(command.item_id, "item-1");
            assert_eq!(command.working_directory, place.root.join("work/sub"));
            assert_eq!(command.argv[1..], ["-c", "touch here"]);
            assert_eq!(command.timeout, Duration::from_secs(9));
            assert_eq!(command.environment["GIT_TERMINAL_PROMPT"], "0");
            assert!(!command.environment.contains_key("PATH"), "the editor has its own");
        }
        // What is not part of a call that is shown runs here.
        client.call("shell", json!({"command": "touch here"})).await.ok();
        assert!(place.root.join("work/here").exists());
        assert_eq!(editor.commands(), 1);
        // So does what may not even be asked for.
        client.call("shell", json!({"command": " "})).await.error("command is empty");
    }
}

#[tokio::test]
async fn ends_are_told_as_they_are() {
    for (end, text) in [
        (ended("", Some(0), None), "(no output)"),
        (ended("x", None, Some("SIGTERM")), "x\nended by SIGTERM"),
        (ended("x\n", None, None), "x\nended without an exit code"),
        (ended("x", Some(137), Some("SIGKILL")), "x\nexit code 137 (SIGKILL)"),
    ] {
        let editor = Arc::new(Editor::ending(end));
        let (_place, mut client) = connect(Link::Typed, &editor).await;
        assert_eq!(shell(&mut client, json!({"command": "x"})).await.text, text);
    }
    let long = "y".repeat(100_000);
    let end = TerminalEnd::Ended { output: long, truncated: true, exit_code: Some(0), signal: None };
    let editor = Arc::new(Editor::ending(end));
    let (_place, mut client) = connect(Link::Typed, &editor).await;
    let cut = shell(&mut client, json!({"command": "x"})).await.ok();
    assert!(cut.text.starts_with("[... the editor's terminal has not kept the beginning ...]\ny"));
    assert!(cut.text.len() < 40_000 && cut.text.contains("bytes left out; all "), "{}", cut.text.len());
}

#[tokio::test]
async fn what_the_editor_has_not_begun_runs_here_and_says_so() {
    for link in BOTH {
        let editor = Arc::new(Editor::ending(TerminalEnd::NotStarted(HookError::new("no room"))));
        let (place, mut client) = connect(link, &editor).await;
        let ran = shell(&mut client, json!({"command": "echo local; echo x >> ran"})).await.ok();
        assert_eq!(ran.text, "local\n");
        let note = ran.raw["content"][1]["text"].as_str().unwrap();
        assert!(note.contains("no room") && note.contains("gander's own shell"), "{note}");
        assert_eq!(crate::link::read(place.root.join("work/ran")), "x\n");
        // An editor that runs no commands, or has just gone, is not worth a word.
        let (_place, mut client) = connect(link, &Arc::new(Editor::default())).await;
        let ran = shell(&mut client, json!({"command": "echo local"})).await.ok();
        assert_eq!(ran.raw["content"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_may_have_run_is_not_run_again() {
    let lost = TerminalEnd::Lost(HookError::new("the window closed"));
    let editor = Arc::new(Editor { pieces: vec!["half\n"], ..Editor::ending(lost) });
    let (place, mut client) = connect(Link::Typed, &editor).await;
    let failed = shell(&mut client, json!({"command": "touch here"})).await.error("the window closed");
    assert!(failed.text.contains("It may have run") && failed.text.ends_with("half\n"), "{}", failed.text);
    assert!(!place.root.join("work/here").exists());
}

#[tokio::test]
async fn a_cancelled_command_is_taken_back() {
    for link in BOTH {
        let dropped = Arc::new(Notify::new());
        let editor = Editor { hangs: Some(dropped.clone()), ..Editor::ending(ended("", Some(0), None)) };
        let editor = Arc::new(editor);
        let (_place, mut client) = connect(link, &editor).await;
        let id = start(&mut client, json!({"command": "sleep 1000"})).await;
        editor.started.notified().await;
        client.cancel(id).await;
        tokio::time::timeout(Duration::from_secs(1), dropped.notified()).await.expect("within a second");
    }
}

#[tokio::test]
async fn a_sandboxed_command_stays_here() {
    let editor = Arc::new(Editor::ending(ended("", Some(0), None)));
    let mut place = Place::new();
    place.context.host_terminals = Some(editor.clone());
    place.context.sandbox = Some(gander_process::SandboxSpec::default());
    let mut client = place.connect(Link::Typed).await;
    // Whether this machine has a sandbox or not: the editor is not asked.
    shell(&mut client, json!({"command": "true"})).await;
    assert_eq!(editor.commands(), 0);
}
