//! The text of one category, in the format of Goose: memories are separated by an empty line, and the first line of
//! one may be `# tag tag`.
//!
//! A memory holds no empty line itself, or it would come back as two.

/// One memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tags: Vec<String>,
    pub(super) text: String,
}

impl Entry {
    /// A new memory; `None` if `data` says nothing.
    pub(super) fn new(data: &str, tags: &[String]) -> Option<Self> {
        let text = tidy(data);
        let words = tags.iter().flat_map(|tag| tag.split_whitespace());
        let tags = words.map(|tag| tag.trim_start_matches('#')).filter(|tag| !tag.is_empty());
        (!text.is_empty()).then(|| Self { tags: tags.map(str::to_owned).collect(), text })
    }

    /// As it stands in the file, without the empty line behind it.
    pub(super) fn block(&self) -> String {
        if !self.tags.is_empty() {
            format!("# {}\n{}", self.tags.join(" "), self.text)
        } else if self.text.starts_with('#') {
            // An empty line of tags, so that the text is not taken for one.
            format!("#\n{}", self.text)
        } else {
            self.text.clone()
        }
    }

    /// What a block of a file says.
    pub(super) fn parse(block: &str) -> Self {
        if let Some((first, text)) = block.split_once('\n')
            && let Some(tags) = first.strip_prefix('#')
        {
            let tags = tags.split_whitespace().map(str::to_owned).collect();
            return Self { tags, text: text.to_owned() };
        }
        // A lone `# line` is somebody's heading: there is nothing that it could be the tags of.
        Self { tags: Vec::new(), text: block.to_owned() }
    }
}

/// The blocks of a file.
pub(super) fn blocks(content: &str) -> impl Iterator<Item = &str> {
    content.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.trim().is_empty())
}

/// A file made of blocks.
pub(super) fn join<'a>(blocks: impl Iterator<Item = &'a str>) -> String {
    blocks.flat_map(|block| [block, "\n\n"]).collect()
}

/// Without empty lines and white space at the ends of lines.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

/// Which block is meant by `text`: the one that is exactly it, else the only one that contains it.
///
/// # Errors
/// How many contain it, when that is not one.
pub(super) fn find(blocks: &[&str], text: &str) -> Result<usize, usize> {
    let wanted = tidy(text);
    let exactly = |block: &&str| tidy(block) == wanted || tidy(&Entry::parse(block).text) == wanted;
    if let Some(index) = blocks.iter().position(exactly) {
        return Ok(index);
    }
    let containing: Vec<usize> = (0..blocks.len())
        .filter(|index| !wanted.is_empty() && tidy(blocks[*index]).contains(&wanted))
        .collect();
    match containing[..] {
        [index] => Ok(index),
        _ => Err(containing.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(data: &str, tags: &[&str]) -> Entry {
        let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        Entry::new(data, &tags).expect("says something")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = [
            entry("use tabs", &["#style", "code  go"]),
            entry("two\n\n\nlines  \n", &[]),
            entry("# a heading\nand text", &[]),
            entry("# only a heading", &["t"]),
        ];
        let texts: Vec<String> = written.iter().map(Entry::block).collect();
        let file = join(texts.iter().map(String::as_str));
        assert_eq!(
            file,
            "# style code go\nuse tabs\n\ntwo\nlines\n\n#\n# a heading\nand text\n\n# t\n# only a heading\n\n"
        );
        let read: Vec<Entry> = blocks(&file).map(Entry::parse).collect();
        assert_eq!(read, written);
        assert_eq!(Entry::new(" \n\n", &[]), None);
    }

    #[test]
    fn files_of_other_hands_are_read() {
        let read: Vec<Entry> = blocks("\n# Heading\n\n\n\nno end of line").map(Entry::parse).collect();
        assert_eq!(read, [Entry::parse("# Heading"), entry("no end of line", &[])]);
        assert_eq!(read[0], Entry { tags: Vec::new(), text: "# Heading".into() });
        assert_eq!(Entry::parse("#a b\nx"), entry("x", &["a", "b"]));
    }

    #[test]
    fn the_memory_that_is_meant_is_found_or_none() {
        let blocks = ["# t\nport 80", "port 8080", "host a\nhost b"];
        assert_eq!(find(&blocks, "port 80"), Ok(0), "exactly, although another contains it");
        assert_eq!(find(&blocks, "# t\nport 80"), Ok(0));
        assert_eq!(find(&blocks, "8080"), Ok(1));
        assert_eq!(find(&blocks, "host a\n\nhost b\n"), Ok(2));
        assert_eq!(find(&blocks, "port"), Err(2));
        assert_eq!(find(&blocks, "nothing"), Err(0));
        assert_eq!(find(&blocks, "\n "), Err(0));
    }
}
