//! `shell`: what it runs, what it reports, and that nothing of it stays.

use std::time::Instant;

use gander_builtin::OUTPUT_NOTIFICATION;
use serde_json::{Value, json};

use crate::link::{BOTH, Client, KILLED, Place, Watched, read};

fn places() -> [Place; 2] {
    [Place::new(), Place::supervised()]
}

/// Text of all live output so far, after a check of every notification.
fn live(client: &mut Client, token: &Value) -> String {
    let mut text = String::new();
    for message in client.notifications.drain(..) {
        assert_eq!(message["method"], OUTPUT_NOTIFICATION, "{message}");
        assert_eq!(&message["params"]["progressToken"], token);
        assert!(["stdout", "stderr"].contains(&message["params"]["stream"].as_str().unwrap()));
        text += message["params"]["text"].as_str().unwrap();
    }
    text
}

/// Waits until live output has brought `count` lines, each a process number.
async fn pids(client: &mut Client, count: usize) -> Vec<Watched> {
    let mut text = String::new();
    while text.lines().count() < count || !text.ends_with('\n') {
        text += client.receive().await["params"]["text"].as_str().unwrap();
    }
    text.lines().map(|line| Watched::new(line.parse().unwrap())).collect()
}

#[tokio::test]
async fn output_and_exit_code_are_reported() {
    for link in BOTH {
        for place in places() {
            let mut client = place.connect(link).await;
            let ok = client.call("shell", json!({"command": "echo one; echo two"})).await.ok();
            assert_eq!(ok.text, "one\ntwo\n");
            let data = json!({"exit_code": 0, "signal": null, "timed_out": false, "truncated": null});
            assert_eq!(ok.data, data);
            assert_eq!(client.call("shell", json!({"command": "true"})).await.ok().text, "(no output)");

            let failed = client.call("shell", json!({"command": "echo -n oops >&2; exit 3"})).await;
            let failed = failed.error("oops\nexit code 3");
            assert_eq!(failed.data["exit_code"], 3);
            let killed = client.call("shell", json!({"command": "kill -9 $$"})).await;
            let killed = killed.error("exit code 137 (SIGKILL)");
            assert_eq!(killed.data["signal"], "SIGKILL");
            assert!(client.notifications.is_empty(), "nobody asked for live output");
        }
    }
}

#[tokio::test]
async fn arguments_and_folders_are_checked() {
    for link in BOTH {
        let place = Place::new();
        place.file("sub/x", "");
        let mut client = place.connect(link).await;
        let work = place.root.join("work").display().to_string();
        assert_eq!(client.call("shell", json!({"command": "pwd"})).await.ok().text, format!("{work}\n"));
        let sub = client.call("shell", json!({"command": "ls", "working_directory": "sub"})).await.ok();
        assert_eq!(sub.text, "x\n");
        client.call("shell", json!({"command": "ls", "working_directory": "no"})).await.error("is no folder");
        client.call("shell", json!({"command": "  "})).await.error("command is empty");
        client.call("shell", json!({"command": "a\0b"})).await.error("NUL byte");
        client
            .call("shell", json!({"cmd": "ls"}))
            .await
            .error("unknown field `cmd`, expected one of `command`");
        client.call("shell", json!({})).await.error("missing field `command`");
    }
}

#[tokio::test]
async fn a_command_sees_only_the_environment_it_was_given() {
    for link in BOTH {
        for mut place in places() {
            place.context.environment.insert("GANDER_TOOL".to_owned(), "1".to_owned());
            let mut client = place.connect(link).await;
            let env = client.call("shell", json!({"command": "env"})).await.ok();
            let mut names: Vec<&str> =
                env.text.lines().filter_map(|line| line.split_once('=')).map(|(n, _)| n).collect();
            names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name)); // the shell's own
            names.sort_unstable();
            let wanted = ["GANDER_TOOL", "GIT_PAGER", "GIT_TERMINAL_PROMPT", "HOME", "PAGER", "PATH", "TERM"];
            assert_eq!(names, wanted);
            // There is no input, and nobody to ask.
            let input = client.call("shell", json!({"command": "cat; [ -t 0 ] || echo none"})).await.ok();
            assert_eq!(input.text, "none\n");
        }
    }
}

#[tokio::test]
async fn live_output_comes_in_order_and_before_the_result() {
    for link in BOTH {
        for place in places() {
            for token in [json!("a token"), json!(7)] {
                let mut client = place.connect(link).await;
                let script = "for i in $(seq 1 2000); do echo line $i; done; echo end >&2";
                let id = client.start_live(json!({"command": script}), token.clone()).await;
                let outcome = client.outcome(id).await.ok();
                assert!(client.notifications.len() > 1);
                let text = live(&mut client, &token);
                assert_eq!(text, outcome.text, "live output is the output");
                let lines: String = (1..=2000).map(|n| format!("line {n}\n")).collect();
                assert_eq!(text.replace("end\n", ""), lines);
            }
        }
    }
}

#[tokio::test]
async fn live_output_comes_while_the_command_runs() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        // The command waits for a file that is only made once its first output was seen.
        let script = "echo first; until [ -e go ]; do sleep 0.01; done; echo second >&2";
        let id = client.start_live(json!({"command": script}), json!(1)).await;
        let message = client.receive().await;
        assert_eq!(message["params"], json!({"progressToken": 1, "stream": "stdout", "text": "first\n"}));
        place.file("go", "");
        let outcome = client.outcome(id).await.ok();
        assert_eq!(outcome.text, "first\nsecond\n");
        assert_eq!(client.notifications[0]["params"]["stream"], "stderr");
    }
}

