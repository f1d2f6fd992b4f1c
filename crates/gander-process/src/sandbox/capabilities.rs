//! Taking the capabilities of a privileged user away, since some of them reach around the other barriers: with
//! `CAP_PERFMON` or `CAP_SYS_ADMIN` the memory and the variables of every process can be read, whatever Landlock says.
//! For an ordinary user nothing changes.

use rustix::{
    io::Errno,
    process::geteuid,
    thread::{
        CapabilitySet, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

/// What root needs to handle files and users as usual.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Restricts what the calling thread starts to [`KEPT`].
pub(super) fn reduce() -> Result<(), String> {
    reduce_sets().map_err(|error| format!("capabilities cannot be dropped: {error}"))
}

fn reduce_sets() -> Result<(), Errno> {
    let root = geteuid().is_root();
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !KEPT.contains(capability) => match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Only root gets back, by executing a program, what it has in this set.
                Err(Errno::PERM) if !root => break,
                Err(error) => return Err(error),
            },
            Ok(_) => {}
            // The kernel has no more of them.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    let mut sets = capabilities(None)?;
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets)
}
