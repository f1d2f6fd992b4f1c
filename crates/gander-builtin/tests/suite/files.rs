//! `read`, `write`, `edit`, `list`, `search`.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::link::{BOTH, Place, read};

#[tokio::test]
async fn read_numbers_lines_and_pages_through_a_file() {
    for link in BOTH {
        let place = Place::new();
        let many: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
        place.file("many", &many);
        place.file("windows", "a\r\nb\r\n");
        place.file("no-end", "a\nb");
        place.file("empty", "");
        let mut client = place.connect(link).await;

        let first = client.call("read", json!({"path": "many"})).await.ok();
        assert!(first.text.starts_with("     1\tline 1\n     2\tline 2\n"), "{}", first.text);
        assert!(first.text.ends_with("  2000\tline 2000\n[lines 1 to 2000; go on with offset 2001]\n"));
        assert_eq!(first.data["total_lines"], Value::Null);
        let part = client.call("read", json!({"path": "many", "offset": 4999, "limit": 10})).await.ok();
        assert_eq!(part.text, "  4999\tline 4999\n  5000\tline 5000\n");
        assert_eq!(part.data["total_lines"], 5000);
        let exact = client.call("read", json!({"path": "many", "offset": 4999, "limit": 2})).await.ok();
        assert_eq!(exact.data["truncated"], false);
        client.call("read", json!({"path": "many", "offset": 6000})).await.error("has only 5000 lines");

        assert_eq!(client.call("read", json!({"path": "windows"})).await.ok().text, "     1\ta\n     2\tb\n");
        assert_eq!(client.call("read", json!({"path": "no-end"})).await.ok().text, "     1\ta\n     2\tb\n");
        assert_eq!(client.call("read", json!({"path": "empty"})).await.ok().text, "(the file is empty)\n");
    }
}

#[tokio::test]
async fn read_is_bounded_and_says_what_it_cannot_read() {
    for link in BOTH {
        let place = Place::new();
        place.file("wide", format!("{}\nshort\n", "x".repeat(1_000_000)));
        place.file("huge", ("z".repeat(99) + "\n").repeat(100_000));
        place.file("binary", b"ELF\0\x01\x02");
        place.file("latin", b"caf\xe9\n");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.root.join("work/fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let mut client = place.connect(link).await;

        let wide = client.call("read", json!({"path": "wide"})).await.ok();
        assert!(wide.text.len() < 5000 && wide.text.contains("rest of the line left out"));
        assert!(wide.text.ends_with("     2\tshort\n") && wide.data["truncated"] == true);
        let huge = client.call("read", json!({"path": "huge", "limit": 1_000_000})).await.ok();
        assert!(huge.text.len() < 70_000 && huge.text.contains("go on with offset"), "{}", huge.text.len());
        assert_eq!(client.call("read", json!({"path": "latin"})).await.ok().text, "     1\tcaf\u{fffd}\n");

        client.call("read", json!({"path": "binary"})).await.error("binary file of 6 bytes");
        client.call("read", json!({"path": "."})).await.error("use the tool `list`");
        client.call("read", json!({"path": "none"})).await.error("no such file");
        client.call("read", json!({"path": "fifo"})).await.error("neither a file nor a folder");
        client.call("read", json!({"path": ""})).await.error("path is empty");
    }
}

#[tokio::test]
async fn read_returns_images_as_images() {
    for link in BOTH {
        let place = Place::new();
        place.file("dot", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
        place.file("huge.gif", [b"GIF89a".as_slice(), &vec![0; 6 * 1024 * 1024]].concat());
        let mut client = place.connect(link).await;
        let image = client.call("read", json!({"path": "dot"})).await.ok();
        assert_eq!(image.raw["content"][1]["type"], "image");
        assert_eq!(image.raw["content"][1]["mimeType"], "image/png");
        assert_eq!(image.raw["content"][1]["data"], "iVBORw0KGgoAAAANSUhEUg==");
        client.call("read", json!({"path": "huge.gif"})).await.error("only images up to");
    }
}

#[tokio::test]
async fn write_creates_and_replaces_and_shows_the_change() {
    for link in BOTH {
        let place = Place::new();
        let script = place.file("script", "old\n");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o750)).unwrap();
        symlink(&script, place.root.join("work/link")).unwrap();
        let mut client = place.connect(link).await;

        let made = client.call("write", json!({"path": "a/b/c.txt", "content": "x\r\ny"})).await.ok();
        let path = place.root.join("work/a/b/c.txt");
        assert_eq!(read(&path), "x\r\ny");
        assert_eq!(made.text, format!("created {} (2 lines)\n", path.display()));
        let diff = json!({"diff": [{"path": path, "old_text": null, "new_text": "x\r\ny"}]});
        assert_eq!(made.data, diff);

        let changed = client.call("write", json!({"path": "link", "content": "new\n"})).await.ok();
        assert!(
            changed.text.contains("(+1 -1)") && changed.text.contains("-old\n+new\n"),
            "{}",
            changed.text
        );
        assert_eq!(changed.data["diff"][0]["old_text"], "old\n");
        assert_eq!(read(&script), "new\n");
        assert_eq!(script.metadata().unwrap().permissions().mode() & 0o777, 0o750);
        assert!(place.root.join("work/link").symlink_metadata().unwrap().is_symlink());

        client.call("write", json!({"path": "a", "content": ""})).await.error("is a folder");
        client.call("write", json!({"path": "script/x", "content": ""})).await.error("Not a directory");
        let left: Vec<_> =
            std::fs::read_dir(place.root.join("work")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "no temporary file is left: {left:?}");
    }
}

