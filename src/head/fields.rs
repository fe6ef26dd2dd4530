//! The fields of a head: their names, their values, and what several of them say together. RFC 9110, section 5.

use super::{
    Framing, Refusal,
    line::{BAD_HOST, RequestLine, is_host},
};

/// What was read of a head's fields so far.
#[derive(Debug)]
pub struct Fields<'h> {
    limit: usize,
    count: usize,
    /// Which of [`Single`] there were: a bit for each.
    seen: u32,
    length: Option<u64>,
    host: Option<&'h [u8]>,
    websocket: bool,
    /// The names of the gateway's own.
    own: [&'h [u8]; MAX_OWN],
    own_count: usize,
}

/// A field that a request may have once, because somebody decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Single {
    Host,
    Length,
    Coding,
    ContentType,
    Expect,
    Upgrade,
    Authorization,
    ProxyAuthorization,
    ApiKey,
    XApiKey,
    GoogleApiKey,
}

impl Single {
    /// By the name's length first: few fields are looked at twice.
    fn of(name: &[u8]) -> Option<Self> {
        let one = match name.len() {
            4 => Self::Host,
            6 => Self::Expect,
            7 if name.first().is_some_and(|letter| letter | 0x20 == b'u') => Self::Upgrade,
            7 => Self::ApiKey,
            9 => Self::XApiKey,
            12 => Self::ContentType,
            13 => Self::Authorization,
            14 if name.first().is_some_and(|letter| letter | 0x20 == b'x') => Self::GoogleApiKey,
            14 => Self::Length,
            17 => Self::Coding,
            19 => Self::ProxyAuthorization,
            _ => return None,
        };
        name.eq_ignore_ascii_case(one.name().as_bytes())
            .then_some(one)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Length => "content-length",
            Self::Coding => "transfer-encoding",
            Self::ContentType => "content-type",
            Self::Expect => "expect",
            Self::Upgrade => "upgrade",
            Self::Authorization => "authorization",
            Self::ProxyAuthorization => "proxy-authorization",
            Self::ApiKey => "api-key",
            Self::XApiKey => "x-api-key",
            Self::GoogleApiKey => "x-goog-api-key",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl<'h> Fields<'h> {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            count: 0,
            seen: 0,
            length: None,
            host: None,
            websocket: false,
            own: [b""; MAX_OWN],
            own_count: 0,
        }
    }

    /// Adds a field whose name is a token.
    pub fn add(&mut self, name: &'h [u8], value: &'h [u8]) -> Result<(), Refusal> {
        self.count = self.count.saturating_add(1);
        if self.count > self.limit {
            return Err(TOO_MANY);
        }
        if name.contains(&b'_') && is_disguised(name) {
            return Err(DISGUISED);
        }
        if let Some(single) = Single::of(name) {
            self.add_single(single, value)
        } else if is_own(name) {
            self.add_own(name, value)
        } else {
            Ok(())
        }
    }

    fn add_single(&mut self, single: Single, value: &'h [u8]) -> Result<(), Refusal> {
        let name = single.name();
        if self.seen & single.bit() != 0 {
            return Err(Refusal::field(name, REPEATED));
        }
        self.seen |= single.bit();
        if !value.is_ascii() {
            return Err(Refusal::field(name, NOT_ASCII));
        }
        match single {
            Single::Host if !value.is_empty() && !is_host(value) => return Err(BAD_HOST),
            Single::Host => self.host = Some(value),
            Single::Length => self.length = Some(read_length(value).ok_or(LENGTH)?),
            Single::Coding if !value.eq_ignore_ascii_case(b"chunked") => return Err(CODING),
            Single::Expect if !value.eq_ignore_ascii_case(b"100-continue") => return Err(EXPECT),
            Single::Upgrade => self.websocket = asks_for_websocket(value)?,
            _ => {}
        }
        Ok(())
    }

