//! Asking the kernel which sockets have a local port in a range.
//!
//! [sock_diag(7)](https://man7.org/linux/man-pages/man7/sock_diag.7.html), for any user, about the
//! caller's own network namespace. TCP sockets that are bound and neither listen nor connect are
//! shown since Linux 6.8; older kernels leave them out.
#![expect(unsafe_code, reason = "a netlink socket: socket, send and recv")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::occupant::SocketInfo;
use crate::ports::{PortRange, Protocol};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_HEADER: usize = 16;
/// Every TCP state, and the bit for "bound, nothing else" (13) that 6.8 added.
const ALL_STATES: u32 = u32::MAX;
/// `INET_DIAG_REQ_BYTECODE`, and the two of its operations that compare the local port.
const REQUEST_BYTECODE: u16 = 1;
const LOCAL_PORT_AT_LEAST: u8 = 2;
const LOCAL_PORT_AT_MOST: u8 = 3;

/// All sockets of `protocol` with a local port in `range`, of both families.
pub(crate) fn sockets(protocol: Protocol, range: PortRange) -> io::Result<Vec<SocketInfo>> {
    // SAFETY: plain numbers go in, a new descriptor or -1 comes out.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
    };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    let netlink = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(&netlink, &request(family, protocol, range), &mut found)?;
    }
    found.retain(|socket| range.contains(socket.port));
    Ok(found)
}

/// One `struct nlmsghdr`, one `struct inet_diag_req_v2`, and a program of two comparisons.
fn request(family: i32, protocol: Protocol, range: PortRange) -> Vec<u8> {
    let protocol = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let small = |number: i32| u8::try_from(number).expect("families and protocols fit a byte");
    let mut body = vec![small(family), small(protocol), 0, 0];
    body.extend(ALL_STATES.to_ne_bytes());
    body.extend([0; 48]); // the socket identity, which a dump does not look at

    // Each comparison is two operations: the test with its jumps, and its number. A jump of 8 goes
    // to the next comparison; one past the end of the program refuses the socket.
    let mut program: Vec<u8> = Vec::new();
    for (code, port, refuse) in
        [(LOCAL_PORT_AT_LEAST, range.start(), 20_u16), (LOCAL_PORT_AT_MOST, range.last(), 12)]
    {
        program.extend([code, 8]);
        program.extend(refuse.to_ne_bytes());
        program.extend([0, 0]);
        program.extend(port.to_ne_bytes());
    }
    let attribute = u16::try_from(4 + program.len()).expect("a short program");
    body.extend(attribute.to_ne_bytes());
    body.extend(REQUEST_BYTECODE.to_ne_bytes());
    body.extend(program);

    let length = u32::try_from(NLMSG_HEADER + body.len()).expect("a short message");
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).expect("two flags");
    let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence and port number: there is one request at a time
    message.extend(body);
    message
}

fn dump(netlink: &OwnedFd, request: &[u8], found: &mut Vec<SocketInfo>) -> io::Result<()> {
    // SAFETY: the kernel reads `request`, whose length goes with it.
    let sent = unsafe {
        libc::send(netlink.as_raw_fd(), request.as_ptr().cast(), request.len(), libc::MSG_NOSIGNAL)
    };
    if sent == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
        let received =
            unsafe { libc::recv(netlink.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(received) = usize::try_from(received) else {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            }
        };
        if read_messages(&buffer[..received], found)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one datagram; true when the last of the dump was among them.
fn read_messages(mut bytes: &[u8], found: &mut Vec<SocketInfo>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed sock_diag answer");
    while !bytes.is_empty() {
        let length = number(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = i32::from(half(bytes, 4).ok_or_else(malformed)?);
        let message = bytes.get(..length).filter(|m| m.len() >= NLMSG_HEADER);
        let body = &message.ok_or_else(malformed)?[NLMSG_HEADER..];
        match kind {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let errno = number(body, 0).ok_or_else(malformed)?.cast_signed();
                return Err(io::Error::from_raw_os_error(-errno));
            }
            _ => found.push(read_socket(body).ok_or_else(malformed)?),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// One `struct inet_diag_msg`: the state at byte 1, the local port (big-endian) at byte 4, the
/// user at byte 64, the inode at byte 68.
fn read_socket(body: &[u8]) -> Option<SocketInfo> {
    Some(SocketInfo {
        port: u16::from_be_bytes(body.get(4..6)?.try_into().ok()?),
        state: *body.get(1)?,
        inode: number(body, 68)?.into(),
        uid: number(body, 64)?,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_shows_our_sockets_and_no_others() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let datagrams = std::net::UdpSocket::bind(("::1", 0)).unwrap();
        for (protocol, port) in [
            (Protocol::Tcp, listener.local_addr().unwrap().port()),
            (Protocol::Udp, datagrams.local_addr().unwrap().port()),
        ] {
            let range = PortRange::new(port, 1).unwrap();
            let found = sockets(protocol, range).unwrap();
            assert_eq!(found.iter().filter(|s| s.is_live()).count(), 1, "{found:?}");
            assert!(found.iter().all(|socket| socket.port == port));
        }
    }

    #[test]
    fn half_a_message_is_an_error_not_a_panic() {
        let whole = {
            let mut message = request(libc::AF_INET, Protocol::Tcp, PortRange::between(1, 2));
            message.truncate(NLMSG_HEADER + 40);
            message
        };
        for length in 1..whole.len() {
            let _ = read_messages(&whole[..length], &mut Vec::new()).unwrap_err();
        }
    }
}
