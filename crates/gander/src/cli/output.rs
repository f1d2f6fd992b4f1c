//! Writing to people: what is a terminal, colours, and texts that cannot harm a terminal.
//!
//! Everything that comes from a model, a tool or a file passes [`Cleaner`] before it reaches a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use gander_config::Environment;

use super::{
    args::{ColorChoice, Global},
    error::{CliError, CliResult, exit},
};

/// Width when it is not known.
const DEFAULT_WIDTH: usize = 100;
const MIN_WIDTH: usize = 40;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tint {
    Dim,
    Bold,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Tint {
    fn code(self) -> &'static str {
        match self {
            Self::Dim => "\x1b[2m",
            Self::Bold => "\x1b[1m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Cyan => "\x1b[36m",
        }
    }
}

/// `text` in a colour, line by line, so that cutting at a line end never leaves a colour open.
pub(super) fn paint(on: bool, tint: Tint, text: &str) -> String {
    if !on || text.is_empty() {
        return text.to_owned();
    }
    let mut painted = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        if !body.is_empty() {
            painted.extend([tint.code(), body, "\x1b[0m"]);
        }
        painted.push_str(end);
    }
    painted
}

/// Where the output goes.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) stdout_is_terminal: bool,
    pub(super) stderr_is_terminal: bool,
    pub(super) stdin_is_terminal: bool,
    /// Colours on stdout.
    pub(super) color: bool,
    /// Colours on stderr.
    pub(super) stderr_color: bool,
    pub(super) quiet: bool,
    pub(super) verbose: u8,
    /// Columns of the terminal.
    pub(super) width: usize,
}

impl Output {
    pub(super) fn new(global: &Global, environment: &Environment) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let plain = environment.get("NO_COLOR").is_some() || environment.get("TERM") == Some("dumb");
        let color = |terminal: bool| match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !plain,
        };
        Self {
            stdout_is_terminal,
            stderr_is_terminal,
            stdin_is_terminal: io::stdin().is_terminal(),
            color: color(stdout_is_terminal),
            stderr_color: color(stderr_is_terminal),
            quiet: global.quiet,
            verbose: global.verbose,
            width: width(environment),
        }
    }

    /// A line on stdout.
    pub(super) fn line(&self, text: &str) -> CliResult<()> {
        self.print(&format!("{text}\n"))
    }

    /// Text on stdout, as it is.
    pub(super) fn print(&self, text: &str) -> CliResult<()> {
        self.bytes(text.as_bytes())
    }

    /// Bytes on stdout.
    pub(super) fn bytes(&self, bytes: &[u8]) -> CliResult<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| write_error(&error))
    }

    /// Text on stderr. That nobody reads it is no reason to stop.
    pub(super) fn chrome(&self, text: &str) {
        let mut out = io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// A remark for the person, unless they want quiet.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.chrome(&format!("{}\n", paint(self.stderr_color, Tint::Dim, text)));
        }
    }

    pub(super) fn error(&self, error: &CliError) {
        if error.message.is_empty() {
            return;
        }
        let on = self.stderr_color;
        let mut text = format!("{} {}", paint(on, Tint::Red, "error:"), error.message);
        if let Some(remedy) = &error.remedy {
            text.push_str(&format!("\n  {} {remedy}", paint(on, Tint::Cyan, "→")));
        }
        if !error.reason.is_empty() {
            text.push_str(&format!("\n  {}", paint(on, Tint::Dim, &format!("reason: {}", error.reason))));
        }
        self.chrome(&format!("{text}\n"));
    }
}

fn write_error(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::silent(exit::BROKEN_PIPE),
        _ => CliError::new(format!("cannot write to stdout: {error}")),
    }
}

fn width(environment: &Environment) -> usize {
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    let columns = || environment.get("COLUMNS").and_then(|text| text.parse().ok());
    terminal().or_else(columns).unwrap_or(DEFAULT_WIDTH).max(MIN_WIDTH)
}

/// Removes what could steer a terminal: escape sequences whole, other control characters, and characters that
/// reorder text. Keeps newlines and tabs. Keeps its state from piece to piece, since a sequence may be cut anywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Cleaner {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character: one more belongs to it.
    Charset,
    /// In a control sequence, until its final character.
    Control,
    /// In a string such as a window title, until BEL, ESC \ or the end of the line.
    Text7,
    /// After ESC in such a string.
    Text7Escape,
}

