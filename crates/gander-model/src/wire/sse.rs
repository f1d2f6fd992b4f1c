//! Splits a byte stream into server-sent events.
//!
//! Invariant: the frames depend on the bytes alone, not on where the network cut them. Lines may end with LF, CR or
//! CRLF. Memory is bounded: an event longer than [`MAX_EVENT_BYTES`] is an error.

/// Longest event.
pub(crate) const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// The event was longer than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventTooLong;

/// One event: its data, and whether it is called `error`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) is_error: bool,
}

/// The splitter. Feed bytes, then take frames until there is none.
#[derive(Debug, Default)]
pub(crate) struct SseDecoder {
    buffer: Vec<u8>,
    /// Where the next line begins.
    line_start: usize,
    /// How far the current line was searched for its end.
    searched: usize,
    /// The last line ended with CR: an LF that follows belongs to it.
    skip_lf: bool,
    started: bool,
    /// Data of the event being read: a range of the buffer while it is one line, else `joined`.
    data: Data,
    joined: Vec<u8>,
    is_error: bool,
    ended: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum Data {
    #[default]
    None,
    Line {
        start: usize,
        end: usize,
    },
    Joined,
}

impl SseDecoder {
    /// Takes more bytes. All frames must have been taken before.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        self.compact();
        if self.buffer.len() + bytes.len() > 2 * MAX_EVENT_BYTES || self.joined.len() > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The stream ended: what waits for its blank line is an event too, since some servers leave that line out.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    fn compact(&mut self) {
        let keep = match self.data {
            Data::Line { start, .. } => start.min(self.line_start),
            _ => self.line_start,
        };
        if keep == 0 {
            return;
        }
        self.buffer.drain(..keep);
        self.line_start -= keep;
        self.searched -= keep;
        if let Data::Line { start, end } = &mut self.data {
            *start -= keep;
            *end -= keep;
        }
    }

    /// The next complete event with data.
    pub(crate) fn next_frame(&mut self) -> Option<Frame<'_>> {
        loop {
            let Some((start, end)) = self.next_line() else {
                if self.ended && !matches!(self.data, Data::None) {
                    return Some(self.dispatch());
                }
                return None;
            };
            if start == end {
                if !matches!(self.data, Data::None) {
                    return Some(self.dispatch());
                }
                self.is_error = false;
                continue;
            }
            self.line(start, end);
        }
    }

    fn next_line(&mut self) -> Option<(usize, usize)> {
        if !self.started {
            if self.buffer.is_empty() || (self.buffer.len() < 3 && b"\xEF\xBB\xBF".starts_with(&self.buffer))
            {
                if !self.ended {
                    return None;
                }
            } else if self.buffer.starts_with(b"\xEF\xBB\xBF") {
                self.line_start = 3;
                self.searched = 3;
            }
            self.started = true;
        }
        if self.skip_lf && self.buffer.len() > self.line_start {
            if self.buffer[self.line_start] == b'\n' {
                self.line_start += 1;
                self.searched = self.line_start;
            }
            self.skip_lf = false;
        }
        let start = self.line_start;
        match memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]) {
            Some(offset) => {
                let end = self.searched + offset;
                self.skip_lf = self.buffer[end] == b'\r';
                self.line_start = end + 1;
                self.searched = end + 1;
                Some((start, end))
            }
            None if self.ended && start < self.buffer.len() => {
                let end = self.buffer.len();
                self.line_start = end;
                self.searched = end;
                Some((start, end))
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    fn line(&mut self, start: usize, end: usize) {
        let line = &self.buffer[start..end];
        if let Some(rest) = line.strip_prefix(b"data") {
            let value = match rest {
                [] => 4,
                [b':', b' ', ..] => 6,
                [b':', ..] => 5,
                // A field that only begins like it.
                _ => return,
            };
            self.add_data(start + value, end);
        } else if let Some(rest) = line.strip_prefix(b"event:") {
            self.is_error = rest.trim_ascii() == b"error";
        }
    }

    fn add_data(&mut self, start: usize, end: usize) {
        match self.data {
            Data::None => self.data = Data::Line { start, end },
            Data::Line { start: first, end: first_end } => {
                self.joined.clear();
                self.joined.extend_from_slice(&self.buffer[first..first_end]);
                self.joined.push(b'\n');
                self.joined.extend_from_slice(&self.buffer[start..end]);
                self.data = Data::Joined;
            }
            Data::Joined => {
                self.joined.push(b'\n');
                self.joined.extend_from_slice(&self.buffer[start..end]);
            }
        }
    }

    fn dispatch(&mut self) -> Frame<'_> {
        let is_error = std::mem::take(&mut self.is_error);
        let data = match std::mem::take(&mut self.data) {
            Data::Line { start, end } => &self.buffer[start..end],
            _ => &self.joined,
        };
        Frame { data, is_error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Vec<(String, bool)> {
        let mut decoder = SseDecoder::default();
        let mut out = Vec::new();
        let mut take = |decoder: &mut SseDecoder| {
            while let Some(frame) = decoder.next_frame() {
                out.push((String::from_utf8(frame.data.to_vec()).unwrap(), frame.is_error));
            }
        };
        for part in parts {
            decoder.feed(part).unwrap();
            take(&mut decoder);
        }
        decoder.end();
        take(&mut decoder);
        out
    }

    const BODY: &[u8] =
        b"\xEF\xBB\xBFdata: a\n\n: note\ndata:b\r\n\r\nevent: error\rdata: c\rdata\rdata:  d\r\r\
        event: x\n\ndatabase: no\nid: 7\ndata: \xC3\xA9\n\r\ndata: last";

    fn wanted() -> Vec<(String, bool)> {
        [("a", false), ("b", false), ("c\n\n d", true), ("é", false), ("last", false)]
            .map(|(text, is_error)| (text.to_owned(), is_error))
            .to_vec()
    }

    #[test]
    fn lines_may_end_in_three_ways_and_data_may_span_lines() {
        assert_eq!(frames(&[BODY]), wanted());
    }

    #[test]
    fn every_split_gives_the_same_frames() {
        for first in 0..=BODY.len() {
            for second in first..=BODY.len() {
                let parts = [&BODY[..first], &BODY[first..second], &BODY[second..]];
                assert_eq!(frames(&parts), wanted(), "split at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = BODY.chunks(1).collect();
        assert_eq!(frames(&bytes), wanted());
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut decoder = SseDecoder::default();
        let piece = vec![b'x'; 1024 * 1024];
        decoder.feed(b"data: ").unwrap();
        let refused = (0..64).any(|_| {
            let fed = decoder.feed(&piece);
            assert!(decoder.next_frame().is_none());
            fed.is_err()
        });
        assert!(refused);
    }
}
