//! AWS's binary event stream: length, headers, payload, two checksums.
//!
//! Invariant: the messages depend on the bytes alone, not on where the network cut them; memory is bounded.

/// Longest message.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const PRELUDE: usize = 12;
const CRC: usize = 4;

/// The bytes are no event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadFrame(pub(super) &'static str);

/// One message: the headers that matter, and its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// `event`, `exception` or `error`.
    pub(super) kind: String,
    /// The event's or exception's name.
    pub(super) name: String,
    /// Text of an `error` message.
    pub(super) error: String,
    pub(super) payload: Vec<u8>,
}

/// Splits bytes into messages.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes of an unfinished message are left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, BadFrame> {
        if self.buffer.len() < PRELUDE {
            return Ok(None);
        }
        let total = number(&self.buffer[0..4]);
        let headers = number(&self.buffer[4..8]);
        if crc32(&self.buffer[..8]) != number(&self.buffer[8..12]) as u32 {
            return Err(BadFrame("the checksum of a head is wrong"));
        }
        if !(PRELUDE + CRC..=MAX_MESSAGE).contains(&total) || headers > total - PRELUDE - CRC {
            return Err(BadFrame("a length is impossible"));
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        let message: Vec<u8> = self.buffer.drain(..total).collect();
        let (body, crc) = message.split_at(total - CRC);
        if crc32(body) != number(crc) as u32 {
            return Err(BadFrame("the checksum of a message is wrong"));
        }
        let (head, payload) = body[PRELUDE..].split_at(headers);
        let mut out = Message { payload: payload.to_vec(), ..Message::default() };
        read_headers(head, &mut out)?;
        Ok(Some(out))
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
}

fn read_headers(mut bytes: &[u8], out: &mut Message) -> Result<(), BadFrame> {
    const SHORT: BadFrame = BadFrame("a header is cut");
    let take = |bytes: &mut &[u8], count: usize| -> Result<Vec<u8>, BadFrame> {
        let (head, rest) = bytes.split_at_checked(count).ok_or(SHORT)?;
        *bytes = rest;
        Ok(head.to_vec())
    };
    while !bytes.is_empty() {
        let name_length = usize::from(bytes[0]);
        bytes = &bytes[1..];
        let name = take(&mut bytes, name_length)?;
        let kind = take(&mut bytes, 1)?[0];
        let length = match kind {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            9 => 16,
            6 | 7 => number(&take(&mut bytes, 2)?),
            _ => return Err(BadFrame("a header has an unknown type")),
        };
        let value = take(&mut bytes, length)?;
        if kind == 7 {
            let value = String::from_utf8_lossy(&value).into_owned();
            match name.as_slice() {
                b":message-type" => out.kind = value,
                b":event-type" | b":exception-type" | b":error-code" => out.name = value,
                b":error-message" => out.error = value,
                _ => {}
            }
        }
    }
    Ok(())
}

/// CRC-32 as of zlib.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xFF;
        TABLE[index as usize] ^ (crc >> 8)
    })
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// A message with these headers, for fakes.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn write_frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(name.len() as u8);
        head.extend(name.as_bytes());
        head.push(7);
        head.extend((value.len() as u16).to_be_bytes());
        head.extend(value.as_bytes());
    }
    let total = PRELUDE + head.len() + payload.len() + CRC;
    let mut out = Vec::with_capacity(total);
    out.extend((total as u32).to_be_bytes());
    out.extend((head.len() as u32).to_be_bytes());
    out.extend(crc32(&out).to_be_bytes());
    out.extend(head);
    out.extend(payload);
    out.extend(crc32(&out).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn messages_survive_every_split_and_damage_is_seen() {
        let mut bytes = write_frame(&[(":message-type", "event"), (":event-type", "a")], b"{}");
        bytes.extend(write_frame(&[(":message-type", "exception"), (":exception-type", "b")], b""));
        for at in 0..=bytes.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in [&bytes[..at], &bytes[at..]] {
                frames.feed(part);
                while let Some(message) = frames.next().unwrap() {
                    seen.push((message.kind, message.name, message.payload));
                }
            }
            assert!(frames.is_empty());
            assert_eq!(
                seen,
                [
                    ("event".to_owned(), "a".to_owned(), b"{}".to_vec()),
                    ("exception".to_owned(), "b".to_owned(), Vec::new())
                ]
            );
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let mut frames = Frames::default();
            frames.feed(&damaged);
            let first = frames.next();
            let second = first.clone().ok().flatten().map(|_| frames.next());
            assert!(first.is_err() || second.is_some_and(|second| second.is_err()), "byte {at}");
        }
    }
}
