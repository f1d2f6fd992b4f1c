//! An agent that follows a script, for tests: ACP over stdin and stdout, one JSON message per line.
//!
//! `gander-scripted-agent SCRIPT.json [LOG.jsonl]`. The script maps methods to lists of answers; each time the method is
//! asked the next list of steps is played (the last one again and again). The log gets every line that came in, each
//! written before it is acted upon. Steps:
//!
//! * `{"result": …}`, `{"error": {…}}`: the answer to the request that is being played.
//! * `{"update": {…}}`: a `session/update`. `{"notify": {"method", "params"}}`: any notification.
//! * `{"request": {"method", "params"}}`: asks the client and waits for the answer, which `"$answer"` stands for later.
//! * `{"ask": {"method", "params"}}`: asks without waiting. `{"wait": true}` waits for that answer.
//! * `{"await": "session/cancel"}`: waits for a message of this method.
//! * `{"raw": "text"}`, `{"stderr": "text"}`, `{"exit": 3}`, `{"hang": true}` (reads no more).
//! * `{"echo": "env NAME"}`: says the variable's value. `{"spawn": ["sleep", "60"]}`: starts a process and leaves it.
//!
//! `"$session"` stands for the session's id, `"$param:/pointer"` for a part of the request that is being played.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "a program of its own that shows its environment and exits")]

use std::{
    collections::{HashMap, VecDeque},
    fs::OpenOptions,
    io::Write as _,
};

use serde_json::{Map, Value, json};

struct Agent {
    script: Map<String, Value>,
    log: Option<String>,
    played: HashMap<String, usize>,
    session: String,
    lines: std::io::Lines<std::io::StdinLock<'static>>,
    /// Messages that came while something else was awaited.
    queue: VecDeque<Value>,
    numbers: u64,
    answer: Value,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let script = std::fs::read_to_string(args.next().expect("a script")).expect("the script is readable");
    let script: Value = serde_json::from_str(&script).expect("the script is JSON");
    let mut agent = Agent {
        script: script.as_object().expect("an object").clone(),
        log: args.next(),
        played: HashMap::new(),
        session: "agent-session-1".to_owned(),
        lines: std::io::stdin().lines(),
        queue: VecDeque::new(),
        numbers: 0,
        answer: Value::Null,
    };
    while let Some(message) = agent.next() {
        agent.play(&message);
    }
    agent.note(&json!({ "end": true }));
}

impl Agent {
    fn note(&self, message: &Value) {
        if let Some(path) = &self.log {
            let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the log");
            writeln!(file, "{message}").expect("the log is writable");
        }
    }

    fn read(&mut self) -> Option<Value> {
        let line = self.lines.next()?.ok()?;
        let message: Value = serde_json::from_str(&line).expect("gander writes JSON");
        self.note(&message);
        Some(message)
    }

    fn next(&mut self) -> Option<Value> {
        match self.queue.pop_front() {
            Some(message) => Some(message),
            None => self.read(),
        }
    }

    fn write(&self, message: &Value) {
        let mut out = std::io::stdout().lock();
        // The client may have gone; the end of stdin says so.
        let _ = writeln!(out, "{message}").and_then(|()| out.flush());
    }

    /// The steps for a method, and a default where the script has none.
    fn steps(&mut self, method: &str) -> Vec<Value> {
        let count = self.played.entry(method.to_owned()).or_default();
        let Some(lists) = self.script.get(method).and_then(Value::as_array) else {
            return default_steps(method);
        };
        let at = (*count).min(lists.len() - 1);
        *count += 1;
        lists[at].as_array().expect("a list of steps").clone()
    }

    fn play(&mut self, message: &Value) {
        let Some(method) = message.get("method").and_then(Value::as_str).map(str::to_owned) else { return };
        if let Some(id) = message.pointer("/params/sessionId").and_then(Value::as_str) {
            id.clone_into(&mut self.session);
        }
        for step in self.steps(&method) {
            let step = self.fill(&step, message);
            if let Some(cancelled) = self.step(&step, message) {
                self.queue.push_front(cancelled);
            }
        }
    }

