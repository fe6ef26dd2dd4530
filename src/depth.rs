//! How deep JSON is nested, told by a scan. Readers that skip what they do not know have no limit of their own, and one
//! that has to recurse behind this gateway might fall over.

use memchr::{memchr2, memchr2_iter};

/// The deepest schemas that clients send have some twenty. Half of what serde_json's own readers take, so that these never say
/// first, in words of theirs, what is wrong.
pub const MAX_DEPTH: usize = 64;

/// Whether `json` opens more than [`MAX_DEPTH`] arrays and objects inside each other. What is no JSON gives any answer.
pub fn is_too_deep(json: &[u8]) -> bool {
    // Nearly all JSON has fewer brackets than that, whatever they mean.
    memchr2_iter(b'[', b'{', json).nth(MAX_DEPTH).is_some() && deepest(json) > MAX_DEPTH
}

/// The depth at which it is nested most; no further than just past the limit.
fn deepest(json: &[u8]) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let mut rest = json;
    while let Some((&byte, next)) = rest.split_first() {
        rest = next;
        match byte {
            b'"' => rest = behind_string(next),
            b'[' | b'{' => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if most > MAX_DEPTH {
            break;
        }
    }
    most
}

/// What follows a string whose opening quote has been read.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let is_end = rest.get(at) == Some(&b'"');
        rest = rest
            .get(at + if is_end { 1 } else { 2 }..)
            .unwrap_or_default();
        if is_end {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_counts_and_brackets_in_strings_do_not() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for (json, deep) in [
            (nested(64), false),
            (nested(65), true),
            (objects(64), false),
            (objects(65), true),
            (nested(1_000_000), true),
            ("[".repeat(200), true),
            (format!("[{}1]", "[],".repeat(500)), false),
            (format!("[\"\\\"{}\"]", "[".repeat(500)), false),
            (format!("[\"\\\\\",{}]", nested(64)), true),
            ("[\"\\".to_owned() + &"[".repeat(200), false),
            ("]".repeat(10) + &nested(65), true),
            (String::new(), false),
        ] {
            let start: String = json.chars().take(40).collect();
            assert_eq!(is_too_deep(json.as_bytes()), deep, "{start}");
        }
    }
}
