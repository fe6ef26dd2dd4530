//! What kind of place an IP address is, and which addresses a host may turn out to have.
//!
//! A client that chooses a host chooses where the gateway opens a connection, from inside of the operator's network. So what
//! counts is not the host's text but the address it leads to: only the public internet, unless the conf trusts more. The
//! tables are IANA's registries of special addresses:
//! <https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses that a host may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// All: the conf names the host.
    #[default]
    All,
    /// Those of the public internet: a client named it.
    Public,
    /// Those, and what the conf trusts this host with.
    Also(Arc<[IpNet]>),
    /// All but the metadata services of clouds, which hand out a machine's own keys.
    Trusted,
}

impl Reach {
    pub fn admits(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Public => class(address) == Class::Public,
            Self::Also(nets) => match class(address) {
                Class::Public => true,
                // A network that happens to hold one was not meant to hand out keys: it has to be named by itself.
                Class::Metadata => nets.iter().any(|net| *net == IpNet::from(address)),
                _ => nets.iter().any(|net| net.contains(&plain(address))),
            },
            Self::Trusted => class(address) != Class::Metadata,
        }
    }
}

/// What kind of place an address is. All but [`Class::Public`] are closed to hosts that a client chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Public,
    /// `0.0.0.0/8`, `::`: this host, on many systems.
    Unspecified,
    Loopback,
    Private,
    /// Between a provider's NAT and its customers.
    Shared,
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    Multicast,
    Broadcast,
    Documentation,
    Benchmarking,
    /// An IPv4 address inside of an IPv6 one, by a way that has been given up: nobody's server is there.
    Tunnel,
    /// For protocols' own use, or for nothing yet.
    Reserved,
}

pub fn class(address: IpAddr) -> Class {
    match plain(address) {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

/// The address that a packet to `address` goes to: IPv4 in IPv6 clothes is IPv4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let inner = v6.to_ipv4_mapped();
    inner.or_else(|| translated(v6)).map_or(address, IpAddr::V4)
}

/// RFC 6052: what a NAT64 turns into an IPv4 address.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = address.octets();
    NAT64.contains(&address).then(|| Ipv4Addr::new(a, b, c, d))
}

fn class_v4(address: Ipv4Addr) -> Class {
    if METADATA_V4.contains(&address) {
        return Class::Metadata;
    }
    let special = SPECIAL_V4.iter().find(|(net, _)| net.contains(&address));
    special.map_or(Class::Public, |(_, class)| *class)
}

/// Of IPv6, `2000::/3` alone is given out: what stands outside of it is public by no registry.
fn class_v6(address: Ipv6Addr) -> Class {
    if METADATA_V6.contains(&address) {
        return Class::Metadata;
    }
    // ISATAP's mark of an IPv4 address, in any network.
    let [.., mark, _, _] = address.segments();
    let [_, _, _, _, first, ..] = address.segments();
    if mark == ISATAP && matches!(first, 0 | 0x0200) {
        return Class::Tunnel;
    }
    let special = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address));
    match special {
        Some((_, class)) => *class,
        None if GIVEN_OUT.contains(&address) => Class::Public,
        None => Class::Reserved,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(head: [u16; 4], tail: u16, bits: u8) -> Ipv6Net {
    let [a, b, c, d] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, tail), bits)
}

/// The first that holds counts.
const SPECIAL_V4: &[(Ipv4Net, Class)] = &[
    (v4(0, 0, 0, 0, 8), Class::Unspecified),
    (v4(10, 0, 0, 0, 8), Class::Private),
    (v4(100, 64, 0, 0, 10), Class::Shared),
    (v4(127, 0, 0, 0, 8), Class::Loopback),
    (v4(169, 254, 0, 0, 16), Class::LinkLocal),
    (v4(172, 16, 0, 0, 12), Class::Private),
    (v4(192, 0, 0, 0, 24), Class::Reserved),
    (v4(192, 0, 2, 0, 24), Class::Documentation),
    // 6to4's relays, given up by RFC 7526.
    (v4(192, 88, 99, 0, 24), Class::Tunnel),
    (v4(192, 168, 0, 0, 16), Class::Private),
    (v4(198, 18, 0, 0, 15), Class::Benchmarking),
    (v4(198, 51, 100, 0, 24), Class::Documentation),
    (v4(203, 0, 113, 0, 24), Class::Documentation),
    (v4(224, 0, 0, 0, 4), Class::Multicast),
    (v4(255, 255, 255, 255, 32), Class::Broadcast),
    (v4(240, 0, 0, 0, 4), Class::Reserved),
];

