//! Applying a sandbox to the calling thread: capabilities, then Landlock, then the filter of system calls.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, RestrictSelf, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{
    Plan, SandboxSupport, capabilities, filter,
    grants::{Right, grants},
};

/// The newest version that this module was written for; an older kernel restricts what it can.
const KNOWN: ABI = ABI::V9;

/// Listing, which comes with reading too.
const LIST: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadDir});
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadDir | ReadFile | Execute | ResolveUnix});
/// Everything but making devices and controlling them.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadDir | ReadFile | Execute | ResolveUnix | WriteFile | Truncate | Refer | RemoveDir | RemoveFile
    | MakeDir | MakeReg | MakeSym | MakeFifo | MakeSock
});
/// Asking whether it is a terminal is "controlling" already.
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});

pub(super) fn support() -> SandboxSupport {
    // Without a flag to set this only asks.
    let status = RestrictSelf::default().no_new_privs(false).apply().map(|status| status.landlock);
    let landlock_abi = match status {
        Ok(LandlockStatus::Available { effective_abi, .. }) => Some(effective_abi as u32),
        Ok(LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) | Err(_) => None,
    };
    // The line exists since Linux 5.9, which is older than Landlock.
    let kernel =
        std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nSeccomp_filters:"));
    SandboxSupport { landlock_abi, seccomp: kernel && filter::is_supported() }
}

/// See [`super::restrict_thread`].
pub(super) fn restrict_thread(plan: &Plan) -> Result<(), String> {
    capabilities::reduce()?;
    restrict_files(plan)?;
    filter::apply(plan.network)
}

fn restrict_files(plan: &Plan) -> Result<(), String> {
    let failed = |error: landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for grant in grants(plan)? {
        let access = match grant.right {
            Right::List => LIST,
            Right::Read => READ,
            Right::Write => WRITE,
            Right::Device => DEVICE,
        };
        // The path was free of links when the plan was made; a link in it now was put there by somebody else.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(CWD, &grant.path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(place) => ruleset = ruleset.add_rule(PathBeneath::new(place, access)).map_err(failed)?,
            Err(error) if grant.needed => {
                return Err(format!("{} cannot be opened: {error}", grant.path.display()));
            }
            Err(_) => {}
        }
    }
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
        return Err("Landlock was not enforced".to_owned());
    }
    Ok(())
}
