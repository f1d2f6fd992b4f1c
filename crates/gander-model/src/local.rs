//! Model servers on this machine: whether one answers, and which model it offers.
//!
//! Only loopback addresses are asked, all at once and within a deadline, and only with `GET …/models`: the ports belong to
//! everybody, so an answer counts only if it is a list of models. Blocking; the caller keeps the outcome for a while.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{ModelInfo, facts, vendor::parse_models};

/// Longest answer that is read.
const MAX_ANSWER: u64 = 1024 * 1024;

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) provider_id: String,
    pub(crate) display_name: String,
    /// Full URL of the list of models.
    pub(crate) models_url: String,
    /// Models that the provider's file names, best first.
    pub(crate) preferred: Vec<String>,
}

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalServer {
    pub provider_id: String,
    pub display_name: String,
    /// `host:port`.
    pub address: String,
    pub model_id: String,
}

/// The first of the candidates, in their order, that answers within `deadline` with a model that can talk.
pub(crate) fn find(candidates: Vec<Candidate>, deadline: Duration) -> Option<LocalServer> {
    let until = Instant::now() + deadline;
    let count = candidates.len();
    let (sender, receiver) = mpsc::channel();
    for (place, candidate) in candidates.into_iter().enumerate() {
        let sender = sender.clone();
        // Ends by itself: every step has the deadline.
        std::thread::spawn(move || {
            let _ = sender.send((place, ask(&candidate, until)));
        });
    }
    drop(sender);
    let mut answers: Vec<Option<Option<LocalServer>>> = vec![None; count];
    while let Ok((place, answer)) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        answers[place] = Some(answer);
        // The first that answered wins as soon as all before it are known to be silent.
        if let Some(Some(_)) = answers.iter().find(|answer| !matches!(answer, Some(None))) {
            break;
        }
    }
    answers.into_iter().flatten().flatten().next()
}

fn ask(candidate: &Candidate, until: Instant) -> Option<LocalServer> {
    let url = reqwest::Url::parse(&candidate.models_url).ok()?;
    if url.scheme() != "http" || !crate::http_client::is_loopback(&url) {
        return None;
    }
    let address = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
    let left = || Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
    let addresses: Vec<SocketAddr> =
        address.to_socket_addrs().ok()?.filter(|address| address.ip().is_loopback()).collect();
    let mut stream =
        addresses.iter().find_map(|address| TcpStream::connect_timeout(address, left()?).ok())?;
    stream.set_write_timeout(Some(left()?)).ok()?;
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    while (answer.len() as u64) < MAX_ANSWER {
        stream.set_read_timeout(Some(left()?)).ok()?;
        match stream.read(&mut piece).ok()? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
        if let Some(models) = models(&answer) {
            return chosen(candidate, &address, &models);
        }
    }
    chosen(candidate, &address, &models(&answer)?)
}

/// The list of models of a whole answer.
fn models(answer: &[u8]) -> Option<Vec<ModelInfo>> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let body = &answer[end + 4..];
    let chunked = head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    if chunked { parse_models(&joined(body)?) } else { parse_models(body) }
}

/// The body of chunks, once the last one is there.
fn joined(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = memchr::memmem::find(body, b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        let chunk = body.get(end + 2..)?.get(..size)?;
        out.extend_from_slice(chunk);
        body = body.get(end + 2 + size + 2..)?;
    }
}

fn chosen(candidate: &Candidate, address: &str, models: &[ModelInfo]) -> Option<LocalServer> {
    let talks = |model: &&ModelInfo| {
        let name = model.model_id.to_ascii_lowercase();
        !["embed", "rerank", "whisper", "bge-", "clip"].iter().any(|word| name.contains(word))
    };
    let named = |wanted: &String| {
        models.iter().find(|m| m.model_id == *wanted || m.model_id.starts_with(&format!("{wanted}:")))
    };
    let calls_tools =
        |model: &&ModelInfo| facts::of(&model.model_id).is_some_and(|facts| facts.supports_tools);
    let model = candidate
        .preferred
        .iter()
        .find_map(named)
        .or_else(|| models.iter().filter(talks).find(calls_tools))
        .or_else(|| models.iter().find(talks))?;
    Some(LocalServer {
        provider_id: candidate.provider_id.clone(),
        display_name: candidate.display_name.clone(),
        address: address.to_owned(),
        model_id: model.model_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers every connection with these bytes; `None`: accepts and stays silent.
    fn server(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/models", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                match answer {
                    Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                    None => kept.push(stream),
                }
            }
        });
        url
    }

    fn candidate(name: &str, models_url: String) -> Candidate {
        Candidate {
            provider_id: name.to_owned(),
            display_name: name.to_owned(),
            models_url,
            preferred: vec!["qwen3".to_owned()],
        }
    }

    const LIST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 72\r\n\r\n\
        {\"data\":[{\"id\":\"nomic-embed-text\"},{\"id\":\"mine\"},{\"id\":\"qwen3:8b\"}]}     ";

    #[test]
    fn the_first_server_with_a_list_of_models_is_found() {
        let closed = "http://127.0.0.1:1/v1/models".to_owned();
        let page = server(Some("HTTP/1.1 200 OK\r\n\r\n<html>somebody's port</html>"));
        let missing = server(Some("HTTP/1.1 404 Not Found\r\n\r\n{\"data\":[{\"id\":\"x\"}]}"));
        let ollama = server(Some(LIST));
        let candidates = vec![
            candidate("closed", closed),
            candidate("page", page),
            candidate("missing", missing),
            candidate("ollama", ollama),
        ];
        let found = find(candidates, Duration::from_secs(10)).unwrap();
        assert_eq!((found.provider_id.as_str(), found.model_id.as_str()), ("ollama", "qwen3:8b"));
    }

    #[test]
    fn silence_ends_at_the_deadline_and_other_machines_are_not_asked() {
        let start = Instant::now();
        let silent = candidate("silent", server(None));
        let elsewhere = candidate("elsewhere", "http://192.0.2.1:11434/v1/models".to_owned());
        assert_eq!(find(vec![silent, elsewhere], Duration::from_millis(200)), None);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(find(Vec::new(), Duration::from_secs(1)), None);
    }

    #[test]
    fn models_that_only_embed_are_not_chosen() {
        let list = |ids: &[&str]| {
            let models: Vec<_> = ids.iter().map(|id| serde_json::json!({ "id": id })).collect();
            parse_models(serde_json::json!({ "data": models }).to_string().as_bytes()).unwrap()
        };
        let chosen = |ids: &[&str]| {
            super::chosen(&candidate("x", String::new()), "a:1", &list(ids)).map(|server| server.model_id)
        };
        assert_eq!(chosen(&["nomic-embed-text"]), None);
        assert_eq!(chosen(&["bge-m3", "mine", "gpt-oss-20b"]).as_deref(), Some("gpt-oss-20b"));
        assert_eq!(chosen(&["mine", "other"]).as_deref(), Some("mine"));
    }

    #[test]
    fn chunked_answers_are_joined() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"dat\r\nf\r\na\":[{\"id\":\"m\"}]\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(models(answer).unwrap().len(), 1);
        assert!(models(&answer[..answer.len() - 8]).is_none());
    }
}
