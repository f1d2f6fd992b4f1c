//! What a command writes: text as it comes, kept within bounds, in full only on disk.

use std::{os::unix::fs::DirBuilderExt as _, path::PathBuf};

use tokio::io::AsyncWriteExt as _;

/// Bytes of output in a result; beyond it, half from the start and half from the end.
pub(super) const MAX_KEPT: usize = 32 * 1024;
/// Bytes of output kept on disk.
const MAX_SPILLED: u64 = 64 * 1024 * 1024;

/// Decodes UTF-8 that arrives in pieces. A character is never split, what is no UTF-8 is replaced.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The start of a character whose end has not come yet; at most three bytes.
    pending: Vec<u8>,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(bad) = error.error_len() else {
                self.pending = after.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &after[bad..];
        }
    }

    /// The end: a character that has only begun will not be finished.
    pub(super) fn finish(&mut self) -> String {
        let cut = !std::mem::take(&mut self.pending).is_empty();
        if cut { char::REPLACEMENT_CHARACTER.to_string() } else { String::new() }
    }
}

/// The output of one command, both streams in the order of arrival.
#[derive(Debug)]
pub(super) struct Capture {
    folder: PathBuf,
    /// Everything, or the first half of what is kept.
    head: String,
    /// The end, once there is too much; between half and the whole of what is kept.
    tail: Option<String>,
    total: u64,
    spill: Spill,
}

#[derive(Debug)]
enum Spill {
    NotNeeded,
    Open {
        file: tokio::fs::File,
        path: PathBuf,
        written: u64,
    },
    /// It could not be made, or written.
    Failed(String),
}

/// What is left of the output.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) text: String,
    /// How much it was, if not all of it is in `text`.
    pub(super) original_bytes: Option<u64>,
}

