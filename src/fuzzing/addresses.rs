//! Where calls go: no value of a client's leads anywhere but where it is meant to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use super::{
    check::{self, CONF_KEY},
    conf::{self, KEYED},
    input::Input,
};
use crate::{
    completion::tell_native,
    config::host::custom_base,
    depth::{MAX_DEPTH, is_too_deep},
    pattern,
    provider::{Base, Place, Reach, Slot, Target, base::Scheme, place::Grammar, target::Choice},
};

/// A base URL of a client's: what was read is what another parser reads, and its host is one that the conf allows.
pub fn base(bytes: &[u8]) {
    let Ok(url) = str::from_utf8(bytes) else {
        return;
    };
    let read = Base::try_new(url, "url");
    match &read {
        Ok(base) => reads_the_same(base),
        Err(error) => check::error(error, CONF_KEY),
    }
    match custom_base(url, &conf::state().config.allowed_hosts) {
        Ok(base) => {
            assert_eq!(
                read.map(|read| read.within(base.reach.clone()))
                    .ok()
                    .as_ref(),
                Some(&base)
            );
            let own = base.host.as_str();
            let allowed = own == "api.client.example"
                || own.ends_with(".models.example")
                || (own, base.port) == ("127.0.0.1", 9000);
            assert!(allowed, "{base}");
            assert_ne!(base.reach, Reach::All, "{base}");
        }
        Err(error) => check::error(&error, CONF_KEY),
    }
}

/// The address of a provider whose URL has variables, with values of a client's.
pub fn place(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let rows: Vec<_> = conf::state().config.providers.values().collect();
    let Some(provider) = input.pick(&rows) else {
        return;
    };
    let Ok(text) = str::from_utf8(input.rest()) else {
        return;
    };
    let (model, values) = text.split_once('\n').unwrap_or((text, ""));
    let value = |slot: &Slot| {
        let mut slots = provider.place.slots();
        let at = slots.position(|own| own.name == slot.name);
        let value = values.split('\n').nth(at.unwrap_or_default());
        Ok(value.filter(|value| !value.is_empty()).map(str::to_owned))
    };
    match provider.locate(model, &value) {
        Ok(filled) => {
            reads_the_same(&filled.base);
            assert!(
                is_the_vendors(provider.place, &filled.base.host)
                    || KEYED.contains(&&*filled.base.host),
                "{}",
                filled.base
            );
            let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(
                plain(&filled.query) && !filled.query.contains(['#', '?']),
                "{}",
                filled.query
            );
        }
        Err(error) => check::error(&error, CONF_KEY),
    }
    if let Err(error) = provider.place_headers(&value) {
        check::error(&error, CONF_KEY);
    }
}

/// Whether `host` ends as one of the place's templates does, or as the whole URLs that it takes do.
fn is_the_vendors(place: &Place, host: &str) -> bool {
    let templates = match place {
        Place::With(templates) => *templates,
        Place::At(url) => return url.contains(host),
        Place::Own(_) | Place::Retired(_) => return false,
    };
    let ends = templates.iter().map(|template| {
        let host = template.url.split("//").nth(1).unwrap_or_default();
        let host = host.split('/').next().unwrap_or_default();
        host.rsplit('}').next().unwrap_or_default()
    });
    let urls = place.slots().filter_map(|slot| match slot.grammar {
        Grammar::Url(hosts) | Grammar::Origin(hosts) => Some(hosts),
        Grammar::Label | Grammar::Name | Grammar::Text | Grammar::Unused(_) => None,
    });
    let mut ends = ends
        .filter(|end| end.contains('.'))
        .chain(urls.flatten().copied());
    ends.any(|end| host.ends_with(end))
}

/// An address that an answer names: it stays with the vendor.
pub fn follow(bytes: &[u8]) {
    let Ok(url) = str::from_utf8(bytes) else {
        return;
    };
    let hosts = &["api.replicate.com", "stream.replicate.com"];
    let Some(provider) = conf::state().config.providers.get("replicate") else {
        return;
    };
    let choice = Choice {
        custom: None,
        credential: None,
        held: None,
        model: "m",
        option: &|_| Ok(None),
    };
    let Ok(target) = Target::try_new(provider.clone(), choice) else {
        return;
    };
    match target.followed(url, hosts) {
        Ok((there, query)) => {
            reads_the_same(&there.base);
            assert!(hosts.contains(&&*there.base.host), "{}", there.base);
            assert_eq!((there.base.scheme, there.base.port), (Scheme::Https, 443));
            assert!(
                query
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'#')
            );
        }
        Err(error) => check::error(&error, CONF_KEY),
    }
}

