//! The ports that `run` and `acquire` are asked for.

use portkeep::{Grant, PortRange, PortRequest, Ports, Protocol, Reservation};

#[derive(clap::Args, Debug)]
pub(crate) struct Blocks {
    /// Reserve TCP ports; +1 when PORTS is left out
    #[arg(long, value_name = "PORTS", num_args = 0..=1, default_missing_value = "+1")]
    tcp: Vec<Ports>,

    /// Reserve UDP ports
    #[arg(long, value_name = "PORTS", num_args = 0..=1, default_missing_value = "+1")]
    udp: Vec<Ports>,

    /// Reserve the same numbers for TCP and for UDP
    #[arg(long, value_name = "PORTS", num_args = 0..=1, default_missing_value = "+1")]
    tcp_udp: Vec<Ports>,

    /// Start every block at an even port, as RTP needs it
    #[arg(long)]
    even: bool,

    /// Take the ports of +N from this range, not from the engine's pool
    ///
    /// It should lie outside the ephemeral range; 'portkeep status' shows both.
    #[arg(long, value_name = "RANGE", env = "PORTKEEP_POOL")]
    pool: Option<PortRange>,
}

impl Blocks {
    /// Acquires every block asked for, one TCP port where none was, or nothing at all.
    pub(crate) fn acquire(&self, grant: Grant) -> portkeep::Result<Vec<Reservation>> {
        let one = [Ports::Wildcard(1)];
        let none_asked = [&self.tcp, &self.udp, &self.tcp_udp].iter().all(|ports| ports.is_empty());
        let tcp = if none_asked { &one[..] } else { &self.tcp };

        let ask = |request: PortRequest, ports: &Ports| {
            let request = request.ports(*ports).grant(grant);
            let request = if self.even { request.even() } else { request };
            self.pool.into_iter().fold(request, PortRequest::pool)
        };
        // Specific ports first, so that a wildcard does not take one of them.
        let mut requests: Vec<(PortRequest, Ports, usize)> = Vec::new();
        for (new, ports, sockets) in [
            (portkeep::tcp as fn(u16) -> PortRequest, tcp, 1),
            (portkeep::tcp_udp, &self.tcp_udp, 2),
            (portkeep::udp, &self.udp, 1),
        ] {
            requests.extend(ports.iter().map(|ports| {
                (ask(new(ports.count()), ports), *ports, sockets * usize::from(ports.count()))
            }));
        }
        portkeep::raise_descriptor_limit(requests.iter().map(|(_, _, sockets)| sockets).sum())?;

        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|at| matches!(requests[*at].1, Ports::Wildcard(_)));
        let mut acquired: Vec<(usize, Reservation)> = Vec::with_capacity(order.len());
        for at in order {
            acquired.push((at, requests[at].0.acquire()?));
        }
        acquired.sort_by_key(|(at, _)| *at);
        Ok(acquired.into_iter().map(|(_, reservation)| reservation).collect())
    }
}

/// The ranges reserved for `protocol`, in the order they were asked for.
pub(crate) fn ranges(blocks: &[Reservation], protocol: Protocol) -> Vec<PortRange> {
    let of_protocol = blocks.iter().filter(|block| block.protocols().contains(&protocol));
    of_protocol.map(Reservation::range).collect()
}
