//! A stdio MCP server with everything that the other test server lacks: questions to the client, resources with
//! subscriptions, prompts, completion, log levels, structured results, and the revision without a handshake.
//!
//! Arguments: `modern` (2026-07-28 only), `mute` (ignores unknown requests instead of refusing them), `fragile` (exits
//! on a request before the handshake), `deaf` (answers no ping), `describe FILE` (the tool `fixed` takes its
//! description from FILE).

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

struct Server {
    mode: Vec<String>,
    subscribed: BTreeSet<String>,
    level: String,
    asked: u64,
    pings: u64,
    fail_lists: u64,
    renamed: bool,
    opened: bool,
}

fn send(message: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{message}")?;
    out.flush()
}

fn result(id: &Value, result: &Value) -> io::Result<()> {
    send(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn error(id: &Value, code: i64, message: &str, data: &Value) -> io::Result<()> {
    send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": data}}))
}

fn text(id: &Value, text: &str) -> io::Result<()> {
    result(id, &json!({"content": [{"type": "text", "text": text}]}))
}

fn notify(method: &str, params: &Value) -> io::Result<()> {
    send(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

fn read() -> io::Result<Option<Value>> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

fn capabilities() -> Value {
    json!({"tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true},
        "prompts": {"listChanged": true}, "completions": {}, "logging": {}})
}

fn main() -> ExitCode {
    let mut server = Server {
        mode: std::env::args().skip(1).collect(),
        subscribed: BTreeSet::new(),
        level: String::new(),
        asked: 0,
        pings: 0,
        fail_lists: 0,
        renamed: false,
        opened: false,
    };
    match server.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

impl Server {
    fn is(&self, mode: &str) -> bool {
        self.mode.first().is_some_and(|first| first == mode)
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut greeted = false;
        while let Some(request) = read()? {
            let method = request["method"].as_str().unwrap_or_default();
            if self.is("fragile") && !greeted && method != "initialize" {
                return Err(io::Error::other("not greeted"));
            }
            greeted = true;
            self.answer(method, &request["id"], &request["params"])?;
        }
        Ok(())
    }

    /// Asks the client and waits; other messages are answered meanwhile.
    fn ask(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        self.asked += 1;
        let id = json!(format!("ask-{}", self.asked));
        send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        while let Some(message) = read()? {
            let method = message["method"].as_str().unwrap_or_default();
            if method.is_empty() && message["id"] == id {
                return Ok(message);
            }
            self.answer(method, &message["id"], &message["params"])?;
        }
        Err(io::Error::other("the client is gone"))
    }

    fn answer(&mut self, method: &str, id: &Value, params: &Value) -> io::Result<()> {
        match method {
            "server/discover" if self.is("modern") => result(
                id,
                &json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
                    "cacheScope": "private", "capabilities": capabilities(),
                    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "feature", "version": "2"}}}),
            ),
            "initialize" if !self.is("modern") => result(
                id,
                &json!({"protocolVersion": "2025-11-25", "capabilities": capabilities(),
                        "serverInfo": {"name": "feature", "version": "1"}, "instructions": params["capabilities"].to_string()}),
            ),
            "ping" => {
                self.pings += 1;
                if self.is("deaf") { Ok(()) } else { result(id, &json!({})) }
            }
            "tools/list" => self.tools(id),
            "tools/call" => self.call(id, params),
            "resources/list" => {
                if self.fail_lists > 0 {
                    self.fail_lists -= 1;
                    return error(id, -32603, "not now", &Value::Null);
                }
                let second = if self.renamed { "r:3" } else { "r:2" };
                result(
                    id,
                    &json!({"resources": [{"uri": "r:1", "name": "one"}, {"uri": second, "name": "two"}]}),
                )
            }
            "resources/templates/list" => result(id, &json!({"resourceTemplates": []})),
            "resources/read" => result(id, &json!({"contents": [{"uri": params["uri"], "text": "body"}]})),
            "resources/subscribe" | "resources/unsubscribe" => {
                let uri = params["uri"].as_str().unwrap_or_default().to_owned();
                if method.ends_with("unsubscribe") {
                    self.subscribed.remove(&uri);
                } else {
                    self.subscribed.insert(uri);
                }
                result(id, &json!({}))
            }
            "subscriptions/listen" => {
                for uri in params["notifications"]["resourceSubscriptions"].as_array().into_iter().flatten() {
                    self.subscribed.insert(uri.as_str().unwrap_or_default().to_owned());
                }
                Ok(())
            }
            "prompts/list" => {
                result(id, &json!({"prompts": [{"name": "p", "arguments": [{"name": "city"}]}]}))
            }
            "completion/complete" => {
                let typed = params["argument"]["value"].as_str().unwrap_or_default();
                let country = params["context"]["arguments"]["country"].as_str().unwrap_or("nowhere");
                let name =
                    params["ref"]["name"].as_str().or(params["ref"]["uri"].as_str()).unwrap_or_default();
                let values = [format!("{typed}a"), format!("{country}-{name}")];
                result(id, &json!({"completion": {"values": values, "total": 7, "hasMore": true}}))
            }
            "logging/setLevel" => {
                self.level = params["level"].as_str().unwrap_or_default().to_owned();
                result(id, &json!({}))
            }
            _ if id.is_null() || method.is_empty() || self.is("mute") => Ok(()),
            _ => error(id, -32601, "no such method", &Value::Null),
        }
    }

    fn tools(&self, id: &Value) -> io::Result<()> {
        let described = match self.mode.as_slice() {
            [flag, file] if flag == "describe" => std::fs::read_to_string(file)?,
            _ => "fixed".to_owned(),
        };
        let names = [
            "fixed", "ask", "page", "open", "sample", "roots", "good", "bad", "state", "touch", "relist",
            "exit", "input",
        ];
        let tool = |name: &&str| {
            let description = if *name == "fixed" { described.as_str() } else { name };
            let mut tool =
                json!({"name": name, "description": description, "inputSchema": {"type": "object"}});
            if matches!(*name, "good" | "bad") {
                tool["outputSchema"] = json!({"type": "object", "properties": {"n": {"type": "integer"}},
                    "required": ["n"]});
            }
            tool
        };
        result(id, &json!({"tools": names.iter().map(tool).collect::<Vec<_>>()}))
    }

    fn call(&mut self, id: &Value, params: &Value) -> io::Result<()> {
        let form = json!({"mode": "form", "message": "who?", "requestedSchema": {"type": "object", "x-own": 1,
            "properties": {"name": {"type": "string"}, "age": {"type": "integer", "default": 7}},
            "required": ["name"]}});
        match params["name"].as_str().unwrap_or_default() {
            "fixed" => {
                let token = &params["_meta"]["progressToken"];
                notify("notifications/progress", &json!({"progressToken": token, "progress": 1}))?;
                text(id, &format!("fixed {}", params["arguments"]))
            }
            "ask" => {
                let answer = self.ask("elicitation/create", &form)?;
                text(id, &answer["result"].to_string())
            }
            "page" => {
                let page = json!({"mode": "url", "message": "open", "url": params["arguments"]["url"],
                    "elicitationId": "e1"});
                let answer = self.ask("elicitation/create", &page)?;
                let answer = if answer["error"].is_null() { &answer["result"] } else { &answer["error"] };
                text(id, &answer.to_string())
            }
            "open" if !self.opened => {
                self.opened = true;
                let page = json!({"mode": "url", "elicitationId": "e2", "url": "https://x.example/login",
                    "message": "log in"});
                error(id, -32042, "open a page first", &json!({"elicitations": [page]}))
            }
            "open" => text(id, "opened"),
            "sample" => {
                let sample = json!({"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}],
                    "systemPrompt": "be brief", "maxTokens": 50, "temperature": 0.5});
                let answer = self.ask("sampling/createMessage", &sample)?;
                let answer = if answer["error"].is_null() { &answer["result"] } else { &answer["error"] };
                text(id, &answer.to_string())
            }
            "roots" => {
                let answer = self.ask("roots/list", &json!({}))?;
                text(id, &answer["result"].to_string())
            }
            "good" => result(id, &json!({"content": [], "structuredContent": {"n": 1}})),
            "bad" => result(id, &json!({"content": [], "structuredContent": {"n": "one"}})),
            "state" => text(
                id,
                &json!({"subscribed": self.subscribed, "level": self.level, "pings": self.pings}).to_string(),
            ),
            "touch" => {
                notify("notifications/resources/updated", &json!({"uri": "r:1"}))?;
                text(id, "touched")
            }
            "relist" => {
                self.renamed = true;
                self.fail_lists = params["arguments"]["fail"].as_u64().unwrap_or(0);
                notify("notifications/resources/list_changed", &json!({}))?;
                notify("notifications/prompts/list_changed", &json!({}))?;
                notify("notifications/tools/list_changed", &json!({}))?;
                text(id, "listed")
            }
            "exit" => Err(io::Error::other("asked to")),
            // The rounds of 2026-07-28.
            "input" if params["requestState"].is_null() => result(
                id,
                &json!({"resultType": "input_required", "requestState": "s-1",
                    "inputRequests": {"q": {"method": "elicitation/create", "params": form}}}),
            ),
            "input" => text(id, &format!("{} {}", params["requestState"], params["inputResponses"]["q"])),
            _ => error(id, -32602, "no such tool", &Value::Null),
        }
    }
}