    fn add_own(&mut self, name: &'h [u8], value: &[u8]) -> Result<(), Refusal> {
        if !value.is_ascii() {
            return Err(Refusal::named(name, NOT_ASCII));
        }
        let before = self.own.iter().take(self.own_count);
        if { before }.any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(Refusal::named(name, REPEATED));
        }
        *self.own.get_mut(self.own_count).ok_or(TOO_MANY)? = name;
        self.own_count = self.own_count.saturating_add(1);
        Ok(())
    }

    const fn has(&self, single: Single) -> bool {
        self.seen & single.bit() != 0
    }

    /// What the fields of a request of HTTP/1 say of its body, if they say the same.
    pub fn framing(&self, line: &RequestLine<'_>) -> Result<Framing, Refusal> {
        match (self.host, line.authority) {
            (None, _) if !line.is_old => return Err(NO_HOST),
            (Some(host), Some(authority)) if host != authority => return Err(OTHER_HOST),
            _ => {}
        }
        let chunked = self.has(Single::Coding);
        if chunked && (self.length.is_some() || line.is_old) {
            return Err(CODING);
        }
        if self.websocket {
            // What comes behind such a head must not be taken for two things.
            let bare = !chunked && self.length.unwrap_or(0) == 0;
            let sound = bare && !line.is_old && line.method == b"GET";
            return if sound {
                Ok(Framing::Websocket)
            } else {
                Err(UPGRADE)
            };
        }
        match self.length {
            _ if chunked => Ok(Framing::Chunked),
            // Its body may be what comes until the connection's end, or the next request.
            None if line.is_old && line.has_body() => Err(NO_LENGTH),
            length => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Splits a field's line, which holds no control characters but tabs. Names are tokens with the colon right behind them. A line
/// that goes on in the next one has no name.
pub fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let end = line.iter().position(|byte| !is_token(*byte));
    let (name, rest) = end.and_then(|end| line.split_at_checked(end)).ok_or(NAME)?;
    let value = rest.strip_prefix(b":").filter(|_| !name.is_empty());
    value.map(|value| (name, trim(value))).ok_or(NAME)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits alone; no list, no sign. RFC 9110, section 8.6.
fn read_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > MAX_DIGITS {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Websockets can be had, of some upstreams. An offer of HTTP/2 need not be taken, and some clients make it with every
/// request. RFC 9110, section 7.8.
fn asks_for_websocket(value: &[u8]) -> Result<bool, Refusal> {
    match value {
        _ if value.eq_ignore_ascii_case(b"websocket") => Ok(true),
        _ if value.eq_ignore_ascii_case(b"h2c") => Ok(false),
        _ => Err(UPGRADE),
    }
}

/// Whether a name is the gateway's own, which says how a request is served.
fn is_own(name: &[u8]) -> bool {
    let prefix: &[u8] = match name {
        [b'x' | b'X', b'-', b'p' | b'P', ..] => PORTKEY,
        [b'x' | b'X', b'-', b'c' | b'C', ..] => COMPLETIONS,
        _ => return false,
    };
    let start = name.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether a name becomes that of a field which decides something once its `_` is read as `-`, as CGI's heirs do.
fn is_disguised(name: &[u8]) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        _ => byte.to_ascii_lowercase(),
    };
    let is = |known: &&[u8]| {
        name.len() == known.len() && name.iter().map(plain).eq(known.iter().copied())
    };
    let begins = |prefix: &&[u8]| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| start.iter().map(plain).eq(prefix.iter().copied()))
    };
    DECIDING.iter().any(is) || [PORTKEY, COMPLETIONS].iter().any(begins)
}

/// RFC 9110, section 5.6.2.
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
        )
}

/// What framing, routing, credentials and the connection hang on, of those with a `-` in it.
const DECIDING: &[&[u8]] = &[
    b"api-key",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"keep-alive",
    b"proxy-authorization",
    b"proxy-connection",
    b"transfer-encoding",
    b"x-api-key",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-goog-api-key",
];
const PORTKEY: &[u8] = b"x-portkey-";
const COMPLETIONS: &[u8] = b"x-completions-";
/// More of the gateway's own fields than anybody needs.
const MAX_OWN: usize = 32;
/// Of a length: more than any body has, and less than overflows.
const MAX_DIGITS: usize = 18;
const REPEATED: &str = "The header is given more than once.";
const NOT_ASCII: &str = "The header is not plain text.";
const NAME: Refusal = Refusal::line("A line of the request's head is no header.");
const DISGUISED: Refusal =
    Refusal::line("A header of the request has `_` where one that decides something has `-`.");
const TOO_MANY: Refusal = Refusal::line("The request has too many headers.").with_status(431);
const NO_HOST: Refusal = Refusal::field("host", "The request names no host.");
const OTHER_HOST: Refusal = Refusal::field("host", "The request names two hosts.");
const LENGTH: Refusal = Refusal::field("content-length", "`content-length` must be one number.");
const NO_LENGTH: Refusal =
    Refusal::field("content-length", "The request has no length.").with_status(411);
const CODING: Refusal = Refusal::field(
    "transfer-encoding",
    "`transfer-encoding` must be `chunked`, without a `content-length`, and in HTTP/1.1.",
);
const EXPECT: Refusal =
    Refusal::field("expect", "`expect` can be `100-continue`.").with_status(417);
pub const UPGRADE: Refusal = Refusal::field("upgrade", "The connection cannot be upgraded here.");
