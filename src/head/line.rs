//! The request line, and the host that a request names. RFC 9112, section 3; RFC 9110, section 4.2.

use core::net::Ipv6Addr;

use super::Refusal;

/// A request line, each part of it checked.
#[derive(Debug)]
pub struct RequestLine<'h> {
    pub method: &'h [u8],
    /// Of a target in absolute form.
    pub authority: Option<&'h [u8]>,
    /// HTTP/1.0, whose clients need not name a host.
    pub is_old: bool,
}

impl<'h> RequestLine<'h> {
    pub fn read(line: &'h [u8]) -> Result<Self, Refusal> {
        let (rest, is_old) = match line.strip_suffix(b" HTTP/1.1") {
            Some(rest) => (rest, false),
            None => match line.strip_suffix(b" HTTP/1.0") {
                Some(rest) => (rest, true),
                None if names_version(line) => return Err(VERSION),
                None => return Err(NO_LINE),
            },
        };
        let space = rest.iter().position(|byte| *byte == b' ');
        let (method, target) = space
            .and_then(|space| rest.split_at_checked(space))
            .ok_or(NO_LINE)?;
        check_method(method)?;
        let authority = read_target(target.strip_prefix(b" ").unwrap_or_default())?;
        Ok(Self {
            method,
            authority,
            is_old,
        })
    }

    /// Whether a request of this method says something by its body.
    pub fn has_body(&self) -> bool {
        matches!(self.method, b"POST" | b"PUT" | b"PATCH")
    }
}

/// Whether a line ends in a version that is not ours.
fn names_version(line: &[u8]) -> bool {
    let version = line.rsplit(|byte| *byte == b' ').next();
    let digits = version.and_then(|version| version.strip_prefix(b"HTTP/"));
    matches!(digits, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Methods are upper case, all that are registered; one that is not might be read as if it were. What a TRACE is answered with
/// is its request, with the key in it; a CONNECT asks for a tunnel.
pub fn check_method(method: &[u8]) -> Result<(), Refusal> {
    let is_letter = |byte: &u8| super::fields::is_token(*byte) && !byte.is_ascii_lowercase();
    match method {
        b"TRACE" | b"CONNECT" => Err(UNSERVED),
        [] => Err(METHOD),
        _ if method.len() > MAX_METHOD || !method.iter().all(is_letter) => Err(METHOD),
        _ => Ok(()),
    }
}

/// Checks a target, and gives the authority that it holds. `*` asks of the server itself and would mean another one behind.
fn read_target(target: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    if target.first() == Some(&b'/') {
        return check_path(target).map(|()| None);
    }
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let rest = scheme.and_then(|scheme| target.get(scheme.len()..));
    let rest = rest.ok_or(TARGET)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let cut = rest.split_at_checked(end.unwrap_or(rest.len()));
    let (authority, path) = cut.ok_or(TARGET)?;
    if authority.is_empty() || !is_host(authority) {
        return Err(BAD_HOST);
    }
    check_path(path).map(|()| Some(authority))
}

/// Checks a path and its query. What browsers leave bare in a query stays; in a path it could be a separator to somebody. So
/// could the end of a line or of a text, however it is spelled; a query may hold lines.
pub fn check_path(target: &[u8]) -> Result<(), Refusal> {
    let is_sound = |sound: bool, byte: &u8| {
        sound & (*byte > b' ') & (*byte != 0x7f) & !matches!(*byte, b'#' | b'"' | b'<' | b'>')
    };
    if !target.iter().fold(true, is_sound) {
        return Err(TARGET);
    }
    let end = target.iter().position(|byte| *byte == b'?');
    let path = target.get(..end.unwrap_or(target.len()));
    let path = path.unwrap_or_default();
    let hides = |three: &[u8]| matches!(three, [b'%', b'0', b'0' | b'a' | b'A' | b'd' | b'D']);
    match path.iter().any(|byte| matches!(byte, b'\\' | b'`')) || path.windows(3).any(hides) {
        true => Err(TARGET),
        false => Ok(()),
    }
}

/// Whether it is a name or an address, with or without a port, and nothing else. RFC 3986, section 3.2.2, without what no name
/// on the web has.
pub fn is_host(host: &[u8]) -> bool {
    if let Some(rest) = host.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']');
        let cut = end.and_then(|end| rest.split_at_checked(end));
        let Some((address, port)) = cut else {
            return false;
        };
        let address = core::str::from_utf8(address).ok();
        let is_address = address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
        return is_address && is_port(port.strip_prefix(b"]").unwrap_or_default());
    }
    let end = host.iter().position(|byte| *byte == b':');
    let cut = host.split_at_checked(end.unwrap_or(host.len()));
    let (name, port) = cut.unwrap_or_default();
    let is_letter =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    (1..=MAX_NAME).contains(&name.len()) && name.iter().all(is_letter) && is_port(port)
}

/// Nothing, or a colon and a port, which may be left out behind it.
fn is_port(port: &[u8]) -> bool {
    let Some(digits) = port.strip_prefix(b":") else {
        return port.is_empty();
    };
    let add = |sum: u32, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    };
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, add) <= u32::from(u16::MAX)
}

/// The longest registered method has 17 letters.
const MAX_METHOD: usize = 32;
/// RFC 1035, section 2.3.4.
const MAX_NAME: usize = 255;
const NO_LINE: Refusal =
    Refusal::line("The request does not begin with a method, a target and HTTP/1.1.");
const VERSION: Refusal =
    Refusal::line("HTTP/1.1, HTTP/1.0 and HTTP/2 are spoken here.").with_status(505);
const METHOD: Refusal = Refusal::line("The request's method is none.");
const UNSERVED: Refusal =
    Refusal::line("The methods TRACE and CONNECT are not served.").with_status(405);
pub(super) const TARGET: Refusal =
    Refusal::line("The request's target is no path and no http URL.");
pub const BAD_HOST: Refusal =
    Refusal::field("host", "The request's host is no name and no address.");
