//! Tries one thing that a sandbox may refuse and prints `ok` or the error's number, for the tests:
//! `probe tcp ADDRESS`, `probe unix PATH`, `probe abstract NAME`, `probe stream-pair`, `probe datagram-pair`.

use std::{
    io::{self, Write as _},
    net::TcpStream,
    os::unix::net::{UnixDatagram, UnixStream},
};

#[cfg(target_os = "linux")]
fn connect_abstract(name: &str) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_name: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (what, target) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let result = match what.as_str() {
        "tcp" => TcpStream::connect(target).map(drop),
        "unix" => UnixStream::connect(target).map(drop),
        "abstract" => connect_abstract(&target),
        "stream-pair" => UnixStream::pair().map(drop),
        "datagram-pair" => UnixDatagram::pair().map(drop),
        _ => return Err(io::Error::other("probe tcp|unix|abstract|stream-pair|datagram-pair [TARGET]")),
    };
    let answer = match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |number| number.to_string()),
    };
    writeln!(io::stdout(), "{answer}")
}
