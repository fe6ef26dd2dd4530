//! The answer to a request whose head is refused at the door, where Pingora has not heard of it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use pingora::{http::ResponseHeader, protocols::http::date::get_cached_date};

use crate::{
    downstream::{ALLOWED, JSON},
    error::Error,
    metrics::Ended,
    ticket::Ticket,
};

/// The whole answer, as it is written. The connection ends with it.
pub fn answer(error: &Error) -> pingora::Result<Bytes> {
    let status = error.status();
    let body = error.body();
    let mut head = ResponseHeader::build_no_case(status, Some(8))?;
    head.insert_header(header::DATE, get_cached_date())?;
    head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static(JSON))?;
    head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    head.insert_header(header::CONNECTION, HeaderValue::from_static("close"))?;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        head.insert_header(header::ALLOW, HeaderValue::from_static(ALLOWED))?;
    }
    Ticket::new(fastrand::u128(..)).stamp_passed(&mut head)?;
    let mut wire = BytesMut::with_capacity(512);
    let reason = status.canonical_reason().unwrap_or_default();
    wire.put_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    head.header_to_h1_wire(&mut wire);
    wire.put_slice(b"\r\n");
    wire.put_slice(&body);
    Ok(wire.freeze())
}

/// What is counted of it.
pub fn ended(error: &Error) -> Ended<'_> {
    Ended {
        provider: "none",
        client: None,
        kind: "own",
        status: error.status().as_u16(),
        failure: Some(error.label()),
        usage: None,
        unknown: 0,
        total: Duration::ZERO,
        first_byte: None,
    }
}
