//! Numbers that look like chance and are none: the same in every process and every release, so that gateways that stand side by
//! side choose alike. Not for secrets, nor against those who would choose their keys to collide: what they win is one target.

/// A hash as it is being made: FNV-1a, 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    pub const START: Self = Self(0xcbf2_9ce4_8422_2325);

    pub fn then(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    pub fn end(self) -> Mixed {
        mix(self.0)
    }
}

/// A number all of whose bits depend on all of what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mixed(pub u64);

/// The last step of splitmix64.
pub fn mix(number: u64) -> Mixed {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Mixed(number ^ (number >> 31))
}

impl Mixed {
    pub fn with(self, other: u64) -> Self {
        mix(self.0.rotate_left(32).wrapping_add(other) ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// As a number of [0, 1).
    pub fn unit(self) -> f64 {
        unit(self.0)
    }
}

/// The upper half of `draw` as a number of [0, 1).
pub fn unit(draw: u64) -> f64 {
    f64::from(u32::try_from(draw >> 32).unwrap_or(u32::MAX)) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_in_every_release() {
        assert_eq!(Hash::START.then(b"foobar").0, 0x8594_4171_f739_67e8);
        assert_eq!(
            Hash::START.then(b"foo").then(b"bar"),
            Hash::START.then(b"foobar")
        );
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15).0, 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn units_are_evenly_spread() {
        let mut tenths = [0_u32; 10];
        for number in 0..10_000 {
            let unit = mix(number).with(7).unit();
            let tenth = (0..10).find(|tenth| unit < f64::from(tenth + 1) / 10.0);
            tenths[tenth.unwrap() as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (880..1_120).contains(count)),
            "{tenths:?}"
        );
        assert_eq!((unit(0), unit(1 << 63)), (0.0, 0.5));
        assert!(unit(u64::MAX) < 1.0);
    }
}