/// Written down and read by another parser it is the same address.
fn reads_the_same(base: &Base) {
    let written = base.to_string();
    let uri: Result<Uri, _> = written.parse();
    assert!(uri.is_ok(), "{written:?}");
    let uri = uri.unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    assert_eq!(host, base.host, "{written:?}");
    assert_eq!(uri.path().trim_end_matches('/'), base.path, "{written:?}");
    assert_eq!(
        uri.port_u16().unwrap_or(base.scheme.default_port()),
        base.port,
        "{written:?}"
    );
    assert!(
        uri.query().is_none() && !written.contains(['@', '\\', '#']),
        "{written:?}"
    );
    assert!(
        !base.path.split('/').any(|part| part == ".."),
        "{written:?}"
    );
    let again = Base::try_new(&written, "url").map(|again| again.within(base.reach.clone()));
    assert_eq!(again.ok().as_ref(), Some(base), "{written:?}");
}

/// Addresses that clients may lead to: an IPv4 address is the same in each of its IPv6 forms.
pub fn reach(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut octets = [0; 16];
    octets.fill_with(|| input.byte());
    let six = Ipv6Addr::from(octets);
    let public = |address: IpAddr| Reach::Public.admits(address);
    let [a, b, c, d, ..] = octets;
    let four = Ipv4Addr::new(a, b, c, d);
    let forms = [
        four.to_ipv6_mapped(),
        Ipv6Addr::new(
            0x64,
            0xff9b,
            0,
            0,
            0,
            0,
            u16::from_be_bytes([a, b]),
            u16::from_be_bytes([c, d]),
        ),
        Ipv6Addr::new(
            0x2002,
            u16::from_be_bytes([a, b]),
            u16::from_be_bytes([c, d]),
            0,
            0,
            0,
            0,
            1,
        ),
    ];
    for form in forms {
        assert!(
            public(four.into()) || !public(form.into()),
            "{four} as {form}"
        );
    }
    let inner = four.is_private()
        || four.is_loopback()
        || four.is_link_local()
        || four.is_unspecified()
        || four.is_broadcast()
        || four.is_multicast()
        || four.is_documentation();
    assert!(!inner || !public(four.into()), "{four}");
    let inner = six.is_loopback()
        || six.is_unspecified()
        || six.is_multicast()
        || six.is_unique_local()
        || six.is_unicast_link_local();
    assert!(!inner || !public(six.into()), "{six}");
    for reach in [Reach::Public, Reach::Trusted] {
        assert!(
            !reach.admits(Ipv4Addr::new(169, 254, c, d).into())
                || reach == Reach::Trusted && [c, d] != [169, 254]
        );
    }
}

/// The depth of JSON, and the scan that tells a native reason once more.
pub fn json(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<&serde_json::value::RawValue>(bytes) else {
        is_too_deep(bytes);
        return;
    };
    let text = value.get().as_bytes();
    assert_eq!(is_too_deep(text), check::deepest(text) > MAX_DEPTH);
    let mut told = Vec::new();
    tell_native(text, &mut told);
    assert!(
        serde_json::from_slice::<serde::de::IgnoredAny>(&told).is_ok(),
        "{}",
        check::show(&told)
    );
    assert!(told.len() <= text.len() * 3 + 64);
}

/// Names with stars, against a reader that tries every way.
pub fn stars(bytes: &[u8]) {
    let short = bytes.get(..24).unwrap_or(bytes);
    let Ok(text) = str::from_utf8(short) else {
        return;
    };
    let (pattern, text) = text.split_once('\n').unwrap_or((text, ""));
    assert_eq!(
        pattern::matches(pattern, text),
        matches(pattern.as_bytes(), text.as_bytes()),
        "{pattern:?} {text:?}"
    );
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => matches(rest, text),
        (Some((b'*', rest)), Some((_, behind))) => matches(rest, text) || matches(pattern, behind),
        (Some((one, rest)), Some((other, behind))) => one == other && matches(rest, behind),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
