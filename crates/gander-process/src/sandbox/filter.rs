//! The filter of system calls: a list of what is refused, since tools may be any program.
//!
//! Two programs are installed, because one has only one answer. `EPERM` is for what must not be done. `ENOSYS` is for
//! what every program can do without and what a filter cannot look into: `clone3` hides its flags behind a pointer
//! (libc falls back to `clone`), `io_uring` makes calls that no filter sees. Calls of another architecture (32-bit
//! programs) end the process; calls of the x32 kind of x86_64 are treated like their 64-bit namesakes.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Calls that bypass a filter or hide from it.
const ABSENT: [libc::c_long; 2] = [libc::SYS_clone3, libc::SYS_io_uring_setup];

/// Calls that are refused whatever their arguments are.
const REFUSED: [libc::c_long; 41] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files without a path.
    libc::SYS_open_by_handle_at,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
];
/// New calls have the same number everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [libc::c_long; 3] = [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [libc::c_long; 0] = [];

/// Marks the x32 kind of a call.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// The x32 kinds that have numbers of their own: ptrace, process_vm_readv, process_vm_writev, kexec_load.
#[cfg(target_arch = "x86_64")]
const X32_REFUSED: [i64; 4] = [521, 539, 540, 528];
#[cfg(target_arch = "x86_64")]
const X32_IOCTL: i64 = 514;

/// New namespaces of any kind. The lowest of them means something else to `clone`.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
const NEW_TIME_NAMESPACE: u64 = 0x80;
/// Types a character into a terminal; does so and more in a console.
const TERMINAL_INPUT: [u64; 2] = [0x5412, 0x541c];
/// The part of a socket's type that is no flag.
const SOCKET_KIND: u64 = 0xf;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether this kind of processor is known.
pub(super) fn is_supported() -> bool {
    TargetArch::try_from(std::env::consts::ARCH).is_ok()
}

/// Restricts the calling thread.
pub(super) fn apply(network: bool) -> Result<(), String> {
    for program in programs(network).map_err(|error| error.to_string())? {
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The program that says `EPERM` and the one that says `ENOSYS`.
fn programs(network: bool) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let absent = ABSENT.iter().map(|number| (*number, Vec::new())).collect();
    Ok([compile(refused(network)?, libc::EPERM)?, compile(absent, libc::ENOSYS)?])
}

fn compile(mut rules: Rules, errno: libc::c_int) -> Result<BpfProgram, seccompiler::BackendError> {
    add_x32(&mut rules);
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

#[cfg(target_arch = "x86_64")]
fn add_x32(rules: &mut Rules) {
    let twins: Vec<_> = rules.iter().map(|(number, rules)| (number | X32, rules.clone())).collect();
    if let Some(ioctl) = rules.get(&libc::SYS_ioctl).cloned() {
        rules.insert(X32_IOCTL | X32, ioctl);
        rules.extend(X32_REFUSED.map(|number| (number | X32, Vec::new())));
    }
    rules.extend(twins);
}

#[cfg(not(target_arch = "x86_64"))]
fn add_x32(_rules: &mut Rules) {}

fn refused(network: bool) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().chain(&REFUSED_HERE).map(|number| (*number, Vec::new())).collect();
    let namespaces = || NAMESPACES.iter().map(|flag| u64::from(flag.unsigned_abs()));
    let flag = |flag| rule(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag);
    rules.insert(libc::SYS_clone, namespaces().map(flag).collect::<Result<_, _>>()?);
    let unshare = namespaces().chain([NEW_TIME_NAMESPACE]).map(flag).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_unshare, unshare);
    let input = |command| rule(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command);
    rules.insert(libc::SYS_ioctl, TERMINAL_INPUT.into_iter().map(input).collect::<Result<_, _>>()?);
    if !network {
        rules.insert(libc::SYS_socket, Vec::new());
        rules.insert(libc::SYS_connect, Vec::new());
        rules.insert(libc::SYS_socketpair, unconnected_pairs()?);
    }
    Ok(rules)
}

/// Pairs that could still send to a name: of another family, or of a kind that has no connection. A raw Unix socket is
/// a datagram socket.
fn unconnected_pairs() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let mut rules = vec![rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix)?];
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
        let kind = u64::from(kind.unsigned_abs());
        rules.push(rule(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(SOCKET_KIND), kind)?);
    }
    Ok(rules)
}

fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

#[cfg(test)]
mod tests;
