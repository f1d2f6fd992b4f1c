//! Files for the agent: those of the session's folders, by the attached host where it can, else from the disk.

use std::{
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use gander_domain::host::{HostCallKind, HostCallOutcome};
use gander_model::AgentClient;
use serde_json::{Value, json};

use crate::failure::{INTERNAL, NOT_FOUND, RpcError};

/// Largest file that is read or written.
const MAX_BYTES: usize = 8 << 20;

/// Where the agent may read and write.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    roots: Vec<PathBuf>,
    denied: Vec<PathBuf>,
}

impl Files {
    /// Folders of the session, and what lies below them but is off limits.
    pub(crate) fn new(roots: impl IntoIterator<Item = PathBuf>, denied: &[PathBuf]) -> Self {
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        Self {
            roots: roots.into_iter().map(real).collect(),
            denied: denied.iter().cloned().map(real).collect(),
        }
    }

    /// The real path of what may be touched. Links are followed first; what does not exist yet is judged by the folder
    /// that does.
    pub(crate) fn allowed(&self, path: &str) -> Result<PathBuf, RpcError> {
        let asked = Path::new(path);
        if !asked.is_absolute() {
            return Err(RpcError::invalid(format!("path {path:?} must be absolute")));
        }
        if asked.components().any(|part| part == Component::ParentDir) {
            return Err(RpcError::invalid(format!("path {path:?} must not contain `..`")));
        }
        let real = real_path(asked);
        let below = |folders: &[PathBuf]| folders.iter().any(|folder| real.starts_with(folder));
        if !below(&self.roots) || below(&self.denied) {
            return Err(RpcError::invalid(format!("path {path:?} is outside of the session's folders")));
        }
        Ok(real)
    }

    pub(crate) async fn read(&self, params: &Value, client: &dyn AgentClient) -> Result<Value, RpcError> {
        let path = path_of(params)?;
        let real = self.allowed(path)?;
        let number = |key: &str| params.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let (line, limit) = (number("line"), number("limit"));
        let call = HostCallKind::FsRead { path: path.to_owned(), line, limit };
        match client.host_call(call).await {
            Some(HostCallOutcome::FsRead { text }) => return Ok(json!({ "content": text })),
            Some(other) => return Err(host_failed(other)),
            None => {}
        }
        let text = read_text(&real).await.map_err(|error| io_error(path, &error))?;
        Ok(json!({ "content": lines(&text, line, limit) }))
    }

    pub(crate) async fn write(&self, params: &Value, client: &dyn AgentClient) -> Result<Value, RpcError> {
        let path = path_of(params)?;
        let real = self.allowed(path)?;
        let content = params.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| RpcError::invalid("content is missing"))?;
        if content.len() > MAX_BYTES {
            return Err(RpcError::invalid(format!("content is larger than {} MiB", MAX_BYTES >> 20)));
        }
        let call = HostCallKind::FsWrite { path: path.to_owned(), text: content.to_owned() };
        match client.host_call(call).await {
            Some(HostCallOutcome::FsWritten) => return Ok(json!({})),
            Some(other) => return Err(host_failed(other)),
            None => {}
        }
        let failed = |error: std::io::Error| io_error(path, &error);
        if let Some(folder) = real.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        }
        tokio::fs::write(&real, content).await.map_err(failed)?;
        Ok(json!({}))
    }
}

fn path_of(params: &Value) -> Result<&str, RpcError> {
    params.get("path").and_then(Value::as_str).ok_or_else(|| RpcError::invalid("path is missing"))
}

/// The path with the links of its existing part followed.
fn real_path(path: &Path) -> PathBuf {
    for folder in path.ancestors() {
        if let Ok(real) = folder.canonicalize() {
            return match path.strip_prefix(folder) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
        // A link to nowhere must not pass for a file that does not exist yet.
        if folder.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            return PathBuf::from("/");
        }
    }
    path.to_owned()
}

async fn read_text(path: &Path) -> std::io::Result<String> {
    let meta = tokio::fs::metadata(path).await?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    if meta.len() > MAX_BYTES as u64 {
        return Err(std::io::Error::other(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let bytes = tokio::fs::read(path).await?;
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8 text"))
}

/// `limit` lines from `line` (from 1) on.
fn lines(text: &str, line: Option<u32>, limit: Option<u32>) -> String {
    let skip = line.unwrap_or(1).saturating_sub(1) as usize;
    let take = limit.map_or(usize::MAX, |limit| limit as usize);
    text.split_inclusive('\n').skip(skip).take(take).collect()
}

fn io_error(path: &str, error: &std::io::Error) -> RpcError {
    let code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { INTERNAL };
    RpcError { data: Some(json!({ "path": path })), ..RpcError::new(code, format!("{path}: {error}")) }
}

pub(crate) fn host_failed(outcome: HostCallOutcome) -> RpcError {
    match outcome {
        HostCallOutcome::Failed { message, .. } => RpcError::new(INTERNAL, message),
        _ => RpcError::new(INTERNAL, "the session's host answered with another kind of result"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sessions_folders() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir_all(work.join("secret")).unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), work.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), work.join("dangling")).unwrap();
        std::os::unix::fs::symlink(dir.path(), work.join("up")).unwrap();
        let files = Files::new([work.clone()], &[work.join("secret")]);
        for (path, allowed) in [
            ("a.txt", true),
            ("new/deep/file", true),
            ("", true),
            ("../outside", false),
            ("link", false),
            ("dangling", false),
            ("up/outside", false),
            ("up/new", false),
            ("secret/key", false),
        ] {
            let full = work.join(path);
            assert_eq!(files.allowed(full.to_str().unwrap()).is_ok(), allowed, "{path}");
        }
        assert!(files.allowed("relative").is_err());
        assert!(files.allowed("/etc/passwd").is_err());
    }

    #[test]
    fn lines_by_number() {
        let text = "one\ntwo\nthree";
        for (line, limit, expected) in [
            (None, None, text),
            (Some(2), None, "two\nthree"),
            (Some(2), Some(1), "two\n"),
            (None, Some(2), "one\ntwo\n"),
            (Some(9), Some(1), ""),
        ] {
            assert_eq!(lines(text, line, limit), expected);
        }
    }
}
