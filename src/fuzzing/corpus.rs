//! Test cases as text, one a line: printable ASCII as it is, all else escaped as Rust does. A line that starts with `#` says
//! something of those below it.

/// The cases of a file.
pub fn read(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| unescape(line.as_bytes())).collect()
}

/// The line of a case.
pub fn write(case: &[u8]) -> String {
    let line = case.escape_ascii().to_string();
    match line.strip_prefix('#') {
        Some(rest) => format!("\\x23{rest}"),
        None => line,
    }
}

fn unescape(mut line: &[u8]) -> Vec<u8> {
    let mut case = Vec::new();
    while let Some(byte) = line.split_off_first() {
        let escaped = (*byte == b'\\').then(|| line.split_off_first()).flatten();
        case.push(match escaped {
            None => *byte,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits = line.split_off(..2).unwrap_or_default();
                let digits = str::from_utf8(digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or_default()
            }
            Some(other) => *other,
        });
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let all: Vec<u8> = (0..=255).collect();
        for case in [&all[..], b"#\\n\n#", b"", b"\"'\\x41"] {
            let text = format!("# of something\n{}\n", write(case));
            assert_eq!(read(&text), [case]);
        }
    }
}
