//! A connection to the session bus for a few calls, with one deadline over its whole life.
//!
//! `zbus` speaks D-Bus. It is driven by the thread that asks, with a runtime that ends with the connection: a bus that
//! hangs leaves nothing running. Where the bus is comes from the [`Environment`], never from the process. This must not
//! know what a secret is; nor does what crosses the bus reach the log, since `zbus` is built without its tracing.

use std::{
    ffi::OsString,
    future::Future,
    io::ErrorKind,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use percent_encoding::percent_decode;
use serde::Serialize;
use tokio::runtime::{self, Runtime};
use zbus::{
    Address, DBusError as _, DynamicType, Error,
    address::transport::{Transport, Unix, UnixSocket},
    connection::Builder,
    wire::DynamicDeserialize,
};

use crate::environment::Environment;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum BusError {
    /// There is no bus to talk to; with what was tried.
    NoBus(String),
    /// The deadline passed.
    Timeout,
    /// The callee refused.
    Refused {
        /// The error's name, such as `org.freedesktop.DBus.Error.ServiceUnknown`.
        name: String,
        /// Its sentence; may be empty.
        message: String,
    },
    /// The connection broke, or what came is not what was asked for.
    Failed(String),
}

impl From<Error> for BusError {
    fn from(error: Error) -> Self {
        match error {
            Error::InputOutput(error) if error.kind() == ErrorKind::TimedOut => Self::Timeout,
            Error::InputOutput(error) => Self::Failed(format!("the connection broke: {error}")),
            Error::MethodError(name, message, _) => {
                Self::Refused { name: name.to_string(), message: message.unwrap_or_default() }
            }
            Error::FDO(error) => Self::Refused {
                name: error.name().to_string(),
                message: error.description().unwrap_or_default().to_owned(),
            },
            other => Self::Failed(other.to_string()),
        }
    }
}

type Result<T> = std::result::Result<T, BusError>;

/// What is called.
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// A connection to the session bus that ends at its deadline.
pub(super) struct Connection {
    bus: zbus::Connection,
    runtime: Runtime,
    deadline: Instant,
}

impl Connection {
    /// Connects to the session bus of `environment` and says hello.
    pub(super) fn open(environment: &Environment, deadline: Instant) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| BusError::Failed(format!("no runtime: {error}")))?;
        let mut tried = Vec::new();
        for (name, address) in addresses(environment) {
            let connected = match address {
                Ok(address) => within(&runtime, deadline, Builder::address(address).build())?,
                Err(error) => Err(error),
            };
            match connected {
                Ok(bus) => return Ok(Self { bus, runtime, deadline }),
                Err(Error::Connection(error, _)) => tried.push(format!("{name}: {error}")),
                Err(Error::Address(error)) => tried.push(format!("{name}: {error}")),
                Err(error) => return Err(error.into()),
            }
        }
        Err(BusError::NoBus(tried.join("; ")))
    }

    /// Calls and waits for the answer.
    pub(super) fn call<T>(&self, method: &Method<'_>, body: &(impl Serialize + DynamicType)) -> Result<T>
    where
        T: for<'b> DynamicDeserialize<'b>,
    {
        let Method { destination, path, interface, member } = *method;
        let call = self.bus.call_method(Some(destination), path, Some(interface), member, body);
        let answer = within(&self.runtime, self.deadline, call)??;
        // What is wrong with it could quote it.
        let unexpected = |_| BusError::Failed(format!("the answer to {member} is not what it should be"));
        answer.body().deserialize().map_err(unexpected)
    }
}

/// Runs it until the deadline.
fn within<T>(runtime: &Runtime, deadline: Instant, job: impl Future<Output = T>) -> Result<T> {
    runtime
        .block_on(async { tokio::time::timeout_at(deadline.into(), job).await })
        .map_err(|_| BusError::Timeout)
}

