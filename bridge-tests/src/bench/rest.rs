//! The same streams and calls over Goose's REST surface, as Desktop reads them: `POST /agent/start`, `POST /reply`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    echo::{ARGUMENTS, ROLE, WARM_UP},
    processes::own_executable,
    streams::{Load, PROMPT, Sample, http_client, now},
};

const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A REST surface: the daemon's own port, or a window's `gander agent`.
#[derive(Clone)]
pub(crate) struct Rest {
    http: reqwest::Client,
    base: Arc<str>,
    secret: Arc<str>,
    working_directory: Arc<str>,
}

impl Rest {
    pub(crate) fn new(base: &str, secret: &str, working_directory: &str) -> Result<Self> {
        Ok(Self {
            http: http_client()?,
            base: base.into(),
            secret: secret.into(),
            working_directory: working_directory.into(),
        })
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}{path}", self.base))
            .header("X-Secret-Key", &*self.secret)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let reply =
            timeout(CALL_DEADLINE, self.post(path, body).send()).await.context("no answer in time")??;
        let status = reply.status();
        let text = reply.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{path} answered no JSON: {text}"))
    }

    async fn start(&self, extensions: Value) -> Result<String> {
        let body = json!({ "working_dir": &*self.working_directory, "extension_overrides": extensions });
        let session = self.call("/agent/start", &body).await?;
        Ok(session["id"].as_str().context("the answer holds no session id")?.to_owned())
    }

    /// A session without extensions.
    pub(crate) async fn session(&self) -> Result<String> {
        self.start(json!([])).await
    }

    /// One turn from its request to its end.
    pub(crate) async fn turn(&self, session: &str, load: Load) -> Result<Sample> {
        let model = json!({ "session_id": session, "provider": "openai", "model": load.model() });
        self.call("/agent/update_provider", &model).await?;
        let body = json!({
            "session_id": session,
            "user_message": {
                "id": format!("m{}", now()), "role": "user", "created": now() / 1_000_000_000,
                "content": [{ "type": "text", "text": PROMPT }],
                "metadata": { "userVisible": true, "agentVisible": true }
            }
        });
        let mut sample = Sample::begin(load.tokens);
        let reply = self.post("/reply", &body).send().await?.error_for_status()?;
        let mut chunks = reply.bytes_stream();
        let mut buffer = Vec::new();
        let mut done = false;
        while let Some(chunk) = chunks.next().await {
            buffer.extend_from_slice(&chunk?);
            done |= frames(&mut buffer, |text| sample.take(text, now()))?;
        }
        ensure!(done, "the stream broke off");
        sample.finish(load.tokens)
    }

    /// Latencies of calls of the echo tool, microseconds.
    pub(crate) async fn echo(&self, calls: usize) -> Result<Vec<f64>> {
        let command = own_executable()?.to_string_lossy().into_owned();
        let extension = json!([{ "type": "stdio", "name": "echo", "cmd": command, "args": [ROLE] }]);
        let session = self.start(extension).await?;
        let deadline = Instant::now() + CALL_DEADLINE;
        while self.tools(&session).await?.iter().all(|name| !name.ends_with("echo")) {
            ensure!(Instant::now() < deadline, "the session has no echo tool");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let arguments: Value = serde_json::from_str(ARGUMENTS)?;
        let body = json!({ "session_id": session, "name": "echo__echo", "arguments": arguments });
        let mut latencies = Vec::with_capacity(calls);
        for number in 0..WARM_UP + calls {
            let started = std::time::Instant::now();
            let answer = self.call("/agent/call_tool", &body).await?;
            if number >= WARM_UP {
                latencies.push(started.elapsed().as_secs_f64() * 1e6);
            }
            ensure!(answer["content"][0]["text"] == "hello", "the echo tool gave {answer}");
        }
        Ok(latencies)
    }

    async fn tools(&self, session: &str) -> Result<Vec<String>> {
        let url = format!("{}/agent/tools?session_id={session}", self.base);
        let sent = self.http.get(url).header("X-Secret-Key", &*self.secret).send();
        let text = timeout(CALL_DEADLINE, sent).await.context("no answer in time")??.text().await?;
        let tools: Vec<Value> = serde_json::from_str(&text)?;
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Vec<Content>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    text: Option<String>,
}

/// Takes the whole frames out of the buffer; true when the last one was among them.
fn frames(buffer: &mut Vec<u8>, mut text: impl FnMut(&str) -> Result<()>) -> Result<bool> {
    let mut done = false;
    let mut begin = 0;
    while let Some(length) = buffer[begin..].windows(2).position(|pair| pair == b"\n\n") {
        let frame = &buffer[begin..begin + length];
        begin += length + 2;
        let Some(data) = frame.strip_prefix(b"data: ") else { continue };
        let frame: Frame = serde_json::from_slice(data)?;
        match frame.kind.as_str() {
            "Message" => {
                for content in frame.message.into_iter().flat_map(|message| message.content) {
                    text(content.text.as_deref().unwrap_or_default())?;
                }
            }
            "Finish" => done = true,
            "Error" => bail!("the turn failed: {}", frame.error.unwrap_or_default()),
            _ => {}
        }
    }
    buffer.drain(..begin);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_however_it_is_cut() {
        let stream = concat!(
            "data: {\"type\":\"Ping\"}\n\n",
            "data: {\"type\":\"Message\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"t1 \"}]}}\n\n",
            "data: {\"type\":\"Message\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"t2 \"}]}}\n\n",
            "data: {\"type\":\"Finish\",\"reason\":\"stop\"}\n\n",
        );
        for cut in 0..stream.len() {
            let (mut buffer, mut said, mut done) = (Vec::new(), String::new(), false);
            for part in [&stream[..cut], &stream[cut..]] {
                buffer.extend_from_slice(part.as_bytes());
                done |= frames(&mut buffer, |text| {
                    said.push_str(text);
                    Ok(())
                })
                .unwrap();
            }
            assert_eq!((said.as_str(), done), ("t1 t2 ", true), "cut at {cut}");
        }
        let mut error = b"data: {\"type\":\"Error\",\"error\":\"no\"}\n\n".to_vec();
        assert!(frames(&mut error, |_| Ok(())).is_err());
    }
}
