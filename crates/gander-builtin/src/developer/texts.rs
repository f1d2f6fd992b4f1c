//! Text files as the session's people see them: those of an attached editor, with unsaved changes, else the disk's.
//!
//! Callers have judged the path before they come here. A failure of the editor is never covered by the disk where an
//! unsaved change could be overlooked or overwritten. Used off the reactor only: the calls block.

use std::path::Path;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Shared, ToolError, cancelled};
use crate::hooks::HookError;

/// Bytes of text in one message to an editor: what the common limit of a gRPC message, 4 MiB, leaves room for.
const MAX_HANDED: usize = 3 * 1024 * 1024;

/// What one call of a tool has for its text files.
pub(super) struct Texts<'a> {
    shared: &'a Shared,
    call: &'a CancellationToken,
    runtime: &'a Handle,
}

/// What the editor holds of a file.
pub(super) enum Held {
    /// No editor reads this file: the disk has all there is.
    Nowhere,
    /// The text, unsaved changes included.
    Text(String),
    /// It could not say.
    Failed(HookError),
}

impl<'a> Texts<'a> {
    pub(super) fn new(shared: &'a Shared, call: &'a CancellationToken, runtime: &'a Handle) -> Self {
        Self { shared, call, runtime }
    }

    /// Whether the call was cancelled or the server ends.
    pub(super) fn stopped(&self) -> bool {
        self.call.is_cancelled() || self.shared.closing.is_cancelled()
    }

    /// What the editor holds of the file with this canonical path.
    pub(super) fn held(&self, path: &Path) -> Result<Held, ToolError> {
        let Some((files, named)) = self.host(path) else { return Ok(Held::Nowhere) };
        Ok(match self.wait(files.read_text(&named))? {
            None => Held::Nowhere,
            Some(Ok(text)) => Held::Text(text),
            Some(Err(error)) => Held::Failed(error),
        })
    }

    /// Whether the editor took the new text; `false`: nobody writes there, or the text is too long, and nothing has
    /// happened.
    pub(super) fn hand_over(&self, name: &str, path: &Path, text: &str) -> Result<bool, ToolError> {
        let Some((files, named)) = self.host(path).filter(|_| text.len() <= MAX_HANDED) else {
            return Ok(false);
        };
        match self.wait(files.write_text(&named, text))? {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(ToolError::new(format!(
                "the attached editor could not write {name}: {error}; read the file to see what is in it now"
            ))),
        }
    }

    fn host(&self, path: &Path) -> Option<(&'a dyn crate::hooks::HostFiles, std::path::PathBuf)> {
        Some((self.shared.context.host_files.as_deref()?, self.shared.guard.in_folders(path)?))
    }

    /// Dropping the future when the call ends withdraws the work from the editor.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, ToolError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.call.cancelled() => Err(cancelled()),
                () = self.shared.closing.cancelled() => Err(cancelled()),
                done = work => Ok(done),
            }
        })
    }
}

/// The editor's failure to read, where the disk must not stand in for it.
pub(super) fn unread(name: &str, error: &HookError) -> ToolError {
    ToolError::new(format!(
        "the attached editor could not read {name}: {error}; the copy on the disk was not used, because the editor \
         may hold unsaved changes of it"
    ))
}
