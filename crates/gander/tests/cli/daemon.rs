//! Commands and a daemon: sharing, leaving, stopping, crashing.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{DEADLINE, Home, lines, read_until, signal, wait};

#[test]
fn a_daemon_is_found_shared_and_stopped() {
    let home = Home::new();
    let mut daemon = home.serve(&["--listen", "127.0.0.1:0"]);
    let socket = daemon.line("listening on unix:");
    let url = daemon.line("listening on ");
    assert!(Path::new(&socket).starts_with(home.root.path()), "{socket}");
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");

    let status = home.json(&["status", "--json"]);
    assert_eq!(status["pid"], daemon.child.id().to_string());
    let ran = home.run(&["run", "list files"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let id = home.session();

    // The same session over TCP with the token of this root, and over the named socket.
    for server in [url.as_str(), &format!("unix:{socket}")] {
        assert!(home.ok(&["--server", server, "session", "show", &id]).contains("hello.txt"), "{server}");
    }
    let wrong = home.run(&["--server", &url, "--token", "wrong", "session", "list"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("TOKEN_INVALID"), "{}", wrong.stderr);

    // Another engine on the same data is refused, and says what to do.
    let second = home.run(&["--embed", "session", "list"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("gander stop"), "{}", second.stderr);
    assert!(home.ok(&["doctor"]).contains("everything is in order"));

    let stop = home.run(&["stop", "--grace", "1s"]);
    assert_eq!(stop.code, 0, "{}", stop.stderr);
    assert_eq!(daemon.exit_code(), Some(0));
    assert!(home.ok(&["session", "show", &id]).contains("hello.txt"));
}

#[test]
fn leaving_does_not_end_a_turn_of_the_daemon() {
    let home = Home::new();
    let daemon = home.serve(&["--no-tcp"]);
    daemon.line("listening on unix:");
    let mut child = home.command(&["run", "slow 300"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "tok-1 ");
    signal(&child, "TERM");
    assert_eq!(wait(&mut child).code(), Some(130));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("the turn goes on"), "{stderr}");
    // It ends by itself, with everything it wanted to say.
    let id = home.session();
    let mut follow = home.command(&["session", "events", &id, "--follow", "--no-deltas"]);
    let follow = lines(follow.stderr(Stdio::null()).spawn().unwrap());
    loop {
        let line = follow.recv_timeout(DEADLINE).expect("the end of the turn in time");
        if line.contains("turn_ended") {
            assert!(line.contains("completed"), "{line}");
            break;
        }
    }
    drop(follow);
    assert!(home.ok(&["session", "show", &id]).contains("tok-300"));
}

#[test]
fn pulling_the_plug_loses_nothing() {
    let home = Home::new();
    let mut daemon = home.serve(&["--no-tcp"]);
    daemon.line("listening on unix:");
    let mut child = home.command(&["run", "--json", "slow 5000"]).spawn().unwrap();
    let mut seen = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    while events.len() < 20 {
        events.push(serde_json::from_str::<Value>(&seen.next().unwrap().unwrap()).unwrap());
    }
    daemon.signal("KILL");
    daemon.exit_code();
    signal(&child, "TERM");
    wait(&mut child);
    let id = events[0]["session_id"].as_str().unwrap();
    let log = home.ok(&["session", "events", id, "--json"]);
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert!(log.contains(event), "{event} was seen and is gone");
    }
    assert_eq!(log.last().unwrap()["turn_ended"]["turn"]["state"], "TURN_STATE_INTERRUPTED");
    home.ok(&["run", "--session", id, "say still here"]);
    assert!(home.ok(&["doctor"]).contains("everything is in order"));
}

#[test]
fn two_signals_end_serve_at_once() {
    let home = Home::new();
    let mut daemon = home.serve(&["--no-tcp"]);
    daemon.line("listening on unix:");
    let mut run = home.command(&["run", "call shell {\"command\":\"sleep 600\"}"]).spawn().unwrap();
    read_until(&mut run.stdout.take().unwrap(), "[demo");
    daemon.signal("TERM");
    daemon.signal("INT");
    let began = Instant::now();
    assert!(daemon.exit_code().is_some());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let _ = run.kill();
    let _ = run.wait();
}

#[test]
fn a_tool_cannot_use_the_api() {
    let home = Home::new();
    let daemon = home.serve(&["--no-tcp"]);
    daemon.line("listening on unix:");
    let gander = env!("CARGO_BIN_EXE_gander");
    let root = home.root.path().display();
    let command = format!("'{gander}' --root '{root}' session list");
    let arguments = serde_json::json!({ "command": command }).to_string();
    let ran = home.run(&["tool", "call", "shell", &arguments]);
    assert_ne!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
}