#[tokio::test]
async fn edit_replaces_exactly_what_was_meant() {
    for link in BOTH {
        let place = Place::new();
        let path = place.file("code.rs", "fn a() {\n    one();\n}\nfn b() {\n    one();\n}\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut client = place.connect(link).await;
        let edit = |old: &str, new: &str| json!({"path": "code.rs", "old_text": old, "new_text": new});

        let before = read(&path);
        let unclear = client.call("edit", edit("    one();", "    two();")).await;
        unclear.error("occurs 2 times in code.rs, at lines 2, 5;");
        assert_eq!(read(&path), before);

        let done = client.call("edit", edit("fn b() {\n    one();", "fn b() {\n    two();")).await.ok();
        assert_eq!(read(&path), "fn a() {\n    one();\n}\nfn b() {\n    two();\n}\n");
        assert_eq!(done.data["diff"][0]["old_text"], before);
        assert!(done.text.contains("-    one();\n+    two();\n"), "{}", done.text);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);

        let mut all = edit("fn ", "pub fn ");
        all["replace_all"] = json!(true);
        assert!(client.call("edit", all).await.ok().text.contains("2 places"));
        assert_eq!(read(&path).matches("pub fn ").count(), 2);

        client.call("edit", edit("  two();", "x")).await.ok();
        let near = client.call("edit", edit("pub fn bb() {", "x")).await;
        near.error("the nearest is line 4: \"pub fn b() {\"");
        client
            .call("edit", edit("\tone();\n}\nfn c", "x"))
            .await
            .error("line 2 matches the first line of old_text apart");
        client.call("edit", edit("zebra crossing", "x")).await.error("nothing in it is similar");
        client.call("edit", edit("", "x")).await.error("old_text is empty");
        client.call("edit", edit("x", "x")).await.error("are the same");
        client
            .call("edit", json!({"path": "no", "old_text": "a", "new_text": "b"}))
            .await
            .error("no such file");
    }
}

