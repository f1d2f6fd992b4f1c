//! Recipes: files of the user's directories, what a request names, and what a session gets from one.
//!
//! Templates and checks are `gander-formats`' business, as pure functions; this module reads the files. All functions
//! here block for short file operations and run beside the async tasks.

mod command;
mod files;
mod library;
mod resolve;
mod session;

use std::{collections::BTreeMap, path::PathBuf};

use gander_domain::Timestamp;
use gander_formats::recipe::Recipe;

pub(crate) use self::{
    library::RecipeLibrary,
    resolve::{Resolved, fill_document},
};
pub(crate) use files::{id_of_file, write_whole};
pub(crate) use session::{Given, apply, apply_to_turn, keep_pieces, parsed};

/// Where a recipe comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipeOrigin {
    /// The document itself.
    Json(String),
    /// A stored recipe's id.
    Stored(String),
    /// A link or its payload.
    Link(String),
    /// Absolute path of a file.
    File(String),
}

/// A recipe with values of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeRequest {
    pub origin: RecipeOrigin,
    pub values: BTreeMap<String, String>,
    /// Whether required values may come later.
    pub allow_missing_values: bool,
}

/// A recipe in one of the user's directories.
#[derive(Debug, Clone)]
pub struct StoredRecipe {
    /// 16 hex digits made from the path: as long as the file stays where it is.
    pub recipe_id: String,
    pub recipe: Recipe,
    pub file_path: PathBuf,
    pub modify_time: Timestamp,
    /// When a schedule made from it runs.
    pub schedule_cron: Option<String>,
    /// Text command that runs it, without the slash.
    pub command_name: Option<String>,
}

/// A file that cannot be read as a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecipe {
    pub file_path: PathBuf,
    /// Where in the document. May be empty.
    pub field: String,
    pub message: String,
}