/// AWS, Google, Azure and most others; ECS and EKS; Azure's host, in public space; Alibaba; Oracle's old one.
const METADATA_V4: &[Ipv4Addr] = &[
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// AWS and EKS; Google.
const METADATA_V6: &[Ipv6Addr] = &[
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// The first that holds counts.
const SPECIAL_V6: &[(Ipv6Net, Class)] = &[
    (v6([0; 4], 0, 128), Class::Unspecified),
    (v6([0; 4], 1, 128), Class::Loopback),
    // IPv4-compatible addresses, given up by RFC 4291.
    (v6([0; 4], 0, 96), Class::Tunnel),
    // NAT64 prefixes of one network's own, RFC 8215.
    (v6([0x64, 0xff9b, 1, 0], 0, 48), Class::Private),
    (v6([0x2001, 0, 0, 0], 0, 32), Class::Tunnel),
    (v6([0x2001, 2, 0, 0], 0, 48), Class::Benchmarking),
    (v6([0x2001, 0, 0, 0], 0, 23), Class::Reserved),
    (v6([0x2001, 0xdb8, 0, 0], 0, 32), Class::Documentation),
    (v6([0x3fff, 0, 0, 0], 0, 20), Class::Documentation),
    // 6to4.
    (v6([0x2002, 0, 0, 0], 0, 16), Class::Tunnel),
    (v6([0xfc00, 0, 0, 0], 0, 7), Class::Private),
    (v6([0xfe80, 0, 0, 0], 0, 10), Class::LinkLocal),
    // Site-local addresses, given up by RFC 3879.
    (v6([0xfec0, 0, 0, 0], 0, 10), Class::Private),
    (v6([0xff00, 0, 0, 0], 0, 8), Class::Multicast),
];

const GIVEN_OUT: Ipv6Net = v6([0x2000, 0, 0, 0], 0, 3);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0], 0, 96);
const ISATAP: u16 = 0x5efe;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_is_told_from_the_public_ones() {
        for (text, expected) in TABLE {
            assert_eq!(class(text.parse().unwrap()), *expected, "{text}");
        }
        assert!(TABLE.len() >= 60, "{}", TABLE.len());
    }

    #[test]
    fn a_clients_host_is_held_to_public_addresses_and_what_the_conf_adds() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let also = |nets: &[&str]| Reach::Also(nets.iter().map(|text| net(text)).collect());
        for (reach, address, admitted) in [
            (Reach::All, "169.254.169.254", true),
            (Reach::Public, "8.8.8.8", true),
            (Reach::Public, "10.0.0.1", false),
            (Reach::Public, "127.0.0.1", false),
            (also(&["10.0.0.0/8"]), "10.1.2.3", true),
            (also(&["10.0.0.0/8"]), "8.8.8.8", true),
            (also(&["10.0.0.0/8"]), "192.168.0.1", false),
            (also(&["10.0.0.0/8"]), "::ffff:10.1.2.3", true),
            (also(&["::1/128"]), "::1", true),
            (also(&["169.254.0.0/16"]), "169.254.1.1", true),
            (also(&["169.254.0.0/16"]), "169.254.169.254", false),
            (also(&["169.254.169.254/32"]), "169.254.169.254", true),
            (
                also(&["10.0.0.0/8", "169.254.169.254/32"]),
                "169.254.169.254",
                true,
            ),
            (also(&["0.0.0.0/0"]), "100.100.100.200", false),
            (Reach::Trusted, "10.0.0.1", true),
            (Reach::Trusted, "::1", true),
            (Reach::Trusted, "169.254.169.254", false),
            (Reach::Trusted, "::ffff:169.254.169.254", false),
            (Reach::Trusted, "64:ff9b::a9fe:a9fe", false),
            (Reach::Trusted, "168.63.129.16", false),
        ] {
            let parsed = address.parse().unwrap();
            assert_eq!(reach.admits(parsed), admitted, "{reach:?} {address}");
        }
    }

    // G8 of docs/faults.md: a network that was one bit too wide or too narrow was missed by nobody.
    #[test]
    fn every_special_network_ends_where_its_registry_says() {
        let class = |text: &str| class(text.parse().unwrap());
        for (before, first, last, after) in BORDERS {
            let (network, outside) = (class(first), [class(before), class(after)]);
            assert_eq!(class(last), network, "{first} to {last}");
            assert!(
                !outside.contains(&network),
                "{before}, {after}: {network:?}"
            );
        }
    }

    /// The address before a network, its first, its last, and the one behind it.
    const BORDERS: &[(&str, &str, &str, &str)] = &[
        ("1.0.0.0", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        (
            "100.63.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "100.128.0.0",
        ),
        (
            "126.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "128.0.0.0",
        ),
        (
            "169.253.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "169.255.0.0",
        ),
        (
            "172.15.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "172.32.0.0",
        ),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
        (
            "192.88.98.255",
            "192.88.99.0",
            "192.88.99.255",
            "192.88.100.0",
        ),
        (
            "192.167.255.255",
            "192.168.0.0",
            "192.168.255.255",
            "192.169.0.0",
        ),
        (
            "198.17.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.20.0.0",
        ),
        (
            "198.51.99.255",
            "198.51.100.0",
            "198.51.100.255",
            "198.51.101.0",
        ),
        (
            "203.0.112.255",
            "203.0.113.0",
            "203.0.113.255",
            "203.0.114.0",
        ),
        (
            "223.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
        ),
        (
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
        ),
        ("::1", "::2", "::ffff:ffff", "::1:0:0"),
        (
            "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b::8.0.0.0",
            "64:ff9b::8.255.255.255",
            "64:ff9b::1:0:0",
        ),
        (
            "64:ff9b:0:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b:2::",
        ),
        (
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2000::",
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001::",
        ),
        (
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001::",
            "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:1::",
        ),
        (
            "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:1::",
            "2001:1:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:2::",
        ),
        (
            "2001:1:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:2::",
            "2001:2:0:ffff:ffff:ffff:ffff:ffff",
            "2001:2:1::",
        ),
        (
            "2001:2:0:ffff:ffff:ffff:ffff:ffff",
            "2001:2:1::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:200::",
        ),
        (
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
        ),
        (
            "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2003::",
        ),
        (
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
        ),
        (
            "4000::",
            "3fff:1000::",
            "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "4000::",
        ),
        (
            "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fc00::",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe00::",
        ),
        (
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe00::",
            "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::",
        ),
        (
            "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fec0::",
        ),
        (
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fec0::",
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "ff00::",
        ),
        (
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "ff00::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "feff::",
        ),
    ];

    const TABLE: &[(&str, Class)] = &[
        ("8.8.8.8", Class::Public),
        ("1.1.1.1", Class::Public),
        ("9.255.255.255", Class::Public),
        ("11.0.0.0", Class::Public),
        ("100.63.255.255", Class::Public),
        ("100.128.0.0", Class::Public),
        ("126.255.255.255", Class::Public),
        ("128.0.0.1", Class::Public),
        ("169.253.255.255", Class::Public),
        ("169.255.0.0", Class::Public),
        ("172.15.255.255", Class::Public),
        ("172.32.0.0", Class::Public),
        ("192.167.255.255", Class::Public),
        ("192.169.0.0", Class::Public),
        ("198.17.255.255", Class::Public),
        ("198.20.0.0", Class::Public),
        ("223.255.255.255", Class::Public),
        ("2606:4700::6810:84e5", Class::Public),
        ("2a00:1450:4001:80e::200e", Class::Public),
        ("2001:4860:4860::8888", Class::Public),
        ("2600::", Class::Public),
        ("3ffe::1", Class::Public),
        ("0.0.0.0", Class::Unspecified),
        ("0.1.2.3", Class::Unspecified),
        ("::", Class::Unspecified),
        ("127.0.0.1", Class::Loopback),
        ("127.255.255.254", Class::Loopback),
        ("::1", Class::Loopback),
        ("::ffff:127.0.0.1", Class::Loopback),
        ("::ffff:7f00:1", Class::Loopback),
        ("64:ff9b::127.0.0.1", Class::Loopback),
        ("10.0.0.0", Class::Private),
        ("10.255.255.255", Class::Private),
        ("172.16.0.1", Class::Private),
        ("172.31.255.255", Class::Private),
        ("192.168.0.1", Class::Private),
        ("192.168.255.255", Class::Private),
        ("::ffff:10.0.0.1", Class::Private),
        ("::ffff:192.168.1.1", Class::Private),
        ("64:ff9b::10.0.0.1", Class::Private),
        ("64:ff9b:1::8.8.8.8", Class::Private),
        ("fc00::1", Class::Private),
        ("fd12:3456:789a::1", Class::Private),
        ("fdff:ffff::1", Class::Private),
        ("fec0::1", Class::Private),
        ("feff::1", Class::Private),
        ("100.64.0.1", Class::Shared),
        ("100.127.255.255", Class::Shared),
        ("169.254.0.1", Class::LinkLocal),
        ("169.254.255.254", Class::LinkLocal),
        ("fe80::1", Class::LinkLocal),
        ("febf::1", Class::LinkLocal),
        ("169.254.169.254", Class::Metadata),
        ("169.254.170.2", Class::Metadata),
        ("169.254.170.23", Class::Metadata),
        ("168.63.129.16", Class::Metadata),
        ("100.100.100.200", Class::Metadata),
        ("192.0.0.192", Class::Metadata),
        ("fd00:ec2::254", Class::Metadata),
        ("fd00:ec2::23", Class::Metadata),
        ("fd20:ce::254", Class::Metadata),
        ("::ffff:169.254.169.254", Class::Metadata),
        ("64:ff9b::a9fe:a9fe", Class::Metadata),
        ("64:ff9b::8.8.8.8", Class::Public),
        ("::ffff:8.8.8.8", Class::Public),
        ("224.0.0.1", Class::Multicast),
        ("239.255.255.250", Class::Multicast),
        ("ff02::1", Class::Multicast),
        ("255.255.255.255", Class::Broadcast),
        ("::ffff:255.255.255.255", Class::Broadcast),
        ("192.0.2.1", Class::Documentation),
        ("198.51.100.7", Class::Documentation),
        ("203.0.113.255", Class::Documentation),
        ("2001:db8::1", Class::Documentation),
        ("3fff:0fff::1", Class::Documentation),
        ("198.18.0.1", Class::Benchmarking),
        ("198.19.255.255", Class::Benchmarking),
        ("2001:2::1", Class::Benchmarking),
        ("192.88.99.1", Class::Tunnel),
        ("::8.8.8.8", Class::Tunnel),
        ("::127.0.0.1", Class::Tunnel),
        ("2001::1", Class::Tunnel),
        ("2001:0:7f00:1::", Class::Tunnel),
        ("2002:7f00:1::", Class::Tunnel),
        ("2002:808:808::1", Class::Tunnel),
        ("2a00::5efe:10.0.0.1", Class::Tunnel),
        ("2a00::200:5efe:8.8.8.8", Class::Tunnel),
        ("192.0.0.1", Class::Reserved),
        ("192.0.0.170", Class::Reserved),
        ("240.0.0.1", Class::Reserved),
        ("255.255.255.254", Class::Reserved),
        ("2001:10::1", Class::Reserved),
        ("2001:20::1", Class::Reserved),
        ("100::1", Class::Reserved),
        ("1::1", Class::Reserved),
        ("4000::1", Class::Reserved),
        ("5f00::1", Class::Reserved),
        ("64:ff9b:2::1", Class::Reserved),
        ("fe00::1", Class::Reserved),
    ];
}
