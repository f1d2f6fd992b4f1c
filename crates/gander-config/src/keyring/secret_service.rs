//! The keyring of a Linux desktop: GNOME Keyring, KWallet, KeePassXC and others behind `org.freedesktop.secrets`.
//!
//! Items are found by the attributes `service` and `username`, which is how programs of other languages keep theirs.
//! Nothing here asks a person: what is locked and cannot be unlocked without a question is an error. Secrets cross the
//! user's own bus as they are; whoever can read that could ask the service as well.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use serde::Serialize;
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant, Variant, wire::DynamicDeserialize};

use super::{
    Entry, KeyringError,
    bus::{BusError, Connection, Method},
};
use crate::{environment::Environment, secrets::Secret};

const SERVICE: &str = "org.freedesktop.secrets";
const SERVICE_PATH: &str = "/org/freedesktop/secrets";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";
const ITEM: &str = "org.freedesktop.Secret.Item";
/// The path that stands for "none".
const NONE: &str = "/";

/// A secret as it is sent: the session, parameters, which a plain session has none of, the value, its type.
type Sent<'a> = (&'a OwnedObjectPath, &'a [u8], &'a [u8], &'a str);
/// A secret as it comes.
type Received = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

type Result<T> = std::result::Result<T, KeyringError>;

impl From<BusError> for KeyringError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::NoBus(tried) => Self::NoBus { tried },
            BusError::Timeout => Self::Timeout,
            BusError::Failed(message) => Self::Failed { message },
            BusError::Refused { name, message } => match name.as_str() {
                "org.freedesktop.Secret.Error.IsLocked" => Self::Locked,
                "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                    Self::NoService
                }
                name if name.starts_with("org.freedesktop.DBus.Error.Spawn.") => Self::NoService,
                "org.freedesktop.DBus.Error.NoReply"
                | "org.freedesktop.DBus.Error.Timeout"
                | "org.freedesktop.DBus.Error.TimedOut" => Self::Timeout,
                _ => Self::Failed { message: format!("{name}: {message}") },
            },
        }
    }
}

/// A session with the service.
pub(super) struct Vault {
    bus: Connection,
    session: OwnedObjectPath,
}

impl Vault {
    pub(super) fn open(environment: &Environment, deadline: Instant) -> Result<Self> {
        let bus = Connection::open(environment, deadline)?;
        let mut vault = Self { bus, session: OwnedObjectPath::default() };
        let plain = ("plain", Variant::from(""));
        let (_, session): (OwnedVariant, OwnedObjectPath) = vault.service("OpenSession", &plain)?;
        vault.session = session;
        Ok(vault)
    }

    fn call<T>(
        &self,
        path: &str,
        (interface, member): (&str, &str),
        body: &(impl Serialize + DynamicType),
    ) -> Result<T>
    where
        T: for<'b> DynamicDeserialize<'b>,
    {
        let method = Method { destination: SERVICE, path, interface, member };
        Ok(self.bus.call(&method, body)?)
    }

    fn service<T>(&self, member: &str, body: &(impl Serialize + DynamicType)) -> Result<T>
    where
        T: for<'b> DynamicDeserialize<'b>,
    {
        self.call(SERVICE_PATH, ("org.freedesktop.Secret.Service", member), body)
    }

    /// Unlocks what can be without asking anybody.
    fn unlock(&self, path: &OwnedObjectPath) -> Result<()> {
        // What is not unlocked at once waits for a question that nobody is asked.
        let (unlocked, _question): (Vec<OwnedObjectPath>, OwnedObjectPath) =
            self.service("Unlock", &(vec![path],))?;
        if unlocked.contains(path) { Ok(()) } else { Err(KeyringError::Locked) }
    }

    /// The default collection, unlocked, and whether it was unlocked just now; nothing when there is none.
    fn collection(&self) -> Result<Option<(OwnedObjectPath, bool)>> {
        let path: OwnedObjectPath = self.service("ReadAlias", &("default",))?;
        if path.as_str() == NONE {
            return Ok(None);
        }
        let get = ("org.freedesktop.DBus.Properties", "Get");
        let locked: OwnedVariant = self.call(&path, get, &(COLLECTION, "Locked"))?;
        // One that does not tell is unlocked, which does nothing to one that is.
        let was_locked = !matches!(*locked, Variant::Bool(false));
        if was_locked {
            self.unlock(&path)?;
        }
        Ok(Some((path, was_locked)))
    }

    /// The item of an entry, unlocked.
    fn find(&self, entry: Entry) -> Result<Option<OwnedObjectPath>> {
        if let Some(path) = self.search(entry)? {
            return Ok(Some(path));
        }
        // A service that hides what is locked must not look like an empty one.
        match self.collection()? {
            Some((_, true)) => self.search(entry),
            _ => Ok(None),
        }
    }

    fn search(&self, entry: Entry) -> Result<Option<OwnedObjectPath>> {
        let attributes = BTreeMap::from([("service", entry.service), ("username", entry.user)]);
        let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            self.service("SearchItems", &(attributes,))?;
        // The same one every time, should there be several.
        let first = |paths: Vec<OwnedObjectPath>| paths.into_iter().min_by(|a, b| a.as_str().cmp(b.as_str()));
        if let Some(path) = first(unlocked) {
            return Ok(Some(path));
        }
        match first(locked) {
            Some(path) => self.unlock(&path).map(|()| Some(path)),
            None => Ok(None),
        }
    }

    pub(super) fn read(&mut self, entry: Entry) -> Result<Option<Secret>> {
        let Some(path) = self.find(entry)? else { return Ok(None) };
        let secrets: HashMap<OwnedObjectPath, Received> =
            self.service("GetSecrets", &(vec![&path], &self.session))?;
        let Some((_, _, value, _)) = secrets.into_values().next() else { return Err(KeyringError::Locked) };
        match String::from_utf8(value) {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(_) => Err(KeyringError::Malformed { entry: entry.service }),
        }
    }

    fn sent<'a>(&'a self, value: &'a Secret) -> Sent<'a> {
        (&self.session, &[], value.expose().as_bytes(), "text/plain")
    }

    pub(super) fn write(&mut self, entry: Entry, value: &Secret) -> Result<()> {
        if let Some(path) = self.find(entry)? {
            return self.call(&path, (ITEM, "SetSecret"), &(self.sent(value),));
        }
        let (collection, _) = self.collection()?.ok_or(KeyringError::NoCollection)?;
        let attributes = BTreeMap::from([
            ("service", entry.service),
            ("username", entry.user),
            ("target", "default"),
            ("application", "gander"),
        ]);
        let label = format!("{} ({})", entry.service, entry.user);
        let properties = BTreeMap::from([
            ("org.freedesktop.Secret.Item.Label", Variant::from(label)),
            ("org.freedesktop.Secret.Item.Attributes", Variant::from(attributes)),
        ]);
        let body = (properties, self.sent(value), true);
        let (item, _question): (OwnedObjectPath, OwnedObjectPath) =
            self.call(&collection, (COLLECTION, "CreateItem"), &body)?;
        // Without an item there is a question for a person.
        if item.as_str() == NONE { Err(KeyringError::Locked) } else { Ok(()) }
    }

    pub(super) fn delete(&mut self, entry: Entry) -> Result<()> {
        let Some(path) = self.find(entry)? else { return Ok(()) };
        let question: OwnedObjectPath = self.call(&path, (ITEM, "Delete"), &())?;
        if question.as_str() == NONE { Ok(()) } else { Err(KeyringError::Locked) }
    }
}
