//! Mutations of test cases by chance, the same in every run.

/// Numbers without a pattern, from one that is given.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x2545_f491_4f6c_dd1d)
    }

    /// A test case that is like one of `cases`.
    pub fn mutation(&mut self, cases: &[Vec<u8>]) -> Vec<u8> {
        let mut case = self.pick(cases).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.mutate(&mut case, cases);
        }
        case
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 where `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        let number = usize::try_from(self.next() >> 33).unwrap_or_default();
        number.checked_rem(end).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_be_bytes();
        byte
    }

    fn pick<'t, T>(&mut self, list: &'t [T]) -> Option<&'t T> {
        list.get(self.below(list.len()))
    }

    fn mutate(&mut self, case: &mut Vec<u8>, cases: &[Vec<u8>]) {
        let at = self.below(case.len() + 1);
        let end = (at + 1 + self.below(16)).min(case.len());
        match (self.below(7), case.get_mut(at)) {
            (0, _) => case.truncate(at),
            (1, Some(byte)) => *byte = self.byte(),
            (2, Some(byte)) => *byte ^= 1 << self.below(8),
            (3, Some(_)) => drop(case.drain(at..end)),
            (4, Some(_)) => {
                let again = case.get(at..end).unwrap_or_default().to_vec();
                case.splice(at..at, again);
            }
            (5, _) => {
                let other = self.pick(cases).map_or(&[][..], Vec::as_slice);
                let from = self.below(other.len() + 1);
                case.truncate(at);
                case.extend(other.get(from..).unwrap_or_default());
            }
            _ => {
                let token = self.pick(TOKENS).copied().unwrap_or_default();
                case.splice(at..at, token.iter().copied());
            }
        }
        case.truncate(MAX_CASE_BYTES);
    }
}

/// What a random byte does not find.
const TOKENS: &[&[u8]] = &[
    b"\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\x1e",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"{}",
    b"[[]]",
    b"\"\"",
    b"data: ",
    b"event: error\n",
    b"data: [DONE]\n\n",
    b"\"finish_reason\":\"stop\"",
    b"\"error\":{\"message\":\"sk-client-0123456789\"}",
    b"..",
    b"/",
    b"@",
    b"#",
    b"%2e",
    b"\\",
];
const MAX_CASE_BYTES: usize = 16 << 10;
