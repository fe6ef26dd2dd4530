//! A client's head as its bytes come, and how far its body reaches: what two readers could take for two requests.

use super::{
    check::{self, CONF_KEY},
    input::{Input, pieces},
};
use crate::head::{Extent, Framing, Limits, check as check_head, end};

/// A head and what comes behind it: what passes is what a plain reading finds, wherever it is cut.
pub fn raw_head(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cuts = input.byte();
    let raw = input.rest();
    let (mut seen, mut found) = (0_usize, None);
    for piece in pieces(cuts, raw) {
        let come = seen.saturating_add(piece.len());
        found = end(raw.get(..come).unwrap_or_default(), seen);
        if found.is_some() {
            break;
        }
        seen = come;
    }
    let whole = end(raw, 0);
    let checked = [whole, found].map(|end| {
        let head = raw.get(..end?).unwrap_or_default();
        Some(check_head(head, LIMITS))
    });
    match checked {
        [Some(Ok(framing)), other] => {
            assert_eq!((other, found), (Some(Ok(framing)), whole));
            let (head, behind) = raw.split_at(whole.unwrap_or_default());
            is_framed(head, framing);
            reaches_as_far(framing, behind, cuts);
        }
        [Some(Err(refusal)), other] => {
            assert!(!matches!(other, Some(Ok(_))), "{}", check::show(raw));
            check::error(&refusal.error(), CONF_KEY);
        }
        [None, other] => assert_eq!(other, None),
    }
}

/// A second reading of a head that was let through, line by line.
fn is_framed(head: &[u8], framing: Framing) {
    let told = check::show(head);
    let text = |byte: u8| byte >= b' ' && byte != 0x7f || byte == b'\t';
    let lines = head.split(|&byte| byte == b'\n');
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()).skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or_default();
        assert!(line.iter().copied().all(text), "{told}");
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match &*name.to_ascii_lowercase() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    assert!(hosts <= 1, "{told}");
    match framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings == [b"chunked"], "{told}");
        }
        Framing::Length(length) => {
            assert!(lengths.len() <= 1 && codings.is_empty(), "{told}");
            let said = lengths.first().map_or(&b"0"[..], |said| said);
            let said = str::from_utf8(said).ok().and_then(|said| said.parse().ok());
            assert_eq!(said, Some(length), "{told}");
        }
        Framing::Websocket => assert!(codings.is_empty(), "{told}"),
    }
}

/// A body ends at the same byte wherever it is cut.
fn reaches_as_far(framing: Framing, body: &[u8], cuts: u8) {
    let mut whole = Extent::from(framing);
    let own = whole.take(body);
    let (mut extent, mut taken) = (Extent::from(framing), 0_usize);
    for piece in pieces(cuts, body) {
        let here = extent.take(piece);
        taken = taken.saturating_add(here);
        if here < piece.len() || extent.is_over() {
            break;
        }
    }
    assert_eq!((taken, extent), (own, whole));
}

pub(super) const LIMITS: Limits = Limits {
    bytes: 2048,
    fields: 16,
};