/// The sockets at which the session bus may be, with their names for people.
fn addresses(environment: &Environment) -> Vec<(String, zbus::Result<Address>)> {
    let Some(given) = environment.get("DBUS_SESSION_BUS_ADDRESS") else {
        let runtime = environment.get("XDG_RUNTIME_DIR").map_or_else(
            || format!("/run/user/{}", rustix::process::geteuid().as_raw()),
            |directory| directory.trim_end_matches('/').to_owned(),
        );
        let path = format!("{runtime}/bus");
        let socket = UnixSocket::File(PathBuf::from(&path));
        return vec![(path, Ok(Transport::Unix(Unix::new(socket)).into()))];
    };
    given.split(';').filter(|one| !one.is_empty()).map(|one| (one.to_owned(), address(one))).collect()
}

/// One address. Secrets do not travel further than to a socket of this machine.
fn address(text: &str) -> zbus::Result<Address> {
    let unsupported = || Error::Address("not a unix socket".to_owned());
    if !text.starts_with("unix:") {
        return Err(unsupported());
    }
    let address = Address::try_from(text)?;
    // zbus takes paths as they are written, where `%` and two hexadecimal digits stand for other bytes.
    let socket = match address.transport() {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => UnixSocket::File(unescaped(path).into()),
            UnixSocket::Abstract(name) => UnixSocket::Abstract(unescaped(Path::new(name))),
            _ => return Err(unsupported()),
        },
        _ => return Err(unsupported()),
    };
    let read = Address::new(Transport::Unix(Unix::new(socket)));
    match address.guid() {
        Some(guid) => read.set_guid(guid.to_owned()),
        None => Ok(read),
    }
}

fn unescaped(path: &Path) -> OsString {
    OsString::from_vec(percent_decode(path.as_os_str().as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(pairs: &[(&str, &str)]) -> Vec<Option<UnixSocket>> {
        let found = addresses(&pairs.iter().copied().collect()).into_iter();
        found
            .map(|(_, address)| match address.ok()?.transport() {
                Transport::Unix(unix) => Some(unix.path().clone()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn addresses_are_understood() {
        let file = |path: &str| Some(UnixSocket::File(path.into()));
        assert_eq!(sockets(&[("XDG_RUNTIME_DIR", "/run/user/7%20/")]), [file("/run/user/7%20/bus")]);
        let guid = "0123456789abcdef0123456789abcdef";
        let list =
            format!("tcp:host=x,port=1;unix:guid={guid},path=/tmp/a%20b%2520%;;unix:tmpdir=/tmp;unix:x");
        let given = [("DBUS_SESSION_BUS_ADDRESS", list.as_str()), ("XDG_RUNTIME_DIR", "/run")];
        assert_eq!(sockets(&given), [None, file("/tmp/a b%20%"), None, None]);
        assert_eq!(address(&format!("unix:guid={guid},path=/x")).unwrap().guid().unwrap().as_str(), guid);
        let given = [("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=/tmp/x%2C")];
        assert_eq!(sockets(&given), [Some(UnixSocket::Abstract("/tmp/x,".into()))]);
        let Some(name) = addresses(&Environment::default()).pop().map(|(name, _)| name) else {
            panic!("none")
        };
        assert!(name.starts_with("/run/user/"), "{name}");
    }

    #[test]
    fn what_was_tried_is_told() {
        let list = "tcp:host=x,port=1;unix:path=/nonexistent/bus";
        let environment = [("DBUS_SESSION_BUS_ADDRESS", list)].into_iter().collect();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        match Connection::open(&environment, deadline).err() {
            Some(BusError::NoBus(tried)) => {
                assert!(
                    tried.starts_with("tcp:host=x,port=1: not a unix socket; unix:path=/nonexistent/bus: "),
                    "{tried}"
                );
                assert!(tried.ends_with("(os error 2)"), "{tried}");
            }
            other => panic!("{other:?}"),
        }
    }
}
