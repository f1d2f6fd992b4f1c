//! Goose's document formats ⇄ gander's domain model.
//!
//! Pure: no IO, no async, no clock, no environment. Documents arrive as [`serde_json::Value`] whatever their file
//! format was, so that YAML, JSON and REST bodies share one reader. What a document says and this build does not
//! know is kept and written back. Errors name the field, what was found, what was expected, and the remedy; they
//! never quote values, which may be secrets.
//!
//! With the feature `api` also Goose's documents ⇄ messages of the API, for the adapters and the importer.

pub mod error;
pub mod extension;
pub mod form;
#[cfg(feature = "api")]
pub mod goose_session;
pub mod recipe;
pub mod schedule;
pub mod session;

pub use error::FormatError;