impl Capture {
    /// Output that does not fit goes to a file in `folder`, which is made when needed.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, head: String::new(), tail: None, total: 0, spill: Spill::NotNeeded }
    }

    pub(super) async fn push(&mut self, text: &str) {
        self.total += text.len() as u64;
        match &mut self.tail {
            None if self.head.len() + text.len() <= MAX_KEPT => self.head.push_str(text),
            None => {
                self.head.push_str(text);
                let everything = self.head.clone();
                let cut = self.head.floor_char_boundary(MAX_KEPT / 2);
                self.tail = Some(self.head.split_off(cut));
                self.spill = Self::open(self.folder.clone()).await;
                self.write(&everything).await;
            }
            Some(tail) => {
                tail.push_str(text);
                self.write(text).await;
            }
        }
        if let Some(tail) = &mut self.tail
            && tail.len() > MAX_KEPT
        {
            let cut = tail.ceil_char_boundary(tail.len() - MAX_KEPT / 2);
            tail.drain(..cut);
        }
    }

    async fn open(folder: PathBuf) -> Spill {
        let made = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let file = tempfile::Builder::new().prefix("shell-").suffix(".txt").tempfile_in(&folder)?;
            file.keep().map_err(|error| error.error)
        });
        match made.await {
            Ok(Ok((file, path))) => Spill::Open { file: tokio::fs::File::from_std(file), path, written: 0 },
            Ok(Err(error)) => Spill::Failed(error.to_string()),
            Err(_) => Spill::Failed("the file could not be made".to_owned()),
        }
    }

    async fn write(&mut self, text: &str) {
        let Spill::Open { file, written, .. } = &mut self.spill else { return };
        let room = usize::try_from(MAX_SPILLED.saturating_sub(*written)).unwrap_or(usize::MAX);
        let part = &text[..text.floor_char_boundary(room)];
        match file.write_all(part.as_bytes()).await {
            Ok(()) => *written += part.len() as u64,
            Err(error) => self.spill = Spill::Failed(error.to_string()),
        }
    }

    pub(super) async fn finish(mut self) -> Captured {
        let Some(mut tail) = self.tail.take() else {
            return Captured { text: self.head, original_bytes: None };
        };
        if let Spill::Open { file, .. } = &mut self.spill
            && let Err(error) = file.flush().await
        {
            self.spill = Spill::Failed(error.to_string());
        }
        if tail.len() > MAX_KEPT / 2 {
            let cut = tail.ceil_char_boundary(tail.len() - MAX_KEPT / 2);
            tail.drain(..cut);
        }
        let left_out = self.total - (self.head.len() + tail.len()) as u64;
        let place = match &self.spill {
            Spill::Open { path, written, .. } if *written == self.total => {
                format!("all {} bytes are in {}", self.total, path.display())
            }
            Spill::Open { path, written, .. } => {
                format!("the first {written} of {} bytes are in {}", self.total, path.display())
            }
            Spill::Failed(reason) => format!("and could not be kept: {reason}"),
            Spill::NotNeeded => String::new(),
        };
        let start = if self.head.ends_with('\n') { "" } else { "\n" };
        let text = format!("{}{start}[... {left_out} bytes left out; {place} ...]\n{tail}", self.head);
        Captured { text, original_bytes: Some(self.total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_split_and_garbage_is_replaced() {
        let text = "aé€😀z";
        for cut in 0..=text.len() {
            let mut decoder = Decoder::default();
            let (a, b) = text.as_bytes().split_at(cut);
            let mut got = decoder.push(a);
            assert!(!got.contains(char::REPLACEMENT_CHARACTER), "cut at {cut}");
            got += &decoder.push(b);
            got += &decoder.finish();
            assert_eq!(got, text, "cut at {cut}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"a\xff\xfeb\xe2\x82"), "a\u{fffd}\u{fffd}b");
        assert_eq!(decoder.push(b"x"), "\u{fffd}x");
        assert_eq!(decoder.push(b"\xf0\x9f"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
        assert_eq!(decoder.finish(), "");
    }

    #[tokio::test]
    async fn output_that_fits_is_kept_as_it_is() {
        let folder = tempfile::tempdir().expect("temp dir");
        let mut capture = Capture::new(folder.path().join("none"));
        let piece = "x".repeat(MAX_KEPT / 4);
        for _ in 0..4 {
            capture.push(&piece).await;
        }
        let captured = capture.finish().await;
        assert_eq!(captured.text.len(), MAX_KEPT);
        assert_eq!(captured.original_bytes, None);
        assert!(!folder.path().join("none").exists());
    }

    #[tokio::test]
    async fn output_that_does_not_fit_keeps_both_ends_and_is_whole_on_disk() {
        let folder = tempfile::tempdir().expect("temp dir");
        let mut capture = Capture::new(folder.path().join("out"));
        let mut whole = String::new();
        for n in 0..20_000 {
            let line = format!("{n} é\n");
            capture.push(&line).await;
            whole += &line;
        }
        let captured = capture.finish().await;
        assert_eq!(captured.original_bytes, Some(whole.len() as u64));
        assert!(captured.text.len() < MAX_KEPT + 500, "{}", captured.text.len());
        assert!(captured.text.starts_with("0 é\n1 é\n") && captured.text.ends_with("19999 é\n"));
        let file = std::fs::read_dir(folder.path().join("out"))
            .expect("folder")
            .next()
            .expect("a file")
            .expect("entry");
        assert!(captured.text.contains(&format!(
            "all {} bytes are in {}",
            whole.len(),
            file.path().display()
        )));
        assert_eq!(std::fs::read_to_string(file.path()).expect("spilled"), whole);
    }

    #[tokio::test]
    async fn a_disk_that_refuses_costs_only_the_middle() {
        let folder = tempfile::tempdir().expect("temp dir");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("file");
        let mut capture = Capture::new(file.join("below-a-file"));
        for _ in 0..100 {
            capture.push(&"y".repeat(1000)).await;
        }
        let captured = capture.finish().await;
        assert_eq!(captured.original_bytes, Some(100_000));
        assert!(captured.text.contains("could not be kept"), "{}", captured.text);
    }
}
