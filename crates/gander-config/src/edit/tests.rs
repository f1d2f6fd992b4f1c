use super::*;

fn parsed(text: &str) -> Mapping {
    match serde_yaml_ng::from_str(text).unwrap() {
        Yaml::Null => Mapping::new(),
        Yaml::Mapping(mapping) => mapping,
        other => panic!("{other:?}"),
    }
}

fn yaml(text: &str) -> Yaml {
    serde_yaml_ng::from_str(text).unwrap()
}

fn run(text: &str, target: Target<'_>, value: Option<&str>) -> Option<Edited> {
    edit(text, &parsed(text), target, value.map(yaml).as_ref()).unwrap()
}

#[test]
fn text_edits() {
    use Target::{Nested, Top};
    let cases: &[(&str, &str, Target<'_>, Option<&str>, &str)] = &[
        ("empty file", "", Top("a"), Some("1"), "a: 1\n"),
        ("only a comment", "# mine\n", Top("a"), Some("1"), "# mine\na: 1\n"),
        ("no final newline", "a: 1", Top("b"), Some("2"), "a: 1\nb: 2\n"),
        (
            "replace keeps comments",
            "# x\na: 1 # one\n\n# y\nb: 2\n",
            Top("a"),
            Some("3"),
            "# x\na: 3 # one\n\n# y\nb: 2\n",
        ),
        ("hash within a value", "a: 'x # y' # z\n", Top("a"), Some("w"), "a: w # z\n"),
        ("remove keeps the next comment", "a: 1\n# about b\nb: 2\n", Top("a"), None, "# about b\nb: 2\n"),
        ("remove the last", "a: 1\nb: 2\n", Top("b"), None, "a: 1\n"),
        ("remove the only", "# c\na: 1\n", Top("a"), None, "# c\n"),
        ("replace a block", "a:\n  x: 1\n  y: 2\nb: 2\n", Top("a"), Some("5"), "a: 5\nb: 2\n"),
        ("list at the key's indent", "a:\n- 1\n- 2\nb: 2\n", Top("a"), Some("5"), "a: 5\nb: 2\n"),
        ("block scalar", "a: |\n  # no comment\n  text\n\nb: 2\n", Top("a"), Some("5"), "a: 5\n\nb: 2\n"),
        ("flow over lines", "a: {\n  x: 1\n}\nb: 2\n", Top("a"), Some("5"), "a: 5\nb: 2\n"),
        ("quoted key", "\"a: b\": 1\n'c': 2\n", Top("a: b"), Some("5"), "'a: b': 5\n'c': 2\n"),
        ("key with a dot", "gander.listen: x\n", Top("gander.listen"), Some("y"), "gander.listen: y\n"),
        ("key that is a prefix", "ab: 1\na: 2\n", Top("a"), Some("5"), "ab: 1\na: 5\n"),
        ("same word nested", "x:\n  a: 1\na: 2\n", Top("a"), Some("5"), "x:\n  a: 1\na: 5\n"),
        ("line ends", "a: 1\r\nb: 2\r\n", Top("a"), Some("5"), "a: 5\r\nb: 2\r\n"),
        ("document marker", "---\na: 1\n", Top("a"), Some("5"), "---\na: 5\n"),
        (
            "nested replace",
            "e:\n  # one\n  a: {x: 1}\n  b: 2 # two\nz: 1\n",
            Nested("e", "a"),
            Some("{x: 2}"),
            "e:\n  # one\n  a:\n    x: 2\n  b: 2 # two\nz: 1\n",
        ),
        (
            "nested append",
            "e:\n    a: 1\n\n# z\nz: 1\n",
            Nested("e", "b"),
            Some("{x: 2}"),
            "e:\n    a: 1\n    b:\n      x: 2\n\n# z\nz: 1\n",
        ),
        (
            "nested remove",
            "e:\n  a:\n    x: 1\n  # b\n  b: 2\n",
            Nested("e", "a"),
            None,
            "e:\n  # b\n  b: 2\n",
        ),
        ("nested remove of the last", "e:\n  a: 1\nz: 1\n", Nested("e", "a"), None, "e: {}\nz: 1\n"),
        (
            "nested in an empty flow",
            "# c\ne: {}\nz: 1\n",
            Nested("e", "a"),
            Some("1"),
            "# c\ne:\n  a: 1\nz: 1\n",
        ),
        ("nested in nothing", "z: 1 # c\n", Nested("e", "a"), Some("1"), "z: 1 # c\ne:\n  a: 1\n"),
        ("nested in null", "e:\nz: 1\n", Nested("e", "a"), Some("1"), "e:\n  a: 1\nz: 1\n"),
    ];
    for (name, text, target, value, expected) in cases {
        let edited = run(text, *target, *value).unwrap();
        assert_eq!(edited.text, *expected, "{name}");
        assert!(edited.formatting_kept, "{name}");
    }
}

#[test]
fn what_lines_cannot_do_is_rewritten_from_values() {
    let cases: &[(&str, Target<'_>, Option<&str>, &str)] = &[
        ("{a: 1, b: 2}", Target::Top("a"), Some("3"), "a: 3\nb: 2\n"),
        ("a: &x 1\nb: *x\n", Target::Top("a"), None, "b: 1\n"),
        ("a: 1\n...\n", Target::Top("b"), Some("2"), "a: 1\nb: 2\n"),
        ("? a\n: 1\n", Target::Top("a"), Some("2"), "a: 2\n"),
    ];
    for (text, target, value, expected) in cases {
        let edited = run(text, *target, *value).unwrap();
        assert_eq!((edited.text.as_str(), edited.formatting_kept), (*expected, false), "{text}");
    }
}

#[test]
fn no_change_is_reported_as_none() {
    assert_eq!(run("a: 1\n", Target::Top("a"), Some("1")), None);
    assert_eq!(run("a: 1\n", Target::Top("b"), None), None);
    assert_eq!(run("e: {a: 1}\n", Target::Nested("e", "b"), None), None);
    assert_eq!(run("e:\n", Target::Nested("e", "b"), None), None);
    assert_eq!(run("a: 1\n", Target::Nested("e", "b"), None), None);
}

#[test]
fn nested_below_something_else_is_refused() {
    let text = "e: [1]\n";
    let result = edit(text, &parsed(text), Target::Nested("e", "a"), Some(&yaml("1")));
    assert_eq!(result, Err(EditError::NotAMapping("a list")));
}

/// Every combination of document, key and value gives exactly the asked change and keeps all other lines.
#[test]
fn every_edit_changes_one_entry_only() {
    let blocks = [
        "# head\n\n",
        "plain: text # note\n",
        "multi: \"one\n  two\"\n",
        "literal: |-\n  k: v\n  # not a comment\n\n  end\n",
        "folded: >+\n  x\n\n",
        "list:\n- a\n- b: 1\n  c: 2\n",
        "map:\n    deep:\n        er: [1, {x: y}]\n    # inner\n    other: 'it''s'\n",
        "'quoted key': ~\n",
        "\n# tail\n",
    ];
    let keys = ["plain", "multi", "literal", "folded", "list", "map", "quoted key", "fresh"];
    let values = [
        "1",
        "a string",
        "\"two\\nlines\\n\"",
        "[1, [2], {}]",
        "{k: {l: [m]}, n: ''}",
        "'true'",
        "'# x'",
        "null",
    ];
    for rotation in 0..blocks.len() {
        let text: String = blocks.iter().cycle().skip(rotation).take(blocks.len()).copied().collect();
        let before = parsed(&text);
        for key in keys {
            for value in values.iter().map(|value| Some(yaml(value))).chain([None]) {
                let mut expected = before.clone();
                put(&mut expected, key, value.as_ref());
                let Some(edited) = edit(&text, &before, Target::Top(key), value.as_ref()).unwrap() else {
                    assert_eq!(expected, before, "{key}");
                    continue;
                };
                assert_eq!(parsed(&edited.text), expected, "{key} {value:?}\n{}", edited.text);
                for comment in ["# head", "# tail"] {
                    assert!(!edited.formatting_kept || edited.text.contains(comment), "{}", edited.text);
                }
            }
        }
        for (key, value) in [("deep", Some(yaml("{a: b}"))), ("other", None), ("new", Some(yaml("[1]")))] {
            let mut inner = before.get("map").unwrap().as_mapping().unwrap().clone();
            put(&mut inner, key, value.as_ref());
            let edited = edit(&text, &before, Target::Nested("map", key), value.as_ref()).unwrap().unwrap();
            assert_eq!(parsed(&edited.text).get("map"), Some(&Yaml::Mapping(inner)));
            assert!(edited.formatting_kept && edited.text.contains("# inner"), "{}", edited.text);
        }
    }
}
