//! A stdio MCP server that misbehaves on request; the tests of this crate start it as a real child process. Written
//! on plain JSON lines so that it can break the protocol.
//!
//! Arguments choose how it starts: `hang` (never answers), `die` (exits at once), `version` (an unknown protocol
//! version), `circle` (the same page for ever), `endless` (new pages for ever), `many` (100,000 tools), `vast` (a list
//! of 20 MiB), `banner` (text on stdout), `usage` (text on stdout and nothing else), `bom` (a byte order mark, and lines
//! that end as on Windows), `crash-once FILE` (exits after `initialize` unless FILE exists, and creates it).

use std::{
    io::{self, BufRead as _, Write as _},
    process::{Command, ExitCode, Stdio},
};

use serde_json::{Value, json};

fn send(message: &Value) -> io::Result<()> {
    let windows = std::env::args().nth(1).is_some_and(|mode| mode == "bom");
    let mut out = io::stdout().lock();
    write!(out, "{message}{}", if windows { "\r\n" } else { "\n" })?;
    out.flush()
}

fn result(id: &Value, result: &Value) -> io::Result<()> {
    send(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn text(id: &Value, text: &str) -> io::Result<()> {
    result(id, &json!({"content": [{"type": "text", "text": text}]}))
}

fn tools() -> Value {
    let names = [
        "echo",
        "crash",
        "grandchild",
        "flood",
        "env",
        "large",
        "batch",
        "garbled",
        "progress",
        "silent",
        "leave",
        "deaf",
        "confused",
        "notices",
        "parts",
        "deep",
        "noise",
        "odd",
        "lone",
        "ansi",
    ];
    let tool = |name: &&str| json!({"name": name, "description": *name, "inputSchema": {"type": "object"}});
    Value::Array(names.iter().map(tool).collect())
}

fn main() -> ExitCode {
    let mode: Vec<String> = std::env::args().skip(1).collect();
    match mode.first().map(String::as_str) {
        Some("hang") => {
            // Reads and never answers, until stdin ends.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            return ExitCode::SUCCESS;
        }
        Some("die") => {
            let _ = writeln!(io::stderr(), "cannot start: secret is hunter22");
            return ExitCode::from(7);
        }
        Some("usage") => {
            let _ = writeln!(io::stdout(), "usage: server [options], key hunter22");
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            return ExitCode::SUCCESS;
        }
        Some("bom") => {
            let _ = write!(io::stdout(), "\u{FEFF}");
        }
        Some("banner") => {
            let _ = writeln!(io::stdout(), "Welcome!\n{{not json}}\n[1, 2\n");
        }
        _ => {}
    }
    match serve(&mode) {
        Ok(code) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(mode: &[String]) -> io::Result<ExitCode> {
    for line in io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let id = &request["id"];
        match request["method"].as_str().unwrap_or_default() {
            "initialize" => {
                if let [flag, file] = mode
                    && flag == "crash-once"
                    && !std::path::Path::new(file).exists()
                {
                    std::fs::write(file, "")?;
                    return Ok(ExitCode::from(9));
                }
                let bad = mode.first().is_some_and(|mode| mode == "version");
                let version = if bad { "1999-01-01" } else { "2025-06-18" };
                result(
                    id,
                    &json!({"protocolVersion": version, "capabilities": {"tools": {"listChanged": true}},
                        "serverInfo": {"name": "test", "version": "1"}, "instructions": "be nice"}),
                )?;
            }
            "tools/list" => {
                let mut page = json!({"tools": tools()});
                let tool = |name: String| json!({"name": name, "inputSchema": {"type": "object"}});
                match mode.first().map(String::as_str) {
                    Some("circle") => page["nextCursor"] = json!("again"),
                    Some("endless") => {
                        let number =
                            request["params"]["cursor"].as_str().unwrap_or("0").parse().unwrap_or(0_u64);
                        page = json!({"tools": [tool(format!("t{number}"))], "nextCursor": (number + 1).to_string()});
                    }
                    Some("many") => {
                        page["tools"] = (0..100_000).map(|number| tool(format!("t{number}"))).collect();
                    }
                    Some("vast") => page["tools"][0]["description"] = json!("x".repeat(20 * 1024 * 1024)),
                    _ => {}
                }
                result(id, &page)?;
            }
            "tools/call" => {
                if let Some(code) = call(id, &request["params"])? {
                    return Ok(code);
                }
            }
            "ping" => result(id, &json!({}))?,
            _ if !id.is_null() => {
                send(
                    &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}}),
                )?;
            }
            _ => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn call(id: &Value, params: &Value) -> io::Result<Option<ExitCode>> {
    match params["name"].as_str().unwrap_or_default() {
        "echo" => text(id, &params["arguments"].to_string())?,
        "crash" => {
            writeln!(io::stderr(), "about to crash, token hunter22")?;
            return Ok(Some(ExitCode::from(3)));
        }
        // Answers and exits at once.
        "leave" => {
            text(id, "bye")?;
            return Ok(Some(ExitCode::SUCCESS));
        }
        "grandchild" => {
            let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
            text(id, &child.id().to_string())?;
        }
        "flood" => {
            let line = "x".repeat(1000);
            for _ in 0..2000 {
                writeln!(io::stderr(), "{line}")?;
            }
            text(id, "flooded")?;
        }
        "env" => {
            let names: Vec<String> =
                std::env::vars_os().map(|(name, _)| name.to_string_lossy().into()).collect();
            text(id, &names.join(","))?;
        }
        // The id last, as some servers write it.
        "large" => {
            let mut out = io::stdout().lock();
            write!(out, "{{\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"")?;
            let chunk = vec![b'x'; 1024 * 1024];
            for _ in 0..20 {
                out.write_all(&chunk)?;
            }
            writeln!(out, "\"}}]}},\"jsonrpc\":\"2.0\",\"id\":{id}}}")?;
            out.flush()?;
        }
        "batch" => send(&json!([{"jsonrpc": "2.0", "id": id, "result": {"content": []}}]))?,
        "garbled" => {
            let mut out = io::stdout().lock();
            writeln!(out, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[}}}}")?;
            out.flush()?;
        }
        "progress" => {
            let token = &params["_meta"]["progressToken"];
            for step in 0..200 {
                send(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step, "total": 200}}))?;
            }
            text(id, "done")?;
        }
        // Never answers.
        "silent" => {}
        // Reads nothing any more.
        "deaf" => {
            text(id, "deaf from now on")?;
            loop {
                std::thread::park();
            }
        }
        // Answers to nobody, then the right one with its id as a string, then once more.
        "confused" => {
            let content = |text: &str| json!({"content": [{"type": "text", "text": text}]});
            for wrong in [json!(987_654), json!("nobody"), Value::Null, json!(1.5), json!([1])] {
                send(&json!({"jsonrpc": "2.0", "id": wrong, "result": content("wrong")}))?;
            }
            send(&json!({"jsonrpc": "2.0", "id": id.to_string(), "result": content("right")}))?;
            send(&json!({"jsonrpc": "2.0", "id": id, "result": content("again")}))?;
        }
        // Many small parts, deep nesting, lines that are no messages, unusual characters.
        "parts" => {
            let parts = vec![json!({"type": "text", "text": ""}); 50_000];
            result(id, &json!({"content": parts}))?;
        }
        "deep" => {
            let (open, close) = ("[".repeat(5000), "]".repeat(5000));
            let mut out = io::stdout().lock();
            writeln!(
                out,
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[],\"structuredContent\":{open}{close}}}}}"
            )?;
            out.flush()?;
        }
        "noise" => {
            let line = "not a message ".repeat(10);
            for _ in 0..100_000 {
                writeln!(io::stdout(), "{line}")?;
            }
            text(id, "done")?;
        }
        "odd" => text(id, "a\u{2028}b\u{0}c\r\nd\u{1F600}\u{202E}e\u{FEFF}")?,
        // Half of a character, as Python writes names of files that are not UTF-8.
        "lone" => {
            let mut out = io::stdout().lock();
            let content = r#"{"content":[{"type":"text","text":"\udc80"}]}"#;
            writeln!(out, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{content}}}")?;
            out.flush()?;
        }
        "ansi" => {
            let message = "\u{1b}[2J\u{1b}]0;owned\u{7}gone";
            send(&json!({"jsonrpc": "2.0", "method": "notifications/message",
                "params": {"level": "error", "data": message}}))?;
            send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": message}}))?;
        }
        // A flood: log messages, resource updates, progress of this call and of no call.
        "notices" => {
            let token = &params["_meta"]["progressToken"];
            for step in 0..50_000 {
                send(&json!({"jsonrpc": "2.0", "method": "notifications/message",
                    "params": {"level": "info", "data": step}}))?;
                send(&json!({"jsonrpc": "2.0", "method": "notifications/resources/updated",
                    "params": {"uri": "x:y"}}))?;
                for token in [token, &json!(-1)] {
                    send(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                        "params": {"progressToken": token, "progress": step}}))?;
                }
            }
            text(id, "done")?;
        }
        _ => {
            send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "no such tool"}}))?;
        }
    }
    Ok(None)
}
