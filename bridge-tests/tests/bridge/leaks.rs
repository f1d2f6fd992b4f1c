//! A key that is in the environment, in a provider's answer and in a tool's output is found nowhere else: not in what gRPC,
//! REST or ACP tell, not in the store, not in a log at its most talkative, not in an archive for support.

use std::{
    io::{Cursor, Read as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gander_bridge_tests::{
    child::{self, ChildDaemon, Output},
    daemon::new_root,
    events, files, pb, soon,
    window::Http,
};
use gander_client::Client;
use gander_model::testing::FakeOpenAi;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

/// In the daemon's environment. No known kind of key, so that nothing but knowing it helps.
const KEY: &str = "REALKEY/9f+0123456789abcdefXYZ";
/// Stored while the daemon runs.
const LATER: &str = "LATERKEY/77-0123456789+abcdef";

/// What a key must not be found as.
fn forms() -> Vec<String> {
    let mut forms = Vec::new();
    for key in [KEY, LATER] {
        forms.push(key.to_owned());
        forms.push(key[3..20].to_owned());
        forms.push(key[9..22].replace('/', "%2F").replace('+', "%2B"));
        for before in ["", "u", "us"] {
            let encoded = STANDARD.encode(format!("{before}{key}"));
            forms.push(encoded[8..28].to_owned());
        }
    }
    forms
}

fn assert_clean(what: &str, text: &str) {
    for form in forms() {
        if let Some(at) = text.find(&form) {
            let near: String = text[..at].chars().rev().take(200).collect::<String>().chars().rev().collect();
            panic!("{form} is in {what}, after: {near}");
        }
    }
}

/// What the tools of a session are told to do with the files that hold the keys.
fn commands(directory: &Path) -> Vec<String> {
    let mut commands = Vec::new();
    for (name, key) in [("first", KEY), ("second", LATER)] {
        let file = directory.join(name);
        std::fs::write(&file, format!("user:{key}\n")).expect("a file");
        std::fs::write(directory.join("url"), "https://h/?k=REALKEY%2F9f%2B0123456789abcdefXYZ&n=1\n")
            .expect("a file");
        let file = file.display();
        commands.extend([
            format!("cat {file}"),
            // In two pieces, cut inside the key.
            format!("head -c 14 {file}; sleep 0.3; tail -c +15 {file}"),
            format!("base64 -w 0 {file}; cut -c 5- {file} | base64; cut -c 4- {file} | base64"),
            // On the other stream, and as an error.
            format!("cat {file} >&2; exit 3"),
            format!("\"$(cat {file})\""),
        ]);
    }
    commands.push(format!("cat {}", directory.join("url").display()));
    commands
}

fn prompt(command: &str) -> String {
    format!("call shell {}", json!({ "command": command }))
}

async fn choose(client: &Client, provider: &str, model: &str) {
    for (key, value) in [("GOOSE_PROVIDER", provider), ("GOOSE_MODEL", model)] {
        let value_json = json!(value).to_string();
        let set = pb::SetConfigValueRequest { key: key.to_owned(), value_json, ..Default::default() };
        client.config().set_config_value(set).await.expect("set");
    }
}

/// The prompts of one session: tools that tell a key, then a provider that does.
struct Script<'a> {
    work: &'a Path,
    commands: Vec<String>,
    client: &'a Client,
}

const REFUSED: &str = "say it to a provider that refuses the key";

impl Script<'_> {
    async fn over_grpc(&self) -> (String, String) {
        choose(self.client, "demo", "scripted-1").await;
        let session = events::create(self.client, events::new_session(self.work)).await;
        let mut told = String::new();
        for command in &self.commands {
            told += &format!("{:?}\n", events::run(self.client, &session, &prompt(command)).await);
        }
        choose(self.client, "anthropic", "401").await;
        told += &format!("{:?}\n", events::run(self.client, &session, REFUSED).await);
        let log = events::log(self.client, &session).await;
        told += &format!("{log:?}\n");
        let list = pb::ListItemsRequest { session_id: session.clone(), ..Default::default() };
        told += &format!("{:?}\n", self.client.sessions().list_items(list).await.expect("items"));
        (session, told)
    }

    async fn over_rest(&self, http: &Http) -> (String, String) {
        choose(self.client, "demo", "scripted-1").await;
        let session = http.ok("/agent/start", &json!({ "working_dir": self.work })).await;
        let id = session["id"].as_str().expect("an id").to_owned();
        http.ok("/agent/resume", &json!({ "session_id": id, "load_model_and_extensions": true })).await;
        let mut told = String::new();
        let commands = self.commands.iter().map(|command| prompt(command)).chain([REFUSED.to_owned()]);
        for (number, text) in commands.enumerate() {
            if text == REFUSED {
                choose(self.client, "anthropic", "401").await;
                let update = json!({ "session_id": id, "provider": "anthropic", "model": "401" });
                told += &format!("{:?}\n", http.post("/agent/update_provider", &update).await);
            }
            let message = json!({
                "id": format!("m{number}"), "role": "user", "created": 1_772_700_000,
                "content": [{ "type": "text", "text": text }],
                "metadata": { "userVisible": true, "agentVisible": true }
            });
            told += &http.text("/reply", &json!({ "session_id": id, "user_message": message })).await;
        }
        for path in [format!("/sessions/{id}"), format!("/sessions/{id}/export"), "/config".to_owned()] {
            told += &format!("{:?}\n", http.get(&path).await);
        }
        let read = json!({ "key": "ANTHROPIC_API_KEY", "is_secret": true });
        told += &format!("{:?}\n", http.post("/config/read", &read).await);
        (id, told)
    }

    async fn over_acp(&self, root: &Path) -> (String, String) {
        choose(self.client, "demo", "scripted-1").await;
        let mut editor = Editor::open(root);
        editor.call("initialize", json!({ "protocolVersion": 1, "clientCapabilities": {} })).await;
        let answer = editor.call("session/new", json!({ "cwd": self.work, "mcpServers": [] })).await;
        let id = answer["result"]["sessionId"].as_str().expect("an id").to_owned();
        let ask = |text: &str| json!({ "sessionId": id, "prompt": [{ "type": "text", "text": text }] });
        for command in &self.commands {
            editor.call("session/prompt", ask(&prompt(command))).await;
        }
        choose(self.client, "anthropic", "401").await;
        let refused = editor.call("session/new", json!({ "cwd": self.work, "mcpServers": [] })).await;
        let other = refused["result"]["sessionId"].as_str().expect("an id").to_owned();
        let params = json!({ "sessionId": other, "prompt": [{ "type": "text", "text": REFUSED }] });
        editor.call("session/prompt", params).await;
        editor.call("session/load", json!({ "sessionId": id, "cwd": self.work, "mcpServers": [] })).await;
        let told = editor.close().await;
        (id, told)
    }
}

