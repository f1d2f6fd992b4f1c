//! Which process holds a socket, from `/proc`. Elsewhere than on Linux nobody is known.
//!
//! Reads only; a process that goes away in between is simply not found.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: u8 = 0x0A;

#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

/// "PID (name)" of a process, or just the number.
pub(crate) fn name(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

/// Whether the process exists, zombies included. Always `true` where there is no `/proc`.
pub(crate) fn exists(pid: u32) -> bool {
    !cfg!(target_os = "linux") || fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// The process that listens on `address`, as text for an error.
pub(crate) fn listener_holder(address: SocketAddr) -> String {
    let matches = |row: &Row| {
        let ip = row.local.ip();
        row.state == LISTEN
            && row.local.port() == address.port()
            && (ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified())
    };
    let owner =
        rows().into_iter().find(matches).and_then(|row| processes().find(|pid| holds(*pid, row.inode)));
    owner.map_or_else(|| "another process".to_owned(), name)
}

/// Whether a process for which `is_tool` holds has the other end of a TCP connection on this machine. A socket that
/// cannot be found (closed already, so that its request cannot be told from a tool's) counts as a tool's.
pub(crate) fn tool_holds(peer: SocketAddr, own: SocketAddr, is_tool: impl Fn(u32) -> bool) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let (peer, own) = (canonical(peer), canonical(own));
    let row = rows().into_iter().find(|row| row.local == peer && row.remote == own);
    match row {
        Some(row) if row.inode != 0 => processes().any(|pid| is_tool(pid) && holds(pid, row.inode)),
        _ => true,
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

fn holds(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == wanted.as_str())
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = fs::read_to_string(table) {
            rows.extend(text.lines().skip(1).filter_map(parse_row));
        }
    }
    rows
}

/// Columns: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode.
fn parse_row(line: &str) -> Option<Row> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let local = parse_address(columns.next()?)?;
    let remote = parse_address(columns.next()?)?;
    let state = u8::from_str_radix(columns.next()?, 16).ok()?;
    let inode = columns.nth(5)?.parse().ok()?;
    Some(Row { local, remote, state, inode })
}

/// The kernel prints each 32-bit word of the address in the machine's byte order.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn rows_of_the_kernel_are_read() {
        let line = "   1: 0100007F:1E25 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000 \
                    0 4711 1 0000000000000000 20 4 30 10 -1";
        let row = Row {
            local: "127.0.0.1:7717".parse().unwrap(),
            remote: "127.0.0.1:40000".parse().unwrap(),
            state: 1,
            inode: 4711,
        };
        assert_eq!(parse_row(line), Some(row));
        let six = "00000000000000000000000001000000:0050";
        assert_eq!(parse_address(six), Some("[::1]:80".parse().unwrap()));
        let mapped = "0000000000000000FFFF00000100007F:0050";
        assert_eq!(parse_address(mapped), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(parse_row("  sl  local_address rem_address   st"), None);
        assert_eq!(parse_address("é100007F:0050"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_holder_of_a_socket_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let peer = client.local_addr().unwrap();
        let this = std::process::id();
        assert!(listener_holder(own).contains(&this.to_string()));
        assert!(tool_holds(peer, own, |pid| pid == this));
        assert!(!tool_holds(peer, own, |_| false));
        drop(client);
        assert!(tool_holds(peer, own, |_| false), "a socket without an owner is not trusted");
    }
}
