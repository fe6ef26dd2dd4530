//! A test case's bytes: choices at the front, then what is read.

/// What is left of a test case. Past its end every choice is the first.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    /// One of `list`; `None`: it is empty.
    pub fn pick<'t, T>(&mut self, list: &'t [T]) -> Option<&'t T> {
        let at = usize::from(self.byte());
        list.get(at.checked_rem(list.len())?)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// What is behind `choices` of them.
    pub fn skip(self, choices: usize) -> &'a [u8] {
        self.0.get(choices..).unwrap_or_default()
    }
}

/// `bytes` as reads bring them: in pieces whose lengths follow from `seed`. 0: one byte each.
pub fn pieces(seed: u8, bytes: &[u8]) -> Vec<&[u8]> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9);
    let longest = match seed {
        0 => 1,
        1..=127 => 9,
        128..=255 => 512,
    };
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let length = 1 + usize::try_from(state % longest).unwrap_or_default();
        let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// The parts of a test case that holds several things: they are apart by a byte that stands in none of them.
pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == APART)
}

/// ASCII's record separator: in JSON it can stand only escaped.
pub const APART: u8 = 0x1e;