/// An editor that keeps every line it gets, and what its agent logs.
struct Editor {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    told: String,
    next: u64,
}

impl Editor {
    fn open(root: &Path) -> Self {
        let mut command = child::gander(root, &["acp"]);
        command.envs([("GANDER_LOG", "trace"), ("ANTHROPIC_API_KEY", KEY)]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("gander starts");
        let stdin = child.stdin.take().expect("its stdin");
        let stdout = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        let mut stderr = child.stderr.take().expect("its stderr");
        let log = root.join("acp.log");
        // Ends with the child; the file is read after that.
        tokio::spawn(async move {
            let mut file = tokio::fs::File::create(log).await.expect("a log file");
            let _ = tokio::io::copy(&mut stderr, &mut file).await;
        });
        Self { child, stdin, stdout, told: String::new(), next: 0 }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.stdin.write_all(format!("{request}\n").as_bytes()).await.expect("written");
        loop {
            let line = soon(method, self.stdout.next_line()).await.expect("a line").expect("an answer");
            self.told.push_str(&line);
            self.told.push('\n');
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message["id"] == id {
                return message;
            }
        }
    }

    async fn close(mut self) -> String {
        drop(self.stdin);
        soon("the editor's agent to end", self.child.wait()).await.expect("its end");
        self.told
    }
}

/// The texts in an archive.
fn unpacked(archive: Vec<u8>) -> String {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).expect("an archive");
    let mut all = String::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).expect("a file");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("its content");
        all += &format!("{}\n{}\n", file.name().expect("a name"), String::from_utf8_lossy(&bytes));
    }
    all
}

