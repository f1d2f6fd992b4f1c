//! `memory`: what is kept, where, and what it refuses.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use serde_json::{Value, json};

use crate::link::{BOTH, Client, Link, Place, read};

const REMEMBER: &str = "remember_memory";
const RETRIEVE: &str = "retrieve_memories";
const REMOVE_CATEGORY: &str = "remove_memory_category";
const REMOVE_ONE: &str = "remove_specific_memory";

/// With a folder for global memories that nobody has made yet.
fn place() -> Place {
    let mut place = Place::new();
    place.context.global_memory_dir = Some(place.root.join("config/memory"));
    place
}

async fn remember(client: &mut Client, category: &str, data: &str, tags: Value, is_global: bool) {
    let arguments = json!({"category": category, "data": data, "tags": tags, "is_global": is_global});
    client.call(REMEMBER, arguments).await.ok();
}

fn of(category: &str, is_global: bool) -> Value {
    json!({"category": category, "is_global": is_global})
}

#[tokio::test]
async fn memories_are_kept_in_files_that_goose_reads() {
    for link in BOTH {
        let place = place();
        let mut client = place.connect_to("memory", link).await;
        remember(&mut client, "workflow", "run `make`\n\nthen test", json!(["build", "#ci"]), false).await;
        remember(&mut client, "workflow", "push on fridays", json!([]), false).await;
        remember(&mut client, "style", "tabs", json!([]), true).await;
        let local = place.root.join("work/.goose/memory");
        assert_eq!(
            read(local.join("workflow.txt")),
            "# build ci\nrun `make`\nthen test\n\npush on fridays\n\n"
        );
        let global = place.root.join("config/memory/style.txt");
        assert_eq!(read(&global), "tabs\n\n");
        assert_eq!(global.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&local).unwrap().count(), 1, "no other file is left behind");

        let found = client.call(RETRIEVE, of("workflow", false)).await.ok();
        assert_eq!(found.text, "## workflow\n- run `make`\n  then test [build, ci]\n- push on fridays\n");
        let memories = json!([
            {"category": "workflow", "tags": ["build", "ci"], "content": "run `make`\nthen test"},
            {"category": "workflow", "tags": [], "content": "push on fridays"},
        ]);
        assert_eq!(found.data, json!({"is_global": false, "memories": memories, "truncated": false}));
        let found = client.call(RETRIEVE, of("*", true)).await.ok();
        assert_eq!(found.text, "## style\n- tabs\n");
    }
}

#[tokio::test]
async fn the_same_memory_is_kept_once() {
    for link in BOTH {
        let place = place();
        let mut client = place.connect_to("memory", link).await;
        let arguments = json!({"category": "c", "data": "once\n", "is_global": false});
        assert_eq!(client.call(REMEMBER, arguments.clone()).await.ok().data["stored"], true);
        assert_eq!(client.call(REMEMBER, arguments).await.ok().data["stored"], false);
        assert_eq!(read(place.root.join("work/.goose/memory/c.txt")), "once\n\n");
    }
}

#[tokio::test]
async fn memories_are_removed_one_by_one_and_by_category() {
    for link in BOTH {
        let place = place();
        let file = place.file(".goose/memory/hosts.txt", "# a\r\nport 80\r\n\r\nport 8080\n\nport 443");
        place.file(".goose/memory/notes.md", "not ours");
        let mut client = place.connect_to("memory", link).await;
        let one = |content: &str| json!({"category": "hosts", "memory_content": content, "is_global": false});
        client.call(REMOVE_ONE, one("port")).await.error("3 memories");
        client.call(REMOVE_ONE, one("")).await.error("no memory");
        client.call(REMOVE_ONE, one("22")).await.error("no memory");
        assert_eq!(client.call(REMOVE_ONE, one("port 80")).await.ok().data["removed"], "port 80");
        assert_eq!(read(&file), "port 8080\n\nport 443\n\n");
        client.call(REMOVE_ONE, one("8080")).await.ok();
        client.call(REMOVE_ONE, one("port 443")).await.ok();
        assert!(!file.exists(), "an empty category is none");

        remember(&mut client, "a", "1", json!([]), false).await;
        remember(&mut client, "b", "2", json!([]), false).await;
        remember(&mut client, "c", "3", json!([]), true).await;
        let removed = client.call(REMOVE_CATEGORY, of("a", false)).await.ok();
        assert_eq!(removed.data, json!({"is_global": false, "removed": ["a"]}));
        let removed = client.call(REMOVE_CATEGORY, of("a", false)).await.ok();
        assert_eq!(removed.text, "There are no local memories in a; there are some in: b.");
        assert_eq!(client.call(REMOVE_CATEGORY, of("*", false)).await.ok().data["removed"], json!(["b"]));
        assert_eq!(client.call(RETRIEVE, of("*", false)).await.ok().text, "There are no local memories.");
        assert_eq!(client.call(RETRIEVE, of("*", true)).await.ok().text, "## c\n- 3\n");
        assert!(place.root.join("work/.goose/memory/notes.md").exists());
    }
}

