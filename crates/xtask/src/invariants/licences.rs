//! Licence expressions of crates (SPDX, and the older `A/B`) against the allow list of `deny.toml`.
//!
//! This covers what every build should check; `cargo deny` reads licence texts and advisories as well.

use std::collections::BTreeSet;

/// The allow list of the `[licenses]` section.
pub(super) fn allowed(deny: &str) -> BTreeSet<String> {
    let section = deny.split("\n[licenses]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let list = section.split("allow = [").nth(1).unwrap_or_default();
    let list = list.split("\n]").next().unwrap_or_default();
    list.lines()
        .filter_map(|line| Some(line.trim().strip_prefix('"')?.split('"').next()?.to_owned()))
        .collect()
}

/// Whether the expression can be met with allowed licences only. An expression that is not understood is not.
pub(super) fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut tokens, allowed).is_some_and(|met| met && tokens.is_empty())
}

fn any_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = all_of(tokens, allowed)?;
    while tokens.last() == Some(&"OR") {
        tokens.pop();
        met |= all_of(tokens, allowed)?;
    }
    Some(met)
}

fn all_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = one(tokens, allowed)?;
    while tokens.last() == Some(&"AND") {
        tokens.pop();
        met &= one(tokens, allowed)?;
    }
    Some(met)
}

fn one(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    match tokens.pop()? {
        "(" => {
            let met = any_of(tokens, allowed)?;
            (tokens.pop()? == ")").then_some(met)
        }
        "AND" | "OR" | "WITH" | ")" => None,
        name if tokens.last() == Some(&"WITH") => {
            tokens.pop();
            let exception = tokens.pop()?;
            Some(allowed.contains(&format!("{name} WITH {exception}")))
        }
        name => Some(allowed.contains(name)),
    }
}

#[test]
fn expressions_are_understood() {
    let allowed =
        allowed("x\n[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\", # why\n  \"A WITH e\",\n]\n[bans]\n");
    let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
    assert_eq!(names, ["A WITH e", "ISC", "MIT"]);
    for good in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(GPL-3.0 OR MIT) AND ISC", "A WITH e OR GPL-3.0"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "A", "MIT WITH e", "none", "", "(MIT", "MIT MIT"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
