//! Environment variables that an extension may not set.

use gander_domain::extension::ExtensionConfig;

/// Goose's list: variables that decide which code a child process loads, or where the system lies.
pub const DISALLOWED_ENV_KEYS: &[&str] = &[
    "PATH",
    "PATHEXT",
    "SystemRoot",
    "windir",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_DEBUG",
    "LD_BIND_NOW",
    "LD_ASSUME_KERNEL",
    "DYLD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
    "DYLD_FRAMEWORK_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "NODE_OPTIONS",
    "RUBYOPT",
    "GEM_PATH",
    "GEM_HOME",
    "CLASSPATH",
    "GO111MODULE",
    "GOROOT",
    "APPINIT_DLLS",
    "SESSIONNAME",
    "ComSpec",
    "TEMP",
    "TMP",
    "LOCALAPPDATA",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
];

/// Whether an extension may not set this variable, whatever its case.
pub fn is_disallowed_env_key(key: &str) -> bool {
    let key = key.trim().to_ascii_uppercase();
    // All that the dynamic loader reads, not only what Goose lists of it.
    let of_loader = ["LD_", "DYLD_"].iter().any(|family| key.starts_with(family));
    of_loader || DISALLOWED_ENV_KEYS.iter().any(|listed| listed.eq_ignore_ascii_case(&key))
}

/// The disallowed names in `envs` and `env_keys`, as spelled there, each once.
pub fn disallowed_env_keys(config: &ExtensionConfig) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for key in config.env.keys().chain(&config.env_keys) {
        if is_disallowed_env_key(key) && !found.contains(key) {
            found.push(key.clone());
        }
    }
    found
}

/// Removes the disallowed names, and returns them for the warning that is due.
pub fn drop_disallowed_env(config: &mut ExtensionConfig) -> Vec<String> {
    let found = disallowed_env_keys(config);
    config.env.retain(|key, _| !is_disallowed_env_key(key));
    config.env_keys.retain(|key| !is_disallowed_env_key(key));
    found
}
