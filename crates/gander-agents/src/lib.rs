//! ACP agents as model back ends.
