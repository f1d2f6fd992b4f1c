//! Servers that are fetched when they start: whether the package that is run is a certain one, or whatever is newest.
//!
//! Whoever demands certain packages must not be talked around, so what is not understood counts as uncertain.

use gander_domain::extension::{ExtensionConfig, ExtensionTransport};

use super::validate::base_name;

/// Where packages of a runner come from, which decides how a version is written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Npm,
    Python,
}

/// Options of runners that stand alone, and options with a value that is no package.
const ALONE: [&str; 14] = [
    "-y",
    "--yes",
    "-q",
    "--quiet",
    "--silent",
    "--offline",
    "--prefer-offline",
    "--no-install",
    "--ignore-scripts",
    "--isolated",
    "--no-cache",
    "--native-tls",
    "--bun",
    "--no-python-downloads",
];
const VALUED: [&str; 2] = ["--python", "--directory"];
/// Options whose value is a package as well.
const PACKAGES: [&str; 5] = ["-p", "--package", "--from", "--with", "--spec"];

/// The package that is fetched without an exact version when the extension starts, as it is written there; `None` when
/// nothing is fetched or every version is exact.
pub fn unpinned_package(config: &ExtensionConfig) -> Option<String> {
    let (command, args) = match &config.transport {
        ExtensionTransport::Stdio { command, args } => (command, args),
        // Its runner adds MCP's own package, in whichever version there is.
        ExtensionTransport::InlinePython { .. } => return Some("mcp".to_owned()),
        _ => return None,
    };
    let words: Vec<&str> =
        config.exec_prefix.iter().chain([command]).chain(args).map(String::as_str).collect();
    let (kind, rest) = (0..words.len()).find_map(|at| runner(&words[at..]))?;
    package(kind, &rest).err()
}

/// A runner of packages at the beginning of `words`, and what it is told: options before its subcommand count as well.
fn runner<'a>(words: &[&'a str]) -> Option<(Kind, Vec<&'a str>)> {
    let (name, told) = words.split_first()?;
    let (kind, subcommands): (Kind, &[&[&str]]) = match base_name(name).as_str() {
        "npx" | "pnpx" | "bunx" => (Kind::Npm, &[&[]]),
        "npm" => (Kind::Npm, &[&["exec"], &["x"]]),
        "pnpm" | "yarn" => (Kind::Npm, &[&["dlx"]]),
        "bun" => (Kind::Npm, &[&["x"]]),
        "uvx" => (Kind::Python, &[&[]]),
        "pipx" => (Kind::Python, &[&["run"]]),
        "uv" => (Kind::Python, &[&["tool", "run"], &["run"]]),
        _ => return None,
    };
    subcommands.iter().find_map(|path| without(told, path)).map(|told| (kind, told))
}

/// `words` without the words of `path`, when these follow each other with nothing between them but options.
fn without<'a>(words: &[&'a str], path: &[&str]) -> Option<Vec<&'a str>> {
    let mut words = words.iter().copied();
    let mut kept: Vec<&str> = Vec::new();
    for wanted in path {
        loop {
            let word = words.next()?;
            if word == *wanted {
                break;
            }
            let may_be_value =
                kept.last().is_some_and(|before| before.starts_with('-') && !ALONE.contains(before));
            if !word.starts_with('-') && !may_be_value {
                return None;
            }
            kept.push(word);
        }
    }
    kept.extend(words);
    Some(kept)
}

/// # Errors
/// The first word that is not certain.
fn package(kind: Kind, words: &[&str]) -> Result<(), String> {
    let mut named = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == "--" {
            continue;
        }
        if !word.starts_with('-') {
            // With `--from` and the like, what follows is the name of a program in that package.
            return if named { Ok(()) } else { exact(kind, word) };
        }
        let (option, value) =
            word.split_once('=').map_or((*word, None), |(option, value)| (option, Some(value)));
        if PACKAGES.contains(&option) {
            let value = value.or_else(|| words.next().copied()).unwrap_or_default();
            exact(kind, value)?;
            // `--with` adds to the package; the others are it.
            named |= option != "--with";
        } else if VALUED.contains(&option) {
            if value.is_none() {
                words.next();
            }
        } else if !ALONE.contains(&option) {
            return Err((*word).to_owned());
        }
    }
    Ok(())
}

fn exact(kind: Kind, spec: &str) -> Result<(), String> {
    let version = match kind {
        Kind::Npm => spec.get(1..).and_then(|rest| rest.split_once('@')).map(|(_, version)| version),
        Kind::Python => spec.split_once("==").or_else(|| spec.split_once('@')).map(|(_, version)| version),
    };
    let plain = |version: &str| {
        let mut parts = version.split(['.', '-', '+']);
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let numbers =
            usize::from(parts.next().is_some_and(number)) + usize::from(parts.next().is_some_and(number));
        numbers == 2 && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
    };
    if version.is_some_and(plain) { Ok(()) } else { Err(spec.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Option<String> {
        let mut words = words.split(' ').map(str::to_owned);
        let mut entry = serde_json::json!({"type": "stdio", "name": "x"});
        entry["cmd"] = words.next().into();
        entry["args"] = words.collect::<Vec<_>>().into();
        unpinned_package(&crate::extension::from_value(&entry).unwrap())
    }

    #[test]
    fn exact_versions_are_told_from_floating_ones() {
        for certain in [
            "npx -y @scope/server@1.2.3 --root /x",
            "npx server@2025.8.31",
            "npx -y --package=server@1.0.0-rc.1 server-bin",
            "npm exec -- server@1.2.3",
            "uvx mcp-server-git==2025.1.14 --repository .",
            "uvx mcp-server-git@2025.1.14",
            "uvx --python 3.12 --from server==1.2 --with extra==3.4 run",
            "uv tool run server==1.2.3",
            "/usr/bin/server --flag",
            "python3 server.py",
            "npm --prefix /x start",
            "npm run exec",
            "npm --silent exec -- server@1.2.3",
            "uv --quiet tool run server==1.2.3",
        ] {
            assert_eq!(of(certain), None, "{certain}");
        }
        for (floating, word) in [
            ("npx -y @scope/server", "@scope/server"),
            ("npx server@latest", "server@latest"),
            ("npx server@^1.2.3", "server@^1.2.3"),
            ("npx server@1", "server@1"),
            ("npx github:me/server", "github:me/server"),
            ("npx --registry evil@1.0.0 server", "--registry"),
            ("npx.cmd server", "server"),
            ("pnpm dlx server", "server"),
            ("npm --silent exec server", "server"),
            ("npm --registry https://h exec server@1.2.3", "--registry"),
            ("uv --quiet tool --offline run server", "server"),
            ("uv --directory /x run server", "server"),
            ("uvx server", "server"),
            ("uvx server>=1.2.3", "server>=1.2.3"),
            ("uvx server==1.*", "server==1.*"),
            ("uvx --from git+https://h/x server", "git+https://h/x"),
            ("uvx --from server==1.2.3 --with extra run", "extra"),
            ("uvx --with extra==1.2.3 server", "server"),
            ("env A=1 /opt/bin/uvx server", "server"),
        ] {
            assert_eq!(of(floating).as_deref(), Some(word), "{floating}");
        }
    }
}
