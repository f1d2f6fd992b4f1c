//! The agent's standard error: read all the time (a full pipe would block the agent), the end of it kept for errors.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use gander_model::Redactor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is kept.
const RING_BYTES: usize = 16 * 1024;
/// How much of it goes into an error.
const TAIL_BYTES: usize = 2 * 1024;
const TAIL_LINES: usize = 12;

/// The last bytes of standard error.
pub(crate) struct StderrRing {
    bytes: Mutex<VecDeque<u8>>,
    redactor: Redactor,
}

impl StderrRing {
    pub(crate) fn new(redactor: Redactor) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::default(), redactor })
    }

    /// Reads to the end.
    pub(crate) async fn fill(&self, mut source: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 4096];
        while let Ok(count) = source.read(&mut chunk).await {
            if count == 0 {
                return;
            }
            self.push(&chunk[..count]);
        }
    }

    fn push(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend(chunk);
        let excess = bytes.len().saturating_sub(RING_BYTES);
        bytes.drain(..excess);
    }

    /// The last lines, secrets redacted, control characters left out.
    pub(crate) fn tail(&self) -> String {
        let bytes: Vec<u8> = {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.make_contiguous().to_vec()
        };
        let text = self.redactor.apply(&String::from_utf8_lossy(&bytes));
        let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        let text = text.trim_end();
        let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES));
        let lines: Vec<&str> = text[start..].lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept_without_secrets() {
        let ring = StderrRing::new(Redactor::new(["hunter2-hunter2".to_owned()]));
        let mut said = "x".repeat(20_000);
        said.push_str("\n\u{1b}[31mkey hunter2-hunter2\r\n\nlast ü\n");
        ring.fill(said.as_bytes()).await;
        let tail = ring.tail();
        assert!(tail.ends_with("[31mkey [redacted]\nlast ü"), "{tail}");
        assert!(tail.len() < 3000);
    }
}
