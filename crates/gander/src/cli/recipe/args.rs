//! The command line of recipes and schedules as data.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::cli::args::JsonArg;

/// A recipe and its values, for commands that run one.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct RecipeArgs {
    /// Recipe to run: a file, the name or id of a stored one, or a goose://recipe link
    #[arg(long, value_name = "RECIPE", conflicts_with = "session")]
    pub(in crate::cli) recipe: Option<String>,
    /// Value of one of the recipe's parameters
    #[arg(short = 'p', long = "param", value_name = "KEY=VALUE", requires = "recipe")]
    pub(in crate::cli) params: Vec<String>,
    /// Run the recipe even if it holds hidden characters
    #[arg(long, requires = "recipe")]
    pub(in crate::cli) trust: bool,
}

/// `gander recipe …`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RecipeCommand {
    /// List stored recipes: the user's, and those of this directory
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a recipe as YAML
    Show {
        /// File, name, id or link
        recipe: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Look for mistakes and for hidden characters
    Validate {
        /// File, name, id or link
        recipe: String,
    },
    /// Print a link that holds the whole recipe
    Link {
        /// File, name or id
        recipe: String,
        /// Value of a parameter to put into the link
        #[arg(short = 'p', long = "param", value_name = "KEY=VALUE")]
        params: Vec<String>,
    },
    /// Store a recipe with the user's
    Save {
        /// File or link
        recipe: String,
    },
    /// Remove a stored recipe
    Delete {
        /// Name or id
        recipe: String,
    },
    /// Give a stored recipe a text command, or take it away
    #[command(
        after_help = "Example:\n  gander recipe command triage tri     \"/tri since=monday\" runs it in any session"
    )]
    Command {
        /// Name or id
        recipe: String,
        /// The command, without the slash. Left out: none
        name: Option<String>,
    },
}

/// `gander schedule …`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ScheduleCommand {
    /// List schedules
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Make a schedule; the recipe is copied with its values
    #[command(after_help = "\
Examples:
  gander schedule add \"0 9 * * 1-5\" triage.yaml -p repo=a/b     at nine on weekdays
  gander schedule add --id check \"*/30 * * * * *\" check          six fields: every thirty seconds

Times are local; where day of month and weekday are both restricted, both must match, as in Goose.
What is due while no daemon runs, or while the run before goes on, is skipped.")]
    Add {
        /// When: minute, hour, day, month, weekday; or six fields with seconds first
        cron: String,
        /// Recipe: file, name, id or link
        recipe: String,
        /// Name of the schedule. Default: made up
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Value of one of the recipe's parameters
        #[arg(short = 'p', long = "param", value_name = "KEY=VALUE")]
        params: Vec<String>,
        /// Directory in which its tools work. Default: this one
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        cwd: Option<PathBuf>,
        /// Do not run it before it is resumed
        #[arg(long)]
        paused: bool,
        /// Take the recipe even if it holds hidden characters
        #[arg(long)]
        trust: bool,
    },
    /// Show a schedule and its latest runs
    Show {
        /// The schedule
        id: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change when it is due
    Cron {
        /// The schedule
        id: String,
        /// When, as for `add`
        cron: String,
    },
    /// Let it not run for a while
    Pause {
        /// The schedule
        id: String,
    },
    /// Let it run again
    Resume {
        /// The schedule
        id: String,
    },
    /// Run it now and wait for the end
    Run {
        /// The schedule
        id: String,
    },
    /// Cancel the run in progress
    Cancel {
        /// The schedule
        id: String,
    },
    /// Remove it; its sessions stay
    Delete {
        /// The schedule
        id: String,
    },
}