#[tokio::test]
async fn asking_and_forgetting_make_no_folder() {
    for link in BOTH {
        let place = place();
        let mut client = place.connect_to("memory", link).await;
        for is_global in [false, true] {
            client.call(RETRIEVE, of("*", is_global)).await.ok();
            client.call(REMOVE_CATEGORY, of("x", is_global)).await.ok();
            let one = json!({"category": "x", "memory_content": "y", "is_global": is_global});
            client.call(REMOVE_ONE, one).await.error("no memory");
        }
        assert!(!place.root.join("work/.goose").exists() && !place.root.join("config").exists());
    }
}

#[tokio::test]
async fn no_category_leads_out_of_the_folder() {
    for link in BOTH {
        let place = place();
        let mut client = place.connect_to("memory", link).await;
        let long = "x".repeat(101);
        for name in ["", "..", ".hidden", "a/b", "../x", "a\\b", "c:d", "a\0b", "a\nb", " a", "a ", &long] {
            for is_global in [false, true] {
                let data = json!({"category": name, "data": "x", "is_global": is_global});
                client.call(REMEMBER, data).await.error("category");
                client.call(RETRIEVE, of(name, is_global)).await.error("category");
                client.call(REMOVE_CATEGORY, of(name, is_global)).await.error("category");
            }
        }
        let data = json!({"category": "*", "data": "x", "is_global": true});
        client.call(REMEMBER, data).await.error("one category");
        assert!(!place.root.join("config").exists());
    }
}

#[tokio::test]
async fn links_give_nothing_away() {
    for link in BOTH {
        let place = place();
        let (work, other) = (place.root.join("work"), place.root.join("other"));
        fs::create_dir_all(other.join("memory")).unwrap();
        fs::write(other.join("memory/secret.txt"), "SECRET").unwrap();
        fs::create_dir_all(work.join(".goose/memory")).unwrap();
        symlink(place.root.join("token"), work.join(".goose/memory/token.txt")).unwrap();
        symlink(other.join("memory/secret.txt"), work.join(".goose/memory/secret.txt")).unwrap();
        fs::hard_link(place.root.join("token"), work.join(".goose/memory/hard.txt")).unwrap();
        let global = place.context.global_memory_dir.clone().unwrap();
        fs::create_dir_all(&global).unwrap();
        symlink(place.root.join("token"), global.join("token.txt")).unwrap();
        let mut client = place.connect_to("memory", link).await;
        client.call(RETRIEVE, of("token", false)).await.error("belongs to the agent");
        client.call(RETRIEVE, of("hard", false)).await.error("belongs to the agent");
        client.call(RETRIEVE, of("secret", false)).await.error("outside of the session's folders");
        client.call(RETRIEVE, of("token", true)).await.error("is a link");
        client.call(REMOVE_CATEGORY, of("secret", false)).await.error("outside");
        assert!(!client.instructions().contains("SECRET"));

        fs::remove_dir_all(work.join(".goose")).unwrap();
        symlink(&other, work.join(".goose")).unwrap();
        client.call(RETRIEVE, of("*", false)).await.error("outside of the session's folders");
        let data = json!({"category": "new", "data": "x", "is_global": false});
        client.call(REMEMBER, data).await.error("outside of the session's folders");
        assert_eq!(read(other.join("memory/secret.txt")), "SECRET");
    }
}