#[tokio::test]
async fn edit_keeps_line_ends_and_refuses_what_is_no_text() {
    for link in BOTH {
        let place = Place::new();
        let path = place.file("windows", "a\r\nb\r\nc\r\n");
        place.file("latin", b"caf\xe9\n");
        let mut client = place.connect(link).await;
        client
            .call("edit", json!({"path": "windows", "old_text": "a\nb\n", "new_text": "a\nx\ny\n"}))
            .await
            .ok();
        assert_eq!(read(&path), "a\r\nx\r\ny\r\nc\r\n");
        client.call("edit", json!({"path": "windows", "old_text": "c", "new_text": "c\nd"})).await.ok();
        assert_eq!(read(&path), "a\r\nx\r\ny\r\nc\r\nd\r\n");
        client
            .call("edit", json!({"path": "latin", "old_text": "caf", "new_text": "x"}))
            .await
            .error("not UTF-8");
    }
}

#[tokio::test]
async fn list_shows_folders_first_and_respects_gitignore() {
    for link in BOTH {
        let place = Place::new();
        place.file(".gitignore", "target/\n*.log\n");
        place.file("target/out", "x");
        place.file("a.log", "x");
        place.file("a.txt", "12345");
        place.file("b/inner/deep.txt", "x".repeat(2048));
        place.file("b/x.txt", "");
        place.file(".hidden", "");
        symlink("a.txt", place.root.join("work/z-link")).unwrap();
        let mut client = place.connect(link).await;
        let work = place.root.join("work").display().to_string();

        let flat = client.call("list", json!({})).await.ok();
        assert_eq!(flat.text, format!("{work}/\n  b/\n  a.txt  5 B\n  z-link -> a.txt\n"));
        assert_eq!(
            flat.data["entries"][1],
            json!({"path": format!("{work}/a.txt"), "type": "file", "size": 5})
        );
        let deep = client.call("list", json!({"path": "b", "depth": 3})).await.ok();
        assert_eq!(deep.text, format!("{work}/b/\n  inner/\n    deep.txt  2.0 KiB\n  x.txt  0 B\n"));
        assert!(client.call("list", json!({"hidden": true})).await.ok().text.contains(".hidden"));
        client.call("list", json!({"path": "a.txt"})).await.error("use the tool `read`");
        client.call("list", json!({"path": "none"})).await.error("none:");
    }
}

#[tokio::test]
async fn list_and_search_are_bounded() {
    for link in BOTH {
        let place = Place::new();
        for n in 0..1500 {
            place.file(&format!("many/{n:04}.txt"), "needle\n".repeat(3));
        }
        place.file("wide.txt", format!("{}needle{}", "a".repeat(50_000), "b".repeat(50_000)));
        let mut client = place.connect(link).await;
        let list = client.call("list", json!({"path": "many"})).await.ok();
        assert_eq!(list.data["entries"].as_array().unwrap().len(), 1000);
        assert!(list.data["truncated"] == true && list.text.contains("more entries are left out"));

        let found = client.call("search", json!({"pattern": "needle", "path": "many"})).await.ok();
        assert_eq!(found.data["matches"].as_array().unwrap().len(), 100);
        assert!(found.data["truncated"] == true && found.text.contains("stopped after 100 matches"));
        let found = client.call("search", json!({"pattern": "needle", "max_results": 100_000})).await.ok();
        assert_eq!(found.data["matches"].as_array().unwrap().len(), 1000);
        let wide = client.call("search", json!({"pattern": "needle", "path": "wide.txt"})).await.ok();
        assert!(wide.text.len() < 600 && wide.text.contains("aneedleb"), "{}", wide.text.len());
    }
}