#[tokio::test]
async fn characters_are_never_split_and_garbage_is_replaced() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        let script = r"printf '\xe2\x82'; sleep 0.05; printf '\xac'; printf 'a\xffb'; printf '\xf0\x9f'";
        let id = client.start_live(json!({"command": script}), json!(1)).await;
        let outcome = client.outcome(id).await.ok();
        assert_eq!(outcome.text, "€a\u{fffd}b\u{fffd}");
        assert_eq!(live(&mut client, &json!(1)), outcome.text);
    }
}

#[tokio::test]
async fn a_cancelled_call_takes_its_whole_tree_down() {
    for link in BOTH {
        for place in places() {
            let mut client = place.connect(link).await;
            let script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; (trap '' TERM; sleep 1000) & echo $!; echo $$; \
                          sleep 1000 & sleep 1000";
            let id = client.start_live(json!({"command": script}), json!(1)).await;
            let tree = pids(&mut client, 4).await;
            let started = Instant::now();
            client.cancel(id).await;
            for process in &tree {
                process.gone(started).await;
            }
            // The server lives on and the cancelled call has no answer.
            let next = client.call("shell", json!({"command": "echo still here"})).await.ok();
            assert_eq!(next.text, "still here\n");
            assert!(client.notifications.is_empty());
        }
    }
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_and_its_output_kept() {
    for link in BOTH {
        for place in places() {
            let mut client = place.connect(link).await;
            let started = Instant::now();
            let script = json!({"command": "echo so far; sleep 1000 & sleep 1000", "timeout_seconds": 1});
            let outcome = client.call("shell", script).await.error("so far\nkilled after 1 s");
            assert!(started.elapsed().as_secs_f64() > 0.9 && started.elapsed() < KILLED + KILLED);
            assert_eq!(outcome.data["timed_out"], true);
            assert_eq!(outcome.data["exit_code"], Value::Null);
        }
    }
}

#[tokio::test]
async fn background_processes_end_with_the_call_and_do_not_hold_it_up() {
    for link in BOTH {
        for place in places() {
            let mut client = place.connect(link).await;
            let started = Instant::now();
            let script = "(sleep 1000; echo never) & echo $! > pid; echo done";
            let outcome = client.call("shell", json!({"command": script})).await.ok();
            assert_eq!(outcome.text, "done\n");
            assert!(started.elapsed() < KILLED, "{:?}", started.elapsed());
            let pid: u32 = read(place.root.join("work/pid")).trim().parse().unwrap();
            assert!(gander_process::tree::lookup(pid).is_none_or(|entry| entry.zombie));
        }
    }
}

#[tokio::test]
async fn long_output_is_cut_in_the_middle_and_can_be_read_in_full() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        let command = json!({"command": "seq 1 200000"});
        let outcome = client.call("shell", command).await.ok();
        let whole: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        assert!(outcome.text.len() < 34_000, "{}", outcome.text.len());
        assert!(outcome.text.starts_with("1\n2\n3\n") && outcome.text.ends_with("199999\n200000\n"));
        assert_eq!(outcome.data["truncated"]["original_bytes"], whole.len());
        let path = outcome.text.split(" bytes are in ").nth(1).unwrap().split(" ...]").next().unwrap();
        assert_eq!(read(path), whole);
        assert!(path.starts_with(place.root.join("data/tool-output").to_str().unwrap()));
        let part = client.call("read", json!({"path": path, "offset": 100_000, "limit": 1})).await.ok();
        assert!(part.text.starts_with("100000\t100000\n"), "{}", part.text);
        client.call("write", json!({"path": path, "content": ""})).await.error("outside of the session");
    }
}

#[tokio::test]
async fn a_client_that_does_not_listen_stops_no_clock() {
    for link in BOTH {
        for place in places() {
            let mut client = place.connect(link).await;
            let script = json!({"command": "echo $$ > pid; exec yes", "timeout_seconds": 1});
            let id = client.start_live(script, json!(1)).await;
            // One piece proves that it runs; then nothing is read while its time runs out.
            client.receive().await;
            let command = Watched::new(read(place.root.join("work/pid")).trim().parse().unwrap());
            command.gone(Instant::now() + KILLED).await;
            client.outcome(id).await.error("killed after 1 s");
        }
    }
}

#[tokio::test]
async fn nothing_runs_on_without_its_client_or_its_server() {
    for link in BOTH {
        for place in places() {
            for drop_server in [true, false] {
                let mut client = place.connect(link).await;
                client.start_live(json!({"command": "echo $$; sleep 1000 & echo $!; wait"}), json!(1)).await;
                let tree = pids(&mut client, 2).await;
                let started = Instant::now();
                // Whichever goes, the other is still held.
                let server = client.server.take().unwrap();
                let kept = if drop_server {
                    drop(server);
                    (Some(client), None)
                } else {
                    drop(client);
                    (None, Some(server))
                };
                for process in &tree {
                    process.gone(started).await;
                }
                if let (_, Some(server)) = kept {
                    assert!(server.shutdown(KILLED).await);
                }
            }
        }
    }
}

#[tokio::test]
async fn calls_run_side_by_side() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        // Each waits for the other: one after the other they would never end.
        let a =
            client.start("shell", json!({"command": "touch a; until [ -e b ]; do sleep 0.01; done"})).await;
        let b =
            client.start("shell", json!({"command": "until [ -e a ]; do sleep 0.01; done; touch b"})).await;
        let mut ids = [client.receive().await["id"].clone(), client.receive().await["id"].clone()];
        ids.sort_by_key(Value::as_u64);
        assert_eq!(ids, [json!(a), json!(b)]);
        assert!(place.context.spawner.processes().is_empty());
    }
}
