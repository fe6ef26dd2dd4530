//! A request's head, looked at byte by byte before anything is done with it.
//!
//! What two readers could understand differently is refused here, so that nothing behind sees it: whoever reads a request
//! otherwise than the one before it can be made to take a part of its body for the next request. RFC 9112 says what a head
//! is; where it lets a server be lenient, this one is not. No IO, no allocation, one pass.
//!
//! HTTP/2 has its own framing, so that of [`check`] only what a field says is left for [`check_fields`].

mod extent;
mod fields;
mod frames;
mod line;

use std::{borrow::Cow, sync::LazyLock};

use http::{HeaderMap, HeaderName, StatusCode, header};
use memchr::{memchr, memchr_iter, memmem::Finder};

pub use extent::Extent;
use fields::Fields;
pub use fields::UPGRADE;
pub use frames::Frames;
use line::RequestLine;

use crate::error::{Error, Kind};

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all its bytes.
    pub bytes: usize,
    /// How many fields it may have.
    pub fields: usize,
}

/// How far a request reaches behind its head. RFC 9112, section 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; none, if the head says nothing of a body.
    Length(u64),
    Chunked,
    /// It asks for a websocket: what follows is no HTTP if it gets one.
    Websocket,
}

/// Why a head is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// The field at fault.
    pub param: Option<Cow<'static, str>>,
    pub message: &'static str,
}

impl Refusal {
    const fn line(message: &'static str) -> Self {
        Self {
            status: 400,
            param: None,
            message,
        }
    }

    const fn field(param: &'static str, message: &'static str) -> Self {
        Self {
            status: 400,
            param: Some(Cow::Borrowed(param)),
            message,
        }
    }

    const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Of a field whose name is the client's to say.
    fn named(name: &[u8], message: &'static str) -> Self {
        let name = name.get(..MAX_NAME).unwrap_or(name).to_ascii_lowercase();
        Self {
            param: String::from_utf8(name).ok().map(Cow::Owned),
            ..Self::line(message)
        }
    }

    /// What its client is told.
    pub fn error(self) -> Error {
        let kind = match StatusCode::from_u16(self.status) {
            Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => Kind::HeadTooLarge,
            Ok(status) if status != StatusCode::BAD_REQUEST => Kind::Unserved(status),
            _ => Kind::Invalid,
        };
        let error = Error::new(kind, self.message);
        match self.param {
            Some(param) => error.with_param(param),
            None => error,
        }
    }
}

/// Where a head ends that begins with `bytes`: behind its first empty line. `seen`: how many of the bytes were looked at before
/// in vain.
pub fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(EMPTY_LINE.len());
    let rest = bytes.get(from..)?;
    let sound = EMPTY
        .find(rest)
        .map(|at| at.saturating_add(EMPTY_LINE.len()));
    // Other ends of lines are refused, but not waited for.
    let end = sound.or_else(|| lenient_end(rest))?;
    Some(from.saturating_add(end))
}

fn lenient_end(bytes: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', bytes).find_map(|at| {
        let behind = at.saturating_add(1);
        let length = match bytes.get(behind..)? {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return None,
        };
        Some(behind.saturating_add(length))
    })
}

/// Checks a head of HTTP/1 from its request line to its empty line.
pub fn check(raw: &[u8], limits: Limits) -> Result<Framing, Refusal> {
    if raw.len() > limits.bytes {
        return Err(TOO_LARGE);
    }
    let returns = count_returns(raw)?;
    let (first, mut rest) = cut_line(raw)?;
    let line = RequestLine::read(first)?;
    let mut fields = Fields::new(limits.fields);
    let mut lines: usize = 2;
    loop {
        let (field, behind) = cut_line(rest)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = fields::split(field)?;
        fields.add(name, value)?;
        lines = lines.saturating_add(1);
        rest = behind;
    }
    match returns == lines {
        true => fields.framing(&line),
        false => Err(CONTROL),
    }
}