impl Cleaner {
    pub(super) fn push(&mut self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        for c in text.chars() {
            self.state = match (self.state, c) {
                (State::Text, '\x1b') | (State::Escape, '\x1b') => State::Escape,
                (State::Text, '\u{9b}') | (State::Escape, '[') => State::Control,
                (State::Text, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}')
                | (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::Text7,
                (State::Escape, '(' | ')' | '*' | '+' | '#' | '%' | ' ') => State::Charset,
                (State::Control, '\x20'..='\x3f') => State::Control,
                (State::Text7, '\x1b') => State::Text7Escape,
                (State::Text7, '\x07' | '\u{9c}') | (State::Text7Escape, '\\') => State::Text,
                (State::Text7 | State::Text7Escape, c) if c != '\n' => State::Text7,
                // Ends a sequence, and is part of it unless it is a line end.
                (State::Escape | State::Charset | State::Control, c) if !c.is_control() => State::Text,
                (_, c) => {
                    if !is_harmful(c) {
                        clean.push(c);
                    }
                    State::Text
                }
            };
        }
        clean
    }
}

fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A whole text, cleaned.
pub(super) fn clean(text: &str) -> String {
    Cleaner::default().push(text)
}

/// The first line of a text, cleaned and cut to `width` columns.
pub(super) fn one_line(text: &str, width: usize) -> String {
    let text = clean(text);
    let line = text.trim().lines().next().unwrap_or_default().replace('\t', " ");
    cut(&line, width)
}

/// Cuts a line to `width` characters.
pub(super) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// "12 ms", "1.4 s", "2 min 5 s".
pub(super) fn human_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis / 1_000 % 60),
        _ => format!("{} h {} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// A number with separators: 12,345.
pub(super) fn human_number(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows as aligned columns; the last column is cut to `width`. The first row is the heading.
pub(super) fn table(rows: &[Vec<String>], width: usize, color: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            if index + 1 == row.len() {
                line.push_str(&cut(cell, width.saturating_sub(line.chars().count()).max(20)));
            } else {
                let pad = widths.get(index).copied().unwrap_or(0);
                line.push_str(&format!("{cell:pad$}  "));
            }
        }
        let line = line.trim_end();
        text.push_str(&if number == 0 { paint(color, Tint::Bold, line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_cannot_be_steered() {
        for (text, wanted) in [
            ("plain\ttext\nände €", "plain\ttext\nände €"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[2J\x1b[1;1Hgone", "gone"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]52;c;aGk=\x1b\\after", "after"),
            ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"),
            ("\x1bPdevice\x1b\\after", "after"),
            ("\x1b]unterminated\nnext", "\nnext"),
            ("\u{9b}31mred", "red"),
            ("\u{9d}0;t\u{9c}x", "x"),
            ("\x1b(Bx", "x"),
            ("\x1b7x\x1b8y", "xy"),
            ("a\rb\x08c\x07d\x7fe\u{85}f", "abcdef"),
            ("\x1b[31\nm", "\nm"),
            ("abc\u{202e}fed", "abcfed"),
            ("\x1b\x1b[1mx", "x"),
            ("end\x1b", "end"),
        ] {
            assert_eq!(clean(text), wanted, "{text:?}");
            // Cut anywhere, the result is the same.
            for cut in (0..=text.len()).filter(|i| text.is_char_boundary(*i)) {
                let mut cleaner = Cleaner::default();
                let joined = cleaner.push(&text[..cut]) + &cleaner.push(&text[cut..]);
                assert_eq!(joined, wanted, "{text:?} at {cut}");
            }
        }
    }

    #[test]
    fn colours_close_on_every_line() {
        assert_eq!(paint(true, Tint::Red, "a\n\nb"), "\x1b[31ma\x1b[0m\n\n\x1b[31mb\x1b[0m");
        assert_eq!(paint(false, Tint::Red, "a\nb"), "a\nb");
    }

    #[test]
    fn numbers_and_times() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-1_000, "-1,000")]
        {
            assert_eq!(human_number(number), text);
        }
        for (millis, text) in
            [(0, "0 ms"), (999, "999 ms"), (1_400, "1.4 s"), (125_000, "2 min 5 s"), (3_660_000, "1 h 1 min")]
        {
            assert_eq!(human_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn tables_align_and_cut() {
        let rows = vec![
            vec!["ID".to_owned(), "TITLE".to_owned()],
            vec!["a-long-id".to_owned(), "x".repeat(60)],
            vec!["b".to_owned(), String::new()],
        ];
        let text = table(&rows, 40, false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ID         TITLE");
        assert_eq!(lines[1].chars().count(), 40);
        assert!(lines[1].ends_with('…'));
        assert_eq!(lines[2], "b");
        assert_eq!(one_line("  two\x1b[1m words\nmore", 7), "two wo…");
    }
}