#[tokio::test]
async fn a_session_starts_with_what_the_user_has_kept() {
    for link in BOTH {
        let place = place();
        let mut client = place.connect_to("memory", link).await;
        remember(&mut client, "style", "tabs, never spaces", json!([]), true).await;
        remember(&mut client, "project", "only here", json!([]), false).await;
        assert!(!client.instructions().contains("tabs"));
        let client = place.connect_to("memory", link).await;
        assert!(
            client.instructions().contains("## style\n- tabs, never spaces"),
            "{}",
            client.instructions()
        );
        assert!(!client.instructions().contains("only here"), "a project may be anybody's");
    }
}

#[tokio::test]
async fn long_answers_are_cut_and_say_so() {
    let place = place();
    for index in 0..20 {
        place.file(&format!(".goose/memory/c{index:02}.txt"), format!("{index} {}\n\n", "x".repeat(5000)));
    }
    place.file(".goose/memory/broken.txt", [0xff, 0xfe]);
    place.file(".goose/memory/huge.txt", vec![b'x'; 1024 * 1024 + 1]);
    for link in BOTH {
        let mut client = place.connect_to("memory", link).await;
        client.call(RETRIEVE, of("broken", false)).await.error("not UTF-8");
        client.call(RETRIEVE, of("huge", false)).await.error("larger than 1048576 bytes");
        let data = json!({"category": "broken", "data": "x", "is_global": false});
        client.call(REMEMBER, data).await.error("not UTF-8");
        let data = json!({"category": "big", "data": "x".repeat(40_000), "is_global": false});
        client.call(REMEMBER, data).await.error("a memory may have 32768 bytes");
    }
    fs::remove_file(place.root.join("work/.goose/memory/broken.txt")).unwrap();
    fs::remove_file(place.root.join("work/.goose/memory/huge.txt")).unwrap();
    for link in BOTH {
        let mut client = place.connect_to("memory", link).await;
        let found = client.call(RETRIEVE, of("*", false)).await.ok();
        assert_eq!((found.data["truncated"].clone(), found.text.len() < 70_000), (json!(true), true));
        assert!(found.text.contains("[more memories are left out"));
        assert_eq!(found.data["memories"].as_array().unwrap().len(), 13);
    }
}

#[tokio::test]
async fn without_a_folder_for_global_memories_there_are_none() {
    for link in BOTH {
        let mut client = Place::new().connect_to("memory", link).await;
        client.call(RETRIEVE, of("*", true)).await.error("no folder for global memories");
        let data = json!({"category": "a", "data": " \n", "is_global": false});
        client.call(REMEMBER, data).await.error("nothing to remember");
        let data = json!({"category": "a", "data": "x"});
        client.call(REMEMBER, data).await.error("missing field `is_global`");
    }
}

#[tokio::test]
async fn writers_wait_for_each_other() {
    let place = place();
    let mut clients = Vec::new();
    for link in BOTH.into_iter().cycle().take(4) {
        clients.push(place.connect_to("memory", link).await);
    }
    let writers = clients.into_iter().enumerate().map(|(who, mut client)| async move {
        for index in 0..10 {
            remember(&mut client, "shared", &format!("{who}-{index}"), json!([]), false).await;
        }
    });
    futures::future::join_all(writers).await;
    let text = read(place.root.join("work/.goose/memory/shared.txt"));
    assert_eq!(text.split_terminator("\n\n").count(), 40, "none is lost: {text}");

    // A call that waits can be cancelled.
    let folder = File::open(place.root.join("work/.goose/memory")).unwrap();
    folder.lock().unwrap();
    let mut client = place.connect_to("memory", Link::Bytes).await;
    let id = client.start(REMEMBER, json!({"category": "shared", "data": "late", "is_global": false})).await;
    let reading = client.call(RETRIEVE, of("shared", false)).await.ok();
    assert!(!reading.text.contains("late"), "readers do not wait");
    client.cancel(id).await;
    let server = client.server.take().unwrap();
    drop(client);
    assert!(server.shutdown(crate::link::KILLED).await);
    drop(folder);
    assert!(!read(place.root.join("work/.goose/memory/shared.txt")).contains("late"));
}