/// Checks a head of HTTP/2, whose parser has settled the rest. `target`: its path and query.
pub fn check_fields(
    method: &str,
    target: &str,
    authority: Option<&str>,
    headers: &HeaderMap,
    limits: Limits,
) -> Result<(), Refusal> {
    let mut bytes = method.len().saturating_add(target.len());
    line::check_method(method.as_bytes())?;
    line::check_path(target.as_bytes())?;
    if authority.is_some_and(|authority| !line::is_host(authority.as_bytes())) {
        return Err(line::BAD_HOST);
    }
    let mut fields = Fields::new(limits.fields);
    for (name, value) in headers {
        bytes = bytes.saturating_add(name.as_str().len().saturating_add(value.len()));
        fields.add(name.as_str().as_bytes(), value.as_bytes())?;
    }
    match bytes > limits.bytes {
        true => Err(TOO_LARGE),
        false => Ok(()),
    }
}

/// How many carriage returns there are. All else that is no text may not be in a head at all, but for tabs. Written so that it
/// is done for many bytes at a time.
fn count_returns(raw: &[u8]) -> Result<usize, Refusal> {
    let (mut returns, mut sound) = (0_usize, true);
    for block in raw.chunks(128) {
        let mut here = 0_u8;
        let mut wrong = 0_u8;
        for &byte in block {
            here = here.wrapping_add(u8::from(byte == b'\r'));
            let spaces = (byte == b'\t') | (byte == b'\n') | (byte == b'\r');
            wrong |= u8::from((byte < b' ') & !spaces) | u8::from(byte == 0x7f);
        }
        returns = returns.saturating_add(usize::from(here));
        sound &= wrong == 0;
    }
    match sound {
        true => Ok(returns),
        false => Err(CONTROL),
    }
}

/// The fields that a message's `connection` declares to be for the next hop alone. What frames the message is no such field,
/// whatever it says. RFC 9110, section 7.6.1.
pub fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let is_word = |name: &HeaderName| matches!(name.as_str(), "close" | "keep-alive" | "upgrade");
    let frames =
        |name: &HeaderName| [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
    names
        .filter(|name| !is_word(name) && !frames(name))
        .collect()
}

/// The line in front, and what is behind its end.
fn cut_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let cut = memchr(b'\n', bytes).and_then(|at| bytes.split_at_checked(at));
    let (line, end) = cut.ok_or(LINE_END)?;
    let line = line.strip_suffix(b"\r").ok_or(LINE_END)?;
    Ok((line, end.strip_prefix(b"\n").unwrap_or_default()))
}

const EMPTY_LINE: &[u8] = b"\r\n\r\n";
static EMPTY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(EMPTY_LINE));
/// Of a field's name, as an error repeats it.
const MAX_NAME: usize = 64;
const CONTROL: Refusal = Refusal::line("The request's head has control characters in it.");
const LINE_END: Refusal = Refusal::line("A line of the request's head does not end in CR LF.");
pub const TOO_LARGE: Refusal =
    Refusal::line("The request's head is larger than it may be.").with_status(431);