async fn diagnostics(client: &Client, session_id: &str) -> String {
    let request = pb::GetDiagnosticsRequest { session_id: session_id.to_owned() };
    let mut chunks = client.system().get_diagnostics(request).await.expect("an archive").into_inner();
    let mut archive = Vec::new();
    while let Some(chunk) = soon("a chunk", chunks.message()).await.expect("a chunk") {
        archive.extend(chunk.data);
    }
    unpacked(archive)
}

async fn gander(root: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = child::gander(root, arguments);
    command.envs(environment.iter().copied());
    child::finished(&mut command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_told_by_no_protocol_log_store_or_archive() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let (root, outside) = (new_root(), tempfile::tempdir().expect("a directory"));
    let url = fake.url();
    let environment = [
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_HOST", url.as_str()),
        ("GANDER_LOG", "trace"),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "1"),
        ("GOOSE_MODE", "auto"),
    ];
    let before = std::iter::once("env".to_owned())
        .chain(environment.iter().map(|(name, value)| format!("{name}={value}")))
        .map(Into::into)
        .collect::<Vec<_>>();
    let daemon = ChildDaemon::start_through(&before, root.path()).await;
    let client = daemon.unix().await;
    let later = pb::SetSecretRequest { key: "LATER_API_KEY".to_owned(), value: LATER.to_owned() };
    let stored = client.config().set_secret(later).await.expect("stored");
    assert_clean("the answer to SetSecret", &format!("{stored:?}"));

    let work = root.path().join("work");
    let script = Script { work: &work, commands: commands(outside.path()), client: &client };
    let token = std::fs::read_to_string(root.path().join("data/token")).expect("a token");
    let http = Http::new(&format!("http://{}", daemon.tcp()), token.trim());
    let sessions = [
        ("gRPC", script.over_grpc().await),
        ("REST", script.over_rest(&http).await),
        ("ACP", script.over_acp(root.path()).await),
    ];
    for (protocol, (session, told)) in &sessions {
        assert_clean(protocol, told);
        let hidden = told.matches("[redacted]").count();
        assert!(hidden > script.commands.len(), "{protocol}: the tools did tell: {hidden}\n{told}");
        assert!(told.contains("invalid x-api-key: [redacted]"), "{protocol}: the error is told: {told}");
        assert_clean("an archive", &diagnostics(&client, session).await);
        for arguments in [
            vec!["session", "show", session.as_str()],
            vec!["session", "events", session.as_str(), "--json"],
            vec!["session", "export", session.as_str()],
        ] {
            let shown = gander(root.path(), &environment, &arguments).await;
            assert_eq!(shown.code, Some(0), "{arguments:?}: {}", shown.stderr);
            assert_clean(&arguments.join(" "), &format!("{}{}", shown.stdout, shown.stderr));
        }
    }
    // Not even the model was told what the tools found; the provider got its key in the header, and only there.
    let asked = fake.requests();
    assert!(asked.iter().any(|seen| seen.header("x-api-key") == Some(KEY)));
    for seen in &asked {
        assert_clean("a request's body", &seen.body.to_string());
    }
    daemon.finish().await;

    // A record of model calls holds neither.
    let tape = outside.path().join("tape").display().to_string();
    let (cat, refused) = (prompt(&script.commands[0]), REFUSED);
    for (model, text, code) in [("demo/scripted-1", cat.as_str(), 0), ("anthropic/401", refused, 1)] {
        let ran =
            gander(root.path(), &environment, &["run", "--record", &tape, "--model", model, text]).await;
        assert_eq!(ran.code, Some(code), "{}{}", ran.stdout, ran.stderr);
        assert_clean("gander run", &format!("{}{}", ran.stdout, ran.stderr));
    }
    let recorded = files_below(Path::new(&tape));
    assert!(!recorded.is_empty(), "something was recorded");
    for path in recorded.iter().chain(&files_below(root.path())) {
        // Where it is kept.
        if path.ends_with("config/secrets.yaml") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap_or_default();
        assert_clean(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
    let log = std::fs::read_to_string(root.path().join("serve.log")).expect("a log");
    assert!(log.contains("TRACE"), "the log was at its most talkative");
    assert!(std::fs::metadata(root.path().join("acp.log")).expect("a log").len() > 0);
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    // Every text contains the empty one.
    files::containing(directory, "")
}
