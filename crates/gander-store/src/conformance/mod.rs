//! The test suite that every implementation of [`Store`] must pass (feature `conformance`).
//!
//! Each case gets an [`Open`] for a fresh, empty place. Calling it again opens the same place again, after the store
//! that was open has been closed. Cases panic where the store breaks the contract of the trait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod content;
mod deletion;
mod log;
mod rows;
pub mod sample;

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt as _};

use crate::Store;

/// Opens the store of one case.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync>;

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub run: fn(Open) -> BoxFuture<'static, ()>,
}

/// Deadline of closing in tests.
pub const CLOSE: Duration = Duration::from_secs(20);

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// All tests.
        pub fn cases() -> Vec<Case> {
            vec![$(Case {
                name: concat!(stringify!($module), "::", stringify!($name)),
                run: |open| $module::$name(open).boxed(),
            }),*]
        }
    };
}

cases![
    log::commits_are_read_back_in_order,
    log::pages_are_bounded_by_events_and_bytes,
    log::sequences_must_be_contiguous,
    log::a_new_epoch_fences_the_old_one,
    log::ids_are_never_reused,
    log::a_refused_commit_leaves_nothing,
    log::commits_in_flight_keep_their_order,
    log::concurrent_sessions_do_not_disturb_each_other,
    log::everything_is_there_after_reopening,
    log::deltas_are_dropped_after_completion_only,
    log::a_closed_store_fails,
    rows::lists_filter_and_page,
    rows::rows_follow_summaries,
    rows::unfinished_sessions_are_found,
    rows::search_finds_messages_without_case,
    rows::search_skips_hidden_messages,
    rows::idempotency_records_keep_the_first_answer,
    content::contents_are_read_in_ranges,
    content::contents_are_copied,
    content::documents_are_kept_beside_the_log,
    deletion::deletion_erases_all_but_the_id,
    deletion::redaction_replaces_and_appends,
    deletion::checks_find_nothing_in_a_used_store,
];
