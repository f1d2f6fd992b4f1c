//! What a terminal was sent, as text: without colours, titles and cursor movements.
//!
//! Programs that write to a terminal say more than to a pipe; a model has no use for it. Pure.

/// Where in a control sequence the last character was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// ESC and characters that announce one more, as of a character set.
    Intermediate,
    /// `ESC [`: up to a letter.
    Sequence,
    /// `ESC ]` and the like: up to BEL or `ESC \`.
    String,
    /// ESC within a string.
    StringEscape,
}

/// Takes text in pieces; a control sequence may lie across two of them.
#[derive(Debug, Default)]
pub(super) struct Plain {
    state: State,
    /// A carriage return whose next character has not come yet.
    returned: bool,
}

/// What becomes of a carriage return without a line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// The line begins anew and what it said is gone, as in a terminal.
    Overwrites,
    /// A new line: what was said has been passed on.
    Ends,
}

impl Plain {
    pub(super) fn push(&mut self, text: &str, on_return: Return) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            self.take(character, on_return, &mut out);
        }
        out
    }

    fn take(&mut self, character: char, on_return: Return, out: &mut String) {
        self.state = match (self.state, character) {
            (State::Text | State::Escape | State::Intermediate | State::Sequence, '\u{1b}') => State::Escape,
            (State::Text, _) => {
                self.text(character, on_return, out);
                State::Text
            }
            (State::Escape, '[') => State::Sequence,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape | State::Intermediate, ' '..='/') => State::Intermediate,
            (State::Escape | State::Intermediate, _) => State::Text,
            (State::Sequence, ' '..='?') => State::Sequence,
            (State::Sequence, _) => State::Text,
            (State::String, '\u{1b}') => State::StringEscape,
            // No string goes on over a line: what looks like one is none.
            (State::String | State::StringEscape, '\n') => {
                out.push('\n');
                State::Text
            }
            (State::String, '\u{7}') | (State::StringEscape, '\\') => State::Text,
            (State::String | State::StringEscape, _) => State::String,
        };
    }

    fn text(&mut self, character: char, on_return: Return, out: &mut String) {
        if std::mem::take(&mut self.returned) && character != '\n' && character != '\r' {
            match on_return {
                Return::Ends => out.push('\n'),
                Return::Overwrites => out.truncate(out.rfind('\n').map_or(0, |end| end + 1)),
            }
        }
        match character {
            '\r' => self.returned = true,
            '\u{8}' => {
                if !out.ends_with('\n') {
                    out.pop();
                }
            }
            '\n' | '\t' => out.push(character),
            // Bells and the like.
            _ if character.is_control() => {}
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        Plain::default().push(text, Return::Overwrites)
    }

    #[test]
    fn control_sequences_are_left_out() {
        for (given, wanted) in [
            ("a\r\nb\r\n", "a\nb\n"),
            ("\x1b[1;31mred\x1b[0m é", "red é"),
            ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\link", "xlink"),
            ("\x1b(Bb\x1b=c\x1b[?25h", "bc"),
            ("10%\r50%\r100%\ndone", "100%\ndone"),
            ("first\nold\r\rnew", "first\nnew"),
            ("ab\x08c\x07", "ac"),
            ("kept\r", "kept"),
            ("\x1bPq#0\x1b\\after", "after"),
        ] {
            assert_eq!(plain(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn pieces_make_the_same_text_wherever_they_are_cut() {
        let text = "\x1b[1mbold\x1b[0m\r\n\x1b]0;t\x1b\\10%\r20%\r\nend";
        let whole = Plain::default().push(text, Return::Ends);
        assert_eq!(whole, "bold\n10%\n20%\nend");
        for cut in 0..=text.len() {
            let mut plain = Plain::default();
            let mut got = plain.push(&text[..cut], Return::Ends);
            got += &plain.push(&text[cut..], Return::Ends);
            assert_eq!(got, whole, "cut at {cut}");
        }
    }
}
