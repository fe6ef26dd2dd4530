//! Where a connection may go. `Upstream::peer` is the one place that makes a peer, whoever carries the call, and asks here
//! first. The peer then holds the very address that was checked: no name is looked up again on the way to the socket, so
//! that a second answer of its DNS changes nothing. Certificate and `Host` stay the name's. A pooled connection belongs to
//! its address, which Pingora makes a part of the pool's key and compares with the socket's own.

use std::net::SocketAddr;

use crate::{error::Error, provider::Base};

/// Refuses an address that the host of `base` may not have: see [`crate::provider::Reach`].
pub fn check(base: &Base, address: SocketAddr) -> Result<(), Error> {
    if base.reach.admits(address.ip()) {
        return Ok(());
    }
    // Which address it is would tell a client what stands behind the gateway.
    let message = "Invalid custom host: its address is not one that the gateway's conf trusts.";
    Err(Error::invalid("x-portkey-custom-host", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Reach;

    #[test]
    fn a_name_that_leads_inside_is_refused_without_its_address() {
        let base = Base::try_new("https://rebind.example/v1", "x").unwrap();
        let inside: SocketAddr = "10.1.2.3:443".parse().unwrap();
        assert!(check(&base, inside).is_ok(), "the conf's own");
        let base = base.within(Reach::Public);
        let error = check(&base, inside).unwrap_err();
        assert_eq!(error.status(), 400);
        assert!(!error.message().contains("10.1"), "{}", error.message());
        // As its DNS changes its mind, each call is judged by the address that it would go to.
        for turn in 0..1000 {
            let address = match turn % 2 {
                0 => "8.8.8.8:443",
                _ => "127.0.0.1:443",
            };
            let checked = check(&base, address.parse().unwrap());
            assert_eq!(checked.is_ok(), turn % 2 == 0);
        }
    }
}
