//! `read`, `write` and `edit` with an editor attached: its unsaved text is what counts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_builtin::{HookError, HostFiles};
use serde_json::json;
use tokio::sync::Notify;

use crate::link::{BOTH, Client, Link, Place, read};

/// An editor with buffers by path.
#[derive(Default)]
struct Editor {
    reads: bool,
    writes: bool,
    buffers: Mutex<BTreeMap<PathBuf, String>>,
    /// Paths that it was asked for, in order.
    asked: Mutex<Vec<PathBuf>>,
    fails: Option<&'static str>,
    /// Never answers; says when it was asked.
    hangs: Option<Notify>,
    /// Told when a question is dropped.
    dropped: Arc<Notify>,
}

struct Tell(Arc<Notify>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Editor {
    fn able() -> Self {
        Self { reads: true, writes: true, ..Self::default() }
    }

    fn holding(self, path: &Path, text: &str) -> Self {
        self.buffers.lock().unwrap().insert(path.to_owned(), text.to_owned());
        self
    }

    fn text(&self, path: &Path) -> Option<String> {
        self.buffers.lock().unwrap().get(path).cloned()
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl HostFiles for Editor {
    fn read_text<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Option<Result<String, HookError>>> {
        async move {
            if !self.reads {
                return None;
            }
            self.asked.lock().unwrap().push(path.to_owned());
            if let Some(asked) = &self.hangs {
                let _tell = Tell(self.dropped.clone());
                asked.notify_one();
                std::future::pending::<()>().await;
            }
            if let Some(why) = self.fails {
                return Some(Err(HookError::new(why)));
            }
            let disk = || std::fs::read_to_string(path).map_err(|_| HookError::new("unknown file"));
            Some(self.text(path).map_or_else(disk, Ok))
        }
        .boxed()
    }

    fn write_text<'a>(
        &'a self,
        path: &'a Path,
        text: &'a str,
    ) -> BoxFuture<'a, Option<Result<(), HookError>>> {
        async move {
            if !self.writes {
                return None;
            }
            self.asked.lock().unwrap().push(path.to_owned());
            if let Some(why) = self.fails {
                return Some(Err(HookError::new(why)));
            }
            self.buffers.lock().unwrap().insert(path.to_owned(), text.to_owned());
            Some(Ok(()))
        }
        .boxed()
    }
}

async fn connect(place: &mut Place, link: Link, editor: &Arc<Editor>) -> Client {
    place.context.host_files = Some(editor.clone());
    place.connect(link).await
}

#[tokio::test]
async fn the_editors_text_is_read_and_its_buffer_is_written() {
    for link in BOTH {
        let mut place = Place::new();
        let file = place.file("a.txt", "saved\n");
        let editor = Arc::new(Editor::able().holding(&file, "one\ntwo\n"));
        let mut client = connect(&mut place, link, &editor).await;
        let part = client.call("read", json!({"path": "a.txt", "offset": 2})).await.ok();
        assert_eq!(part.text, "     2\ttwo\n");
        let edit = json!({"path": "a.txt", "old_text": "two", "new_text": "three"});
        let edited = client.call("edit", edit).await.ok();
        assert_eq!(edited.data["diff"][0]["old_text"], "one\ntwo\n");
        assert_eq!(edited.data["diff"][0]["new_text"], "one\nthree\n");
        assert_eq!(editor.text(&file).as_deref(), Some("one\nthree\n"));
        client
            .call("edit", json!({"path": "a.txt", "old_text": "saved", "new_text": "x"}))
            .await
            .error("not");
        let replaced = client.call("write", json!({"path": "a.txt", "content": "all\n"})).await.ok();
        assert_eq!(replaced.data["diff"][0]["old_text"], "one\nthree\n");
        assert_eq!(editor.text(&file).as_deref(), Some("all\n"));
        assert_eq!(read(&file), "saved\n", "the disk is the editor's to write");

        // New files are made by the editor, in folders that exist.
        let new = place.root.join("work/new/b.txt");
        let made = client.call("write", json!({"path": "new/b.txt", "content": "b\n"})).await.ok();
        assert!(made.text.starts_with("created"), "{}", made.text);
        assert_eq!(editor.text(&new).as_deref(), Some("b\n"));
        assert!(new.parent().unwrap().is_dir() && !new.exists());
        assert_eq!(client.call("read", json!({"path": "new/b.txt"})).await.ok().text, "     1\tb\n");
        client.call("read", json!({"path": "none.txt"})).await.error("no such file");
    }
}

#[tokio::test]
async fn an_editor_that_fails_is_said_and_the_disk_stays_as_it_was() {
    for link in BOTH {
        let mut place = Place::new();
        let file = place.file("a.txt", "saved\n");
        let editor = Arc::new(Editor { fails: Some("the window is closing"), ..Editor::able() });
        let mut client = connect(&mut place, link, &editor).await;
        for (tool, arguments) in [
            ("read", json!({"path": "a.txt"})),
            ("edit", json!({"path": "a.txt", "old_text": "saved", "new_text": "x"})),
            ("write", json!({"path": "a.txt", "content": "x"})),
        ] {
            client.call(tool, arguments).await.error("the window is closing");
        }
        assert_eq!(read(&file), "saved\n");
    }
}

#[tokio::test]
async fn half_an_editor_loses_no_unsaved_text() {
    let edit = || json!({"path": "a.txt", "old_text": "d", "new_text": "D", "replace_all": true});
    let write = || json!({"path": "a.txt", "content": "new\n"});
    let mut place = Place::new();
    let file = place.file("a.txt", "saved\n");
    let reader = || Editor { reads: true, ..Editor::default() };

    // Who only reads: the disk is written below a saved file, never below an unsaved one.
    let editor = Arc::new(reader().holding(&file, "unsaved\n"));
    let mut client = connect(&mut place, Link::Typed, &editor).await;
    client.call("edit", edit()).await.error("has unsaved changes in the attached editor");
    client.call("write", write()).await.error("has unsaved changes in the attached editor");
    assert_eq!(read(&file), "saved\n");
    let mut client = connect(&mut place, Link::Typed, &Arc::new(reader())).await;
    client.call("edit", edit()).await.ok();
    assert_eq!(read(&file), "saveD\n");

    // Who only writes: an edit of what is on the disk does not replace what the editor may hold.
    let editor = Arc::new(Editor { writes: true, ..Editor::default() }.holding(&file, "unsaved\n"));
    let mut client = connect(&mut place, Link::Typed, &editor).await;
    let edit = json!({"path": "a.txt", "old_text": "saveD", "new_text": "again"});
    client.call("edit", edit).await.ok();
    assert_eq!((read(&file), editor.asked()), ("again\n".to_owned(), 0));
    client.call("write", write()).await.ok();
    assert_eq!(editor.text(&file).as_deref(), Some("new\n"), "all of it was to be replaced");
    assert_eq!(read(&file), "again\n");

    // Nobody at all.
    let editor = Arc::new(Editor::default());
    let mut client = connect(&mut place, Link::Typed, &editor).await;
    client.call("write", write()).await.ok();
    assert_eq!((read(&file), editor.asked()), ("new\n".to_owned(), 0));
}

#[tokio::test]
async fn only_text_in_the_sessions_folders_is_the_editors() {
    let mut place = Place::new();
    place.file("binary", b"ELF\0\x01");
    place.file("dot.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    place.file("huge.log", "0123456789abcdef".repeat(1 << 20) + "\n");
    std::fs::write(place.root.join("home/notes"), "elsewhere\n").unwrap();
    let editor = Arc::new(Editor { fails: Some("asked"), ..Editor::able() });
    let mut client = connect(&mut place, Link::Typed, &editor).await;
    client.call("read", json!({"path": "binary"})).await.error("binary file");
    client.call("read", json!({"path": "dot.png"})).await.ok();
    client.call("read", json!({"path": "huge.log", "limit": 1})).await.ok();
    assert!(client.call("read", json!({"path": "~/notes"})).await.ok().text.contains("elsewhere"));
    client.call("read", json!({"path": "../data/database"})).await.error("belongs to the agent");
    client.call("write", json!({"path": "~/notes", "content": "x"})).await.error("outside of the session");
    assert_eq!(editor.asked(), 0);
}

#[tokio::test]
async fn a_cancelled_call_lets_go_of_an_editor_that_hangs() {
    let mut place = Place::new();
    place.file("a.txt", "saved\n");
    let editor = Arc::new(Editor { hangs: Some(Notify::new()), ..Editor::able() });
    let mut client = connect(&mut place, Link::Typed, &editor).await;
    let id = client.start("read", json!({"path": "a.txt"})).await;
    let patience = crate::link::SLOW;
    tokio::time::timeout(patience, editor.hangs.as_ref().unwrap().notified()).await.unwrap();
    client.cancel(id).await;
    tokio::time::timeout(patience, editor.dropped.notified()).await.unwrap();
}