#[cfg(test)]
#[path = "../../tests/fixtures/heads.rs"]
mod heads;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 64 << 10,
        fields: 100,
    };

    fn status(raw: &[u8]) -> u16 {
        match check(raw, LIMITS) {
            Ok(_) => 0,
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn heads_are_taken_or_refused_as_the_table_says() {
        let all = heads::all();
        assert!(all.len() >= 120, "{}", all.len());
        let wrong: Vec<_> = all
            .iter()
            .filter(|head| status(&head.raw) != head.status)
            .map(|head| (head.name, head.status, status(&head.raw)))
            .collect();
        assert_eq!(wrong, []);
    }

    /// The heads of the table that are short enough to be cut at every byte.
    fn short() -> impl Iterator<Item = heads::Head> {
        heads::all().into_iter().filter(|head| head.raw.len() < 500)
    }

    #[test]
    fn a_head_ends_where_it_ends_however_it_arrives() {
        for head in short() {
            let with_more = [&head.raw[..], b"GET /smuggled HTTP/1.1\r\n\r\n"].concat();
            if !head.raw.ends_with(EMPTY_LINE) {
                // It is not taken, wherever it ends.
                let ends = [end(&head.raw, 0), end(&with_more, 0)];
                assert!(
                    ends.iter()
                        .all(|end| check(&with_more[..end.unwrap()], LIMITS).is_err())
                );
                continue;
            }
            let whole = head.raw.len();
            for cut in 0..whole {
                assert_eq!(end(&with_more[..cut], 0), None, "{} {cut}", head.name);
                assert_eq!(end(&with_more, cut), Some(whole), "{} {cut}", head.name);
            }
        }
    }

    #[test]
    fn no_cut_of_a_head_panics_or_passes() {
        for head in short() {
            for cut in 0..head.raw.len() {
                assert!(check(&head.raw[..cut], LIMITS).is_err(), "{}", head.name);
            }
        }
    }

    #[test]
    fn the_body_of_a_head_is_what_its_fields_say() {
        let framing = |fields: &str| {
            let raw = format!("POST / HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
            check(raw.as_bytes(), LIMITS).unwrap()
        };
        assert_eq!(framing(""), Framing::Length(0));
        assert_eq!(framing("Content-Length:5\r\n"), Framing::Length(5));
        assert_eq!(framing("transfer-encoding: Chunked \r\n"), Framing::Chunked);
        let websocket = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: WebSocket\r\n\r\n";
        assert_eq!(check(websocket, LIMITS), Ok(Framing::Websocket));
    }

    #[test]
    fn limits_are_those_of_the_conf() {
        let limits = Limits {
            bytes: 40,
            fields: 2,
        };
        let check = |raw: &[u8]| check(raw, limits).map_err(|refusal| refusal.status);
        assert!(check(b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n\r\n").is_ok());
        assert_eq!(
            check(b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\nc:d\r\n\r\n"),
            Err(431)
        );
        let long = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(30));
        assert_eq!(check(long.as_bytes()), Err(431));
    }

    #[test]
    fn a_head_of_http2_is_held_to_the_same() {
        let check = |method: &str, target: &str, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            let checked = check_fields(method, target, Some("gateway:80"), &headers, LIMITS);
            checked.map_err(|refusal| refusal.status)
        };
        assert_eq!(
            check(
                "GET",
                "/a?b",
                &[("x-own", "1"), ("cookie", "a"), ("cookie", "b")]
            ),
            Ok(())
        );
        assert_eq!(check("POST", "/a\\b", &[]), Err(400));
        assert_eq!(check("TRACE", "/", &[]), Err(405));
        assert_eq!(check("GET", "/", &[("content_length", "1")]), Err(400));
        assert_eq!(
            check(
                "GET",
                "/",
                &[("authorization", "a"), ("authorization", "a")]
            ),
            Err(400)
        );
        assert_eq!(check("GET", "/", &[("content-length", "1, 1")]), Err(400));
        let many = vec![("x", "y"); 101];
        assert_eq!(check("GET", "/", &many), Err(431));
        let authority = check_fields("GET", "/", Some("a@b"), &HeaderMap::new(), LIMITS);
        assert_eq!(authority.unwrap_err().status, 400);
    }

    #[test]
    fn a_connection_field_names_what_ends_here_but_never_the_framing() {
        let mut headers = HeaderMap::new();
        for value in [
            "keep-alive, X-Hop",
            "close,x-b ,, not a name, Content-Length, transfer-encoding",
        ] {
            headers.append(header::CONNECTION, value.parse().unwrap());
        }
        assert_eq!(nominated(&headers), ["x-hop", "x-b"]);
    }

    /// Prints what one check takes; `cargo test --release --lib head_takes -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn how_long_a_usual_head_takes() {
        let raw = heads::usual();
        let rounds = 1_000_000_u32;
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            let raw = std::hint::black_box(&raw[..]);
            assert_eq!(end(raw, 0), Some(raw.len()));
            std::hint::black_box(check(raw, LIMITS)).unwrap();
        }
        let each = started.elapsed() / rounds;
        println!("{} bytes: {each:?}", raw.len());
    }
}
