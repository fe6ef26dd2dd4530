//! JSON read where it stands: nothing is copied, and of what nobody asks for only the grammar is looked at.
//!
//! It takes less than a full reader would (no escapes in the names of fields, no deeper than [`depth`](crate::depth) allows), and
//! nothing that one would refuse: `None` means that one should have a look.

use crate::depth::MAX_DEPTH;

/// A place in a text of JSON. After a `None` it is of no more use.
pub struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// The objects and lists that it is in.
    depth: usize,
}

impl<'a> Scan<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// Whether nothing but blanks is left.
    pub fn is_over(&mut self) -> bool {
        self.blanks();
        self.at == self.text.len()
    }

    /// An object. `field` gets each name as it stands, and takes its value.
    pub fn object(
        &mut self,
        mut field: impl FnMut(&'a [u8], &mut Self) -> Option<()>,
    ) -> Option<()> {
        self.enter(b'{')?;
        if self.leave(b'}').is_some() {
            return Some(());
        }
        loop {
            let name = self.name()?;
            field(name, self)?;
            if self.token(b',').is_none() {
                return self.leave(b'}');
            }
        }
    }

    /// A list. `item` takes each of its values.
    pub fn list(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.enter(b'[')?;
        if self.leave(b']').is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            if self.token(b',').is_none() {
                return self.leave(b']');
            }
        }
    }

    /// A string, with its quotes, as it stands.
    pub fn string(&mut self) -> Option<&'a str> {
        self.blanks();
        let from = self.at;
        self.pass_string()?;
        self.text.get(from..self.at)
    }

    /// Where what is read next begins.
    pub fn place(&self) -> usize {
        self.at
    }

    /// A whole number that is not negative.
    pub fn whole(&mut self) -> Option<u64> {
        self.blanks();
        let from = self.at;
        let mut number = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.checked_mul(10)?;
            number = number.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let digits = self.text.as_bytes().get(from..self.at)?;
        let is_padded = digits.len() > 1 && digits.starts_with(b"0");
        let goes_on = matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        (!digits.is_empty() && !is_padded && !goes_on).then_some(number)
    }

    /// Any value, as it stands.
    pub fn value(&mut self) -> Option<&'a str> {
        self.blanks();
        let from = self.at;
        match self.peek()? {
            b'{' | b'[' => self.pass_nested()?,
            scalar => self.pass_scalar(scalar)?,
        }
        self.text.get(from..self.at)
    }

    /// A field's name, without its quotes, and the colon behind it. One with an escape in it may be any name.
    fn name(&mut self) -> Option<&'a [u8]> {
        self.blanks();
        let from = self.at + 1;
        let escapes = self.pass_string()?;
        let name = self.text.as_bytes().get(from..self.at - 1)?;
        self.token(b':')?;
        (escapes == 0).then_some(name)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        (self.peek() == Some(wanted)).then(|| self.at += 1)
    }

    fn token(&mut self, wanted: u8) -> Option<()> {
        // Blanks are rare.
        self.byte(wanted).or_else(|| {
            self.blanks();
            self.byte(wanted)
        })
    }

    fn enter(&mut self, open: u8) -> Option<()> {
        self.token(open)?;
        self.depth += 1;
        (self.depth <= MAX_DEPTH).then_some(())
    }

    fn leave(&mut self, close: u8) -> Option<()> {
        self.token(close)?;
        self.depth -= 1;
        Some(())
    }

    /// Goes past a list or an object, from scalar to scalar: what is nested is kept in the bits of `kinds`, and takes no stack.
    fn pass_nested(&mut self) -> Option<()> {
        let outside = self.depth;
        let mut kinds = 0_u64;
        loop {
            self.blanks();
            match self.peek()? {
                b'{' => {
                    self.enter(b'{')?;
                    if self.leave(b'}').is_none() {
                        kinds = kinds << 1 | 1;
                        self.pass_name()?;
                        continue;
                    }
                }
                b'[' => {
                    self.enter(b'[')?;
                    if self.leave(b']').is_none() {
                        kinds <<= 1;
                        continue;
                    }
                }
                scalar => self.pass_scalar(scalar)?,
            }
            // Behind a value: the next one, or the ends of those that it is in.
            loop {
                if self.depth == outside {
                    return Some(());
                }
                let in_object = kinds & 1 == 1;
                if self.token(b',').is_some() {
                    if in_object {
                        self.pass_name()?;
                    }
                    break;
                }
                self.leave(if in_object { b'}' } else { b']' })?;
                kinds >>= 1;
            }
        }
    }

    fn pass_name(&mut self) -> Option<()> {
        self.blanks();
        self.pass_string()?;
        self.token(b':')
    }

    fn pass_scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b'"' => self.pass_string().map(drop),
            b'n' => self.pass_word(b"null"),
            b't' => self.pass_word(b"true"),
            b'f' => self.pass_word(b"false"),
            _ => self.pass_number(),
        }
    }

    fn pass_word(&mut self, word: &[u8]) -> Option<()> {
        self.rest().starts_with(word).then(|| self.at += word.len())
    }

    /// How many escapes are in it.
    fn pass_string(&mut self) -> Option<usize> {
        self.byte(b'"')?;
        let escapes = self.pass_inside();
        self.byte(b'"').map(|()| escapes)
    }

    /// Goes on to what cannot stand between the quotes of a string: the end, a control character, half an escape.
    fn pass_inside(&mut self) -> usize {
        let mut escapes = 0;
        loop {
            self.at += plain_len(self.rest());
            if self.peek() != Some(b'\\') || self.pass_escape().is_none() {
                return escapes;
            }
            escapes += 1;
        }
    }

    fn pass_escape(&mut self) -> Option<()> {
        let length = match self.rest().get(1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => {
                let digits = self.rest().get(2..6)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
            }
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn pass_number(&mut self) -> Option<()> {
        let _ = self.byte(b'-');
        if self.byte(b'0').is_none() {
            self.pass_digits()?;
        }
        if self.byte(b'.').is_some() {
            self.pass_digits()?;
        }
        if self.byte(b'e').or_else(|| self.byte(b'E')).is_some() {
            let _ = self.byte(b'+').or_else(|| self.byte(b'-'));
            self.pass_digits()?;
        }
        Some(())
    }

    fn pass_digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

/// Whether `inside` is what can stand between the quotes of a string.
pub fn is_inside_string(inside: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(inside) else {
        return false;
    };
    let mut scan = Scan::new(text);
    scan.pass_inside();
    scan.at == text.len()
}

/// How many bytes a string goes on for before one that means something: a quote, a backslash, a control character.
fn plain_len(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((eight, behind)) = rest.split_first_chunk::<8>() {
        let marks = marks(u64::from_le_bytes(*eight));
        if marks != 0 {
            let before = marks.trailing_zeros() / 8;
            return bytes.len() - rest.len() + before as usize;
        }
        rest = behind;
    }
    let is_plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes.len() - rest.len() + rest.iter().take_while(is_plain).count()
}

/// The high bit of each byte that means something in a string. Above the lowest of them there may be too many.
fn marks(eight: u64) -> u64 {
    // Where a byte is 0, taking 1 from it borrows into its high bit, which it had not.
    let zeros = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let controls = eight.wrapping_sub(ONES * 0x20) & !eight;
    let quotes = zeros(eight ^ (ONES * u64::from(b'"')));
    let backslashes = zeros(eight ^ (ONES * u64::from(b'\\')));
    (controls | quotes | backslashes) & (ONES << 7)
}

const ONES: u64 = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::value::RawValue;

    use super::*;

    fn value(text: &str) -> Option<&str> {
        let mut scan = Scan::new(text);
        let value = scan.value()?;
        scan.is_over().then_some(value)
    }

    /// What a full reader takes, but for what is deeper than the limit.
    #[track_caller]
    fn check(text: &str) {
        let full = serde_json::from_str::<&RawValue>(text).map(RawValue::get);
        assert_eq!(value(text), full.ok(), "{text:?}");
    }

    const TEXTS: &[&str] = &[
        r#"{"a":[1,-0,0.5,1e9,1E+2,2e-3,{}],"b":{"c":null,"d":true,"e":false},"f":"g"}"#,
        r#" [ [ ] , { } , [ { "a" : [ "b" ] } , "c" ] ] "#,
        r#""\"\\\/\b\f\n\r\t\u00e9\ud83d é 😀 long enough for more than one step of eight""#,
        r#"{"id":"cmpl-1","object":"text_completion","created":1,"choices":[{"text":" a","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#,
        "null",
        "-1.25e+10",
        "\t{\r\n}\n",
    ];

    #[test]
    fn it_takes_and_refuses_what_a_full_reader_does() {
        for text in TEXTS {
            assert!(value(text).is_some(), "{text}");
            check(text);
        }
        for text in [
            "",
            " ",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "nul",
            "nulll",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "[}",
            "{]",
            "[1}",
            "\"",
            "\"a",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\u{1}\"",
            "\"12345678\n\"",
            "1 1",
            "NaN",
            "[]]",
            "\u{a0}1",
        ] {
            assert_eq!(value(text), None, "{text:?}");
            check(text);
        }
    }

    #[test]
    fn every_change_of_a_byte_is_judged_alike() {
        for text in TEXTS {
            for at in 0..text.len() {
                for byte in 0..0x80 {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = byte;
                    if let Ok(text) = std::str::from_utf8(&bytes) {
                        check(text);
                    }
                }
                if text.is_char_boundary(at) {
                    check(&text[..at]);
                    check(&text[at..]);
                }
            }
        }
    }

    #[test]
    fn a_string_ends_at_whatever_place_in_eight_bytes() {
        for before in 0..20 {
            for (end, ends) in [
                ('"', true),
                ('\\', true),
                ('\u{1f}', true),
                (' ', false),
                ('é', false),
            ] {
                for behind in 0..10 {
                    let text = format!("{}{end}{}", "é".repeat(before), "a\"".repeat(behind));
                    let plain = text
                        .bytes()
                        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
                    let plain = plain.unwrap_or(text.len());
                    assert_eq!(plain_len(text.as_bytes()), plain, "{text:?}");
                    assert!(!ends || plain == 2 * before);
                }
            }
        }
    }

    #[test]
    fn it_goes_as_deep_as_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        let mixed = |depth: usize| format!("{}1{}", "[{\"a\":".repeat(depth), "}]".repeat(depth));
        for text in [nested(64), objects(64), mixed(32)] {
            check(&text);
            assert!(value(&text).is_some());
        }
        for text in [nested(65), objects(65), mixed(33), "[".repeat(1_000_000)] {
            assert_eq!(value(&text), None);
        }
        let inside = |depth| {
            let text = format!("[{{\"a\":{}}}]", nested(depth));
            let mut scan = Scan::new(&text);
            scan.list(|scan| scan.object(|_, scan| scan.value().map(drop)))
        };
        assert_eq!((inside(62), inside(63)), (Some(()), None));
    }

    #[test]
    fn what_can_stand_in_a_string_is_what_a_full_reader_takes_there() {
        for inside in [
            "",
            "a",
            "é 😀",
            "\\n",
            "\\\\",
            "\\\"",
            "\\u00e9",
            "\\ud83d",
            "12345678\\\"12345678",
            "\"",
            "\\",
            "\\x",
            "\\u12",
            "\\u12g4",
            "a\nb",
            "12345678\"",
            "12345678\\",
            "\u{1f}",
            "a\",\"b",
            "\\\\\"",
        ] {
            let string = format!("\"{inside}\"");
            // Whatever a surrogate without its half is.
            let full = serde_json::from_str::<&RawValue>(&string).is_ok();
            assert_eq!(is_inside_string(inside.as_bytes()), full, "{inside:?}");
        }
        assert!(!is_inside_string(b"\xff") && !is_inside_string(b"a\xe2\x82"));
    }

    #[test]
    fn fields_and_items_come_in_their_order() {
        let mut seen = Vec::new();
        let mut scan = Scan::new(r#" { "a" : 7 , "b" : [ "x" , "y\n" ] , "c" : { } } "#);
        let read = scan.object(|name, scan| {
            match name {
                b"a" => seen.push(scan.whole()?.to_string()),
                b"b" => scan.list(|scan| {
                    seen.push(scan.string()?.to_owned());
                    Some(())
                })?,
                _ => seen.push(scan.value()?.to_owned()),
            }
            Some(())
        });
        assert!(read.is_some() && scan.is_over());
        assert_eq!(seen, ["7", "\"x\"", "\"y\\n\"", "{ }"]);
        // Of a name with an escape nobody can say here which one it is.
        assert_eq!(
            Scan::new(r#"{"\u0061":1}"#).object(|_, scan| scan.value().map(drop)),
            None
        );
        for number in ["-1", "1.0", "1e3", "18446744073709551616", "\"1\"", "null"] {
            assert_eq!(Scan::new(number).whole(), None, "{number}");
            assert!(serde_json::from_str::<IgnoredAny>(number).is_ok());
        }
        assert_eq!(Scan::new("18446744073709551615").whole(), Some(u64::MAX));
    }
}