#[tokio::test]
async fn search_finds_lines_by_pattern_and_glob() {
    for link in BOTH {
        let place = Place::new();
        place.file(".gitignore", "ignored\n");
        place.file("ignored", "fn alpha\n");
        place.file("src/a.rs", "fn alpha() {}\nfn Beta() {}\n");
        place.file("src/b.txt", "fn alpha\r\n");
        place.file("binary", b"fn alpha\0\n");
        let mut client = place.connect(link).await;
        let search = |arguments: Value| arguments;

        let found = client.call("search", search(json!({"pattern": r"fn \w+"}))).await.ok();
        assert_eq!(
            found.text,
            "src/a.rs:1: fn alpha() {}\nsrc/a.rs:2: fn Beta() {}\nsrc/b.txt:1: fn alpha\n"
        );
        assert_eq!(found.data["matches"][1]["line"], 2);
        assert_eq!(found.data["files"], 2);
        let found = client.call("search", json!({"pattern": "^fn", "glob": "*.txt"})).await.ok();
        assert_eq!(found.text, "src/b.txt:1: fn alpha\n");
        let found = client.call("search", json!({"pattern": "beta", "case_sensitive": false})).await.ok();
        assert_eq!(found.text, "src/a.rs:2: fn Beta() {}\n");
        let found = client.call("search", json!({"pattern": "beta"})).await.ok();
        assert_eq!(found.text, "no matches\n");
        let found = client.call("search", json!({"pattern": "alpha$", "path": "src/b.txt"})).await.ok();
        assert!(found.text.ends_with("src/b.txt:1: fn alpha\n"), "{}", found.text);
        client.call("search", json!({"pattern": "("})).await.error("pattern:");
        client.call("search", json!({"pattern": ""})).await.error("pattern is empty");
        client.call("search", json!({"pattern": "a", "glob": "{"})).await.error("glob");
    }
}

#[tokio::test]
async fn the_daemons_files_are_out_of_reach_of_every_tool() {
    for link in BOTH {
        let place = Place::new();
        symlink(place.root.join("token"), place.root.join("work/innocent")).unwrap();
        symlink(place.root.join("data"), place.root.join("work/folder")).unwrap();
        let mut client = place.connect(link).await;
        for path in ["../token", "innocent", "folder/database", "../data/database"] {
            client.call("read", json!({"path": path})).await.error("belongs to the agent");
            client.call("write", json!({"path": path, "content": "x"})).await.error("belongs to the agent");
            let edit = json!({"path": path, "old_text": "SECRET", "new_text": "x"});
            client.call("edit", edit).await.error("belongs to the agent");
            client
                .call("search", json!({"path": path, "pattern": "SEC"}))
                .await
                .error("belongs to the agent");
        }
        client.call("list", json!({"path": "folder"})).await.error("belongs to the agent");
        let shell = json!({"command": "pwd", "working_directory": "folder"});
        client.call("shell", shell).await.error("belongs to the agent");

        // Walks from above go around them.
        let found = client.call("search", json!({"path": "..", "pattern": "SECRET"})).await.ok();
        assert_eq!(found.text, "no matches\n");
        let list = client.call("list", json!({"path": "..", "depth": 3})).await.ok();
        assert!(
            !list.text.contains("database") && !list.text.contains("token\n") && !list.text.contains("data/")
        );
        client.call("read", json!({"path": "/proc/self/environ"})).await.error("belongs to the agent");
        assert_eq!(read(place.root.join("token")), "SECRET");
    }
}

#[tokio::test]
async fn writing_outside_of_the_session_is_refused_unless_allowed() {
    for link in BOTH {
        let mut place = Place::new();
        std::fs::create_dir(place.root.join("extra")).unwrap();
        std::fs::write(place.root.join("home/notes"), "mine").unwrap();
        place.context.additional_directories.push(place.root.join("extra"));
        symlink(place.root.join("home"), place.root.join("work/way-out")).unwrap();
        let mut client = place.connect(link).await;
        client.call("write", json!({"path": "../extra/a", "content": "x"})).await.ok();
        for path in ["../home/notes", "~/notes", "way-out/notes", "way-out/new"] {
            let refused = client.call("write", json!({"path": path, "content": "x"})).await;
            refused.error("outside of the session's folders");
        }
        assert!(client.call("read", json!({"path": "~/notes"})).await.ok().text.contains("mine"));
        assert_eq!(read(place.root.join("home/notes")), "mine");

        place.context.allow_outside = true;
        let mut client = place.connect(link).await;
        client.call("write", json!({"path": "~/notes", "content": "x"})).await.ok();
        assert_eq!(read(place.root.join("home/notes")), "x");
    }
}
