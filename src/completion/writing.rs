//! What answers of every shape are written with.

use memchr::memchr2;
use uuid::Uuid;

/// Appends an event whose data, a JSON object, `write` writes. Line ends in it, of a provider's own JSON, mean nothing and become
/// blanks: one line is the one form that every client parses.
pub fn write_data(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"data: ");
    let start = out.len();
    write(out);
    let mut rest = out.get_mut(start..).unwrap_or_default();
    // Next to never there is one.
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        let (_, from_it) = rest.split_at_mut(at);
        let Some((end, behind)) = from_it.split_first_mut() else {
            break;
        };
        *end = b' ';
        rest = behind;
    }
    out.extend_from_slice(b"\n\n");
}

/// An id as the vendors write them: what it is of, and 128 bits in hexadecimal.
pub fn drawn_id(prefix: &str, draw: u128) -> String {
    let mut digits = Uuid::encode_buffer();
    let digits = Uuid::from_u128(draw).simple().encode_lower(&mut digits);
    [prefix, digits].concat()
}
