//! What keeps a running server's picture true: lists fetched again when they changed, subscriptions and the log level
//! made anew on every connection, and a ping now and then. Nothing here ends a server; what fails makes it degraded,
//! and is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rmcp::model::{
    PingRequest, SubscriptionFilter, SubscriptionsListenRequest, SubscriptionsListenRequestParams,
};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    catalog::ToolDiff,
    connection::{Connection, Failure, RequestOptions},
    features,
    lists::{self, LIST_TIMEOUT, List},
    server::Server,
};

/// Changes of a list within this time are fetched once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Delay before a list that could not be fetched is tried again; doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// Lost pings in a row that make a server degraded.
const MAX_LOST: u32 = 2;
/// How long one stream of notifications is kept open before it is opened anew (2026-07-28).
const LISTEN: Duration = Duration::from_secs(24 * 3600);
/// Delay before it is opened again after it ended.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// What the session wants of a server on every connection.
pub(crate) struct Wishes {
    inner: Mutex<Wanted>,
    changed: watch::Sender<u64>,
}

#[derive(Default, Clone)]
struct Wanted {
    subscriptions: BTreeSet<String>,
    log_level: Option<String>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Wishes {
    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn subscribe(&self, uri: &str) {
        self.change(|wanted| {
            wanted.subscriptions.insert(uri.to_owned());
        });
    }

    pub(crate) fn unsubscribe(&self, uri: &str) {
        self.change(|wanted| {
            wanted.subscriptions.remove(uri);
        });
    }

    pub(crate) fn log_level(&self, level: &str) {
        self.change(|wanted| wanted.log_level = Some(level.to_owned()));
    }

    fn wanted(&self) -> Wanted {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs as long as the connection does. May be dropped at any time.
pub(crate) async fn run(server: &Server, connection: &Connection) {
    tokio::join!(follow_lists(server, connection), ping(server, connection), keep_wishes(server, connection));
}

async fn follow_lists(server: &Server, connection: &Connection) {
    let mut failed: Vec<&'static str> = Vec::new();
    let mut delay = FIRST_RETRY;
    loop {
        let lists = tokio::select! {
            biased;
            changed = connection.shared.signals.lists_changed() => {
                sleep(DEBOUNCE).await;
                delay = FIRST_RETRY;
                failed.retain(|list| !changed.contains(list));
                changed
            }
            () = sleep(delay), if !failed.is_empty() => {
                delay = delay.saturating_mul(2).min(MAX_RETRY);
                std::mem::take(&mut failed)
            }
        };
        for list in lists {
            if !refetch(server, connection, list).await {
                failed.push(list);
            }
        }
    }
}

/// After a server said that a list changed. The last good list stays when it cannot be fetched; returns whether it
/// could.
async fn refetch(server: &Server, connection: &Connection, list: &'static str) -> bool {
    let kind = match list {
        "tools" => List::Tools,
        "resources" => List::Resources,
        _ => List::Prompts,
    };
    match lists::fetch(connection, kind, LIST_TIMEOUT).await {
        Ok(listed) if list == "tools" => {
            let diff = server.take_tools(&listed.entries);
            match listed.cut {
                Some(cause) => server.trouble(list, &cause, None),
                None => server.recovered(list),
            }
            if !diff.is_empty() {
                server.report_list(list, diff);
            }
            true
        }
        Ok(listed) => {
            let diff = server.take_entries(kind, &listed.entries);
            match listed.cut {
                Some(cause) => server.trouble(list, &cause, None),
                None => server.recovered(list),
            }
            // Also without a difference: contents or templates may have changed.
            server.report_list(list, diff);
            true
        }
        Err(failure) if connection.is_alive() => {
            let error = crate::calls::error_of(server.key(), &format!("{list}/list"), failure);
            let cause = format!("the changed list of {list} could not be fetched: {}", error.message);
            server.trouble(list, &cause, Some(error));
            false
        }
        Err(_) => true,
    }
}

/// The difference between two lists by what identifies their entries.
pub(crate) fn difference(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> ToolDiff {
    let missing = |from: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        from.keys().filter(|id| !other.contains_key(*id)).cloned().collect()
    };
    ToolDiff {
        added: missing(new, old),
        removed: missing(old, new),
        changed: new
            .iter()
            .filter(|(id, entry)| old.get(*id).is_some_and(|before| before != *entry))
            .map(|(id, _)| id.clone())
            .collect(),
    }
}

/// Entries by what identifies them.
pub(crate) fn by_id(list: List, entries: &[Value]) -> BTreeMap<String, String> {
    let id = match list {
        List::Resources => "uri",
        List::Templates => "uriTemplate",
        List::Tools | List::Prompts => "name",
    };
    let entry = |entry: &Value| Some((entry.get(id)?.as_str()?.to_owned(), entry.to_string()));
    entries.iter().filter_map(entry).collect()
}

/// Asks an idle server whether it is still there. A server in this process needs no asking, and the newest revision
/// has no ping.
async fn ping(server: &Server, connection: &Connection) {
    let options = &server.host().options;
    let asked = !server.is_in_process() && !connection.is_modern();
    let interval = options.ping_interval.filter(|_| asked);
    let Some(interval) = interval else { return std::future::pending().await };
    let mut lost = 0;
    loop {
        sleep(interval).await;
        if !connection.is_idle() {
            continue;
        }
        let ping = PingRequest::default();
        match connection.request(ping.into(), RequestOptions::within(options.ping_timeout)).await {
            Err(Failure::TimedOut(limit)) => {
                lost += 1;
                if lost >= MAX_LOST {
                    let cause =
                        format!("{lost} pings in a row were not answered within {} s", limit.as_secs_f64());
                    server.trouble("ping", &cause, None);
                }
            }
            Err(Failure::Gone(_)) => return std::future::pending().await,
            // An error is an answer as well.
            _ => {
                lost = 0;
                server.recovered("ping");
            }
        }
    }
}

/// Ends when nobody has used a builtin of this process for a while; never for others.
pub(crate) async fn unused(server: &Server, connection: &Connection) {
    let limit = server.host().options.builtin_idle.filter(|_| server.is_in_process());
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let before = connection.requests();
        sleep(limit).await;
        if connection.is_idle() && connection.requests() == before {
            return;
        }
    }
}

/// Makes subscriptions and the log level known to a new connection.
async fn keep_wishes(server: &Server, connection: &Connection) {
    if connection.is_modern() {
        return listen(server, connection).await;
    }
    let wanted = server.wishes.wanted();
    if let Some(level) = &wanted.log_level
        && let Err(error) = features::set_log_level(connection, server.key(), level).await
    {
        tracing::warn!(extension = %server.key(), %error, "the log level could not be set again");
    }
    let mut lost = Vec::new();
    for uri in &wanted.subscriptions {
        if let Err(error) = features::subscribe(connection, server.key(), uri).await {
            lost.push(error);
        }
    }
    match lost.into_iter().next() {
        Some(error) if connection.is_alive() => {
            let cause = format!("a subscription could not be made again: {}", error.message);
            server.trouble("subscriptions", &cause, Some(error));
        }
        _ => {}
    }
}

/// The newest revision's one stream for all changes. What comes on it is routed by the wire.
async fn listen(server: &Server, connection: &Connection) {
    let mut changes = server.wishes.changed.subscribe();
    loop {
        changes.mark_unchanged();
        let mut filter = SubscriptionFilter::new();
        let capabilities = &connection.info.capabilities;
        filter.tools_list_changed = capabilities.tools.is_some().then_some(true);
        filter.prompts_list_changed = capabilities.prompts.is_some().then_some(true);
        filter.resources_list_changed = capabilities.resources.is_some().then_some(true);
        let uris: Vec<String> = server.wishes.wanted().subscriptions.into_iter().collect();
        filter.resource_subscriptions = (!uris.is_empty()).then_some(uris);
        let request = SubscriptionsListenRequest::new(SubscriptionsListenRequestParams::new(filter));
        tokio::select! {
            // Dropped, the request is taken back.
            ended = connection.request(request.into(), RequestOptions::within(LISTEN)) => match ended {
                Err(Failure::Rpc(error)) => {
                    tracing::info!(extension = %server.key(), code = error.code.0, "the server reports no changes");
                    return std::future::pending().await;
                }
                Err(Failure::Gone(_)) => return std::future::pending().await,
                _ => { let _ = timeout(LISTEN_AGAIN, changes.changed()).await; }
            },
            _ = changes.changed() => {}
        }
    }
}