    /// Plays one step; gives back a message that has to be played next.
    fn step(&mut self, step: &Value, message: &Value) -> Option<Value> {
        let id = message.get("id").cloned().unwrap_or(Value::Null);
        let (kind, value) = step.as_object().expect("a step").iter().next().expect("a step has a kind");
        match kind.as_str() {
            "result" => {
                if let Some(session) = value.get("sessionId").and_then(Value::as_str) {
                    session.clone_into(&mut self.session);
                }
                self.write(&json!({ "jsonrpc": "2.0", "id": id, "result": value }));
            }
            "error" => self.write(&json!({ "jsonrpc": "2.0", "id": id, "error": value })),
            "update" => self.update(value),
            "notify" => {
                self.write(
                    &json!({ "jsonrpc": "2.0", "method": value["method"], "params": value["params"] }),
                );
            }
            "ask" => self.ask(value),
            "wait" => self.wait_for_answer(),
            "request" => {
                self.ask(value);
                self.wait_for_answer();
            }
            "await" => {
                let wanted = value.as_str().expect("a method").to_owned();
                self.wait_for(|message| message.get("method").and_then(Value::as_str) == Some(&wanted));
            }
            "raw" => println!("{}", value.as_str().expect("text")),
            "stderr" => eprintln!("{}", value.as_str().expect("text")),
            "exit" => std::process::exit(i32::try_from(value.as_i64().expect("a code")).expect("small")),
            "hang" => loop {
                std::thread::park();
            },
            "echo" => {
                let name = value.as_str().and_then(|text| text.strip_prefix("env ")).expect("env NAME");
                let text = std::env::var(name).unwrap_or_else(|_| "(unset)".to_owned());
                self.say(&text);
            }
            #[allow(clippy::zombie_processes, reason = "it is left behind on purpose")]
            "spawn" => {
                let words: Vec<&str> = value.as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let child =
                    std::process::Command::new(words[0]).args(&words[1..]).spawn().expect("it starts");
                self.say(&child.id().to_string());
            }
            other => panic!("unknown step {other}"),
        }
        None
    }

    fn update(&self, update: &Value) {
        let params = json!({ "sessionId": self.session, "update": update });
        self.write(&json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }));
    }

    fn say(&self, text: &str) {
        let content = json!({ "type": "text", "text": text });
        self.update(&json!({ "sessionUpdate": "agent_message_chunk", "content": content }));
    }

    fn ask(&mut self, value: &Value) {
        self.numbers += 1;
        let id = format!("agent-{}", self.numbers);
        self.write(
            &json!({ "jsonrpc": "2.0", "id": id, "method": value["method"], "params": value["params"] }),
        );
    }

    fn wait_for_answer(&mut self) {
        let id = json!(format!("agent-{}", self.numbers));
        let answer = self.wait_for(|message| message.get("method").is_none() && message["id"] == id);
        self.answer = answer.get("result").or_else(|| answer.get("error")).cloned().unwrap_or(Value::Null);
    }

    /// Waits for a message; requests that come meanwhile are played, but for prompts, which wait.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut kept = VecDeque::new();
        loop {
            let Some(message) = self.next() else { std::process::exit(0) };
            if wanted(&message) {
                kept.append(&mut self.queue);
                self.queue = kept;
                return message;
            }
            let method = message.get("method").and_then(Value::as_str);
            match method {
                Some(method) if method != "session/prompt" && message.get("id").is_some() => {
                    self.play(&message);
                }
                _ => kept.push_back(message),
            }
        }
    }

    /// Puts in what the placeholders stand for.
    fn fill(&self, value: &Value, message: &Value) -> Value {
        match value {
            Value::String(text) if text == "$session" => json!(self.session),
            Value::String(text) if text == "$answer" => self.answer.clone(),
            Value::String(text) => {
                if let Some(pointer) = text.strip_prefix("$param:") {
                    return message.pointer(&format!("/params{pointer}")).cloned().unwrap_or(Value::Null);
                }
                let text = text.replace("${answer}", &self.answer.to_string());
                Value::String(text.replace("${prompt}", &prompt_text(message)))
            }
            Value::Array(items) => items.iter().map(|item| self.fill(item, message)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(key, field)| (key.clone(), self.fill(field, message))).collect()
            }
            other => other.clone(),
        }
    }
}

fn prompt_text(message: &Value) -> String {
    let blocks = message.pointer("/params/prompt").and_then(Value::as_array).into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("|")
}

/// A well-behaved agent that has nothing special to say.
fn default_steps(method: &str) -> Vec<Value> {
    let answer = match method {
        "initialize" => json!({
            "protocolVersion": 1,
            "agentInfo": { "name": "scripted", "version": "1.0" },
            "agentCapabilities": {
                "loadSession": true,
                "promptCapabilities": { "image": true, "embeddedContext": true },
                "mcpCapabilities": { "http": true },
                "sessionCapabilities": { "resume": {}, "close": {}, "additionalDirectories": {} },
            },
            "authMethods": [],
        }),
        "session/new" => json!({ "sessionId": "agent-session-1" }),
        "session/prompt" => {
            let content = json!({ "type": "text", "text": "you said ${prompt}" });
            return vec![
                json!({ "update": { "sessionUpdate": "agent_message_chunk", "content": content } }),
                json!({ "result": { "stopReason": "end_turn" } }),
            ];
        }
        "session/resume" | "session/load" | "session/close" | "session/set_mode" => json!({}),
        method if method.starts_with("session/set") => json!({}),
        // Notifications have no answer.
        _ => return Vec::new(),
    };
    vec![json!({ "result": answer })]
}
