//! When a daemon in the background may go: nobody is connected and no turn runs, for a while.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use gander_engine::Engine;
use gander_listen::Front;
use tokio::time::Instant;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(500);
/// A window that is closed and opened again finds its daemon; so does an editor that restarts.
const DEFAULT: Duration = Duration::from_secs(60);
/// Whoever started the daemon looks whether it answers and then connects: not to be taken for the last client.
const LEAST: Duration = Duration::from_secs(1);
/// How long the first client may take.
const FIRST: Duration = Duration::from_secs(10);
/// The setting.
pub(super) const KEY: &str = "gander.linger";

/// How long a daemon in the background stays after its last client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linger {
    /// This long.
    For(Duration),
    /// While a schedule is active that it has to run; then as by default.
    Schedules,
    /// Until it is stopped.
    Always,
}

impl Default for Linger {
    fn default() -> Self {
        Self::For(DEFAULT)
    }
}

impl Linger {
    /// `schedules`, `always`, or a number of seconds.
    ///
    /// # Errors
    /// Any other text; the message names the setting.
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "schedules" => Ok(Self::Schedules),
            "always" => Ok(Self::Always),
            other => match other.strip_suffix('s').unwrap_or(other).parse::<u64>() {
                Ok(seconds) => Ok(Self::For(Duration::from_secs(seconds))),
                Err(_) => bail!(
                    "the setting {KEY} is {text:?}; it must be a number of seconds, `schedules` or `always`"
                ),
            },
        }
    }

    /// Returns when the daemon has been unused for long enough.
    pub(super) async fn until_unused(self, front: &Front, engine: &Arc<Engine>) {
        let wait = match self {
            Self::For(wait) => wait,
            Self::Schedules => DEFAULT,
            Self::Always => return std::future::pending().await,
        };
        let (mut wait, least) = (wait.max(FIRST), wait.max(LEAST));
        let mut unused_since = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let connected = front.open_connections() > 0;
            if connected {
                wait = least;
            }
            let needed = connected
                || engine.info().await.active_turns > 0
                || (self == Self::Schedules && engine.has_active_schedules());
            let now = Instant::now();
            if needed {
                unused_since = now;
            } else if now.duration_since(unused_since) >= wait {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        for (text, wanted) in [
            ("90", Some(Linger::For(Duration::from_secs(90)))),
            ("5s", Some(Linger::For(Duration::from_secs(5)))),
            ("always", Some(Linger::Always)),
            (" schedules ", Some(Linger::Schedules)),
            ("never", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(Linger::parse(text).ok(), wanted, "{text}");
        }
        assert!(Linger::parse("x").unwrap_err().to_string().contains("gander.linger"));
    }
}
