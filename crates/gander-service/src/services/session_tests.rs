//! Requests of SessionService → engine.

use super::*;
