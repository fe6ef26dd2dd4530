//! Half of a surrogate pair in JSON, as in `"\ud83d"` alone. The grammar has it, and no text does (RFC 8259, 8.2): of two
//! readers one puts U+FFFD for it, the other takes the whole body for broken.

use memchr::{memchr, memmem};

/// Whether a string in `json` holds one. What is no JSON gives any answer.
pub fn has_half(json: &[u8]) -> bool {
    // Nearly all JSON holds no such escape at all, and much of it none; for one byte is looked faster than for two.
    let rest = memchr(b'\\', json).and_then(|first| json.get(first..));
    rest.is_some_and(|rest| memmem::find(rest, b"\\u").is_some() && walk(rest).is_none())
}

/// Goes from escape to escape; `None`: one of them is half of a pair.
fn walk(mut rest: &[u8]) -> Option<()> {
    while let Some(at) = memchr(b'\\', rest) {
        rest = rest.get(at..).unwrap_or_default();
        let step = match unit(rest) {
            Some(0xD800..0xDC00) => {
                let next = unit(rest.get(6..).unwrap_or_default());
                next.filter(|next| (0xDC00..0xE000).contains(next))?;
                12
            }
            Some(0xDC00..0xE000) => return None,
            Some(_) => 6,
            None => 2,
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    Some(())
}

/// The UTF-16 unit that an escape at the start of `json` stands for; `None`: there is none, or another one.
fn unit(json: &[u8]) -> Option<u32> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_whole_and_a_half_is_found_wherever_it_stands() {
        for (json, half) in [
            (r#""plain é 😀""#, false),
            (r#""\ud83d\ude00""#, false),
            (r#""\uD83D\uDE00\ud83d\ude00""#, false),
            (r#""\u00e9\ud7ff\ue000\uffff""#, false),
            (r#""\\ud83d""#, false),
            (r#""\\\\ud83d \u0041""#, false),
            (r#""\ud83d""#, true),
            (r#""\uDE00""#, true),
            (r#""\ude00\ud83d""#, true),
            (r#""\ud83d\ud83d\ude00""#, true),
            (r#""\ud83d\\ude00""#, true),
            (r#""\\\ud83d""#, true),
            (r#""\ud83dx\ude00""#, true),
            (r#""\ud83d\n\ude00""#, true),
            (r#"{"\ud83d":1}"#, true),
            (r#"["\ud83d","\ude00"]"#, true),
        ] {
            assert_eq!(has_half(json.as_bytes()), half, "{json}");
        }
    }
}
