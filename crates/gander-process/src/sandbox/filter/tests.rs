//! The programs are run here by a small interpreter, so that each rule is tested on any kernel, as any user, without
//! making the call.

use super::*;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCH: u32 = 0xc000_00f3;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

/// Runs one program on `struct seccomp_data`; only what the compiler emits is known.
fn interpret(program: &BpfProgram, arch: u32, number: i64, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| -> u32 {
        let argument = |index: u32, high: bool| {
            let value = arguments[index as usize];
            u32::try_from(if high { value >> 32 } else { value & 0xffff_ffff }).expect("half of it")
        };
        match offset {
            0 => u32::try_from(number).expect("a call"),
            4 => arch,
            _ => argument((offset - 16) / 8, (offset - 16) % 8 == 4),
        }
    };
    let (mut at, mut value) = (0_usize, 0_u32);
    loop {
        let step = &program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            0x20 => value = word(step.k),
            0x54 => value &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += branch(value == step.k),
            0x25 => at += branch(value > step.k),
            0x35 => at += branch(value >= step.k),
            0x06 => return step.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

/// What the kernel answers: the strictest of all programs (the smallest number as signed, as the kernel compares).
fn answer(network: bool, arch: u32, number: i64, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let programs = programs(network).expect("programs");
    let answers = programs.iter().map(|program| interpret(program, arch, number, all));
    answers.min_by_key(|answer| answer.cast_signed()).expect("two programs")
}

fn errno(number: libc::c_int) -> u32 {
    ERRNO | number.unsigned_abs()
}

fn call(network: bool, number: i64, arguments: &[u64]) -> u32 {
    answer(network, ARCH, number, arguments)
}

#[test]
fn ordinary_calls_pass_and_dangerous_ones_do_not() {
    for network in [false, true] {
        for number in
            [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_exit_group, libc::SYS_kill]
        {
            assert_eq!(call(network, number, &[]), ALLOW, "{number}");
        }
        for number in
            [libc::SYS_ptrace, libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_setns, 467]
        {
            assert_eq!(call(network, number, &[]), errno(libc::EPERM), "{number}");
        }
        for number in [libc::SYS_clone3, libc::SYS_io_uring_setup] {
            assert_eq!(call(network, number, &[]), errno(libc::ENOSYS), "{number}");
        }
    }
}

#[test]
fn threads_and_processes_may_be_made_but_no_namespaces() {
    let process = 0x0120_0000 | 17; // CHILD_CLEARTID, CHILD_SETTID, SIGCHLD
    let thread = 0x003d_0f00;
    for flags in [process, thread, 0x4111] {
        assert_eq!(call(false, libc::SYS_clone, &[flags]), ALLOW, "{flags:#x}");
    }
    assert_eq!(call(false, libc::SYS_unshare, &[0x400]), ALLOW, "CLONE_FILES");
    for flag in NAMESPACES.iter().map(|flag| u64::from(flag.unsigned_abs())) {
        assert_eq!(call(false, libc::SYS_clone, &[flag | process]), errno(libc::EPERM), "{flag:#x}");
        assert_eq!(call(false, libc::SYS_unshare, &[flag | 0x400]), errno(libc::EPERM), "{flag:#x}");
    }
    assert_eq!(call(false, libc::SYS_unshare, &[0x80]), errno(libc::EPERM), "a time namespace");
}

#[test]
fn terminals_can_be_used_but_not_typed_into() {
    let get_attributes = 0x5401;
    assert_eq!(call(true, libc::SYS_ioctl, &[0, get_attributes]), ALLOW);
    for command in [0x5412, 0x541c, 0xffff_ffff_0000_5412] {
        assert_eq!(call(true, libc::SYS_ioctl, &[0, command]), errno(libc::EPERM), "{command:#x}");
    }
}

#[test]
fn without_network_only_connected_unix_pairs_are_left() {
    let refused = errno(libc::EPERM);
    // Unix, IPv4, IPv6, netlink, packet, TIPC, vsock.
    for family in [1, 2, 10, 16, 17, 30, 40] {
        assert_eq!(call(false, libc::SYS_socket, &[family, 1]), refused, "{family}");
        assert_eq!(call(true, libc::SYS_socket, &[family, 1]), ALLOW, "{family}");
    }
    assert_eq!(call(false, libc::SYS_connect, &[3]), refused);
    assert_eq!(call(true, libc::SYS_connect, &[3]), ALLOW);
    let close_on_exec = 0o2_000_000_u64;
    let pair = |family, kind: u64| call(false, libc::SYS_socketpair, &[family, kind | close_on_exec]);
    assert_eq!((pair(1, 1), pair(1, 5)), (ALLOW, ALLOW), "streams and sequenced packets");
    assert_eq!((pair(1, 2), pair(1, 3)), (refused, refused), "datagrams, and raw, which is the same");
    assert_eq!(pair(30, 1), refused, "another family");
    assert_eq!(call(false, libc::SYS_socketpair, &[0xffff_ffff_0000_0001, 1]), ALLOW, "the family is an int");
    assert_eq!(call(true, libc::SYS_socketpair, &[1, 2]), ALLOW);
}

#[test]
fn other_architectures_end_the_process() {
    assert_eq!(answer(true, 0x4000_0003, libc::SYS_read, &[]), KILL, "i386");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_x32_kinds_are_refused_like_their_namesakes() {
    let refused = errno(libc::EPERM);
    assert_eq!(call(false, libc::SYS_socket | X32, &[2]), refused);
    assert_eq!(call(false, libc::SYS_unshare | X32, &[0x1000_0000]), refused);
    assert_eq!(call(false, 521 | X32, &[]), refused, "ptrace");
    assert_eq!(call(false, 514 | X32, &[0, 0x5412]), refused, "ioctl");
    assert_eq!(call(false, libc::SYS_clone3 | X32, &[]), errno(libc::ENOSYS));
    assert_eq!(call(false, libc::SYS_read | X32, &[]), ALLOW);
}
