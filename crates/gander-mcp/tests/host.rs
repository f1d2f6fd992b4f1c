//! The host against builtin servers over typed channels and against real child processes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[path = "host/asking.rs"]
mod asking;
#[path = "host/builtin.rs"]
mod builtin;
#[path = "host/common.rs"]
mod common;
#[path = "host/door.rs"]
mod door;
#[path = "host/faults.rs"]
mod faults;
#[path = "host/http.rs"]
mod http;
#[path = "host/launch.rs"]
mod launch;
#[path = "host/oauth.rs"]
mod oauth;
#[path = "host/sharing.rs"]
mod sharing;
#[path = "host/stdio.rs"]
mod stdio;
#[path = "host/strange.rs"]
mod strange;
#[path = "host/web.rs"]
mod web;
