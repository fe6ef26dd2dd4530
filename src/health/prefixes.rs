//! Which replica has seen a prompt's beginning: its cache of attention keys holds what it would otherwise have to compute.
//!
//! A prompt is looked at in beginnings of 256 bytes, 512, 1 KiB and so on to 8 KiB, each under one hash. The longest one that is
//! known says where to go, if it is a quarter of what was looked at: a common salutation must not send everything to one place.
//! A prompt whose beginning is new goes where its hash says, so that gateways side by side agree without talking.
//!
//! Memory is bounded by two generations of maps: when the young one is full, it becomes the old one, and what was in the old
//! one and has not been asked for since is forgotten.

use std::collections::HashMap;

use super::hash::{Hash, Mixed};

/// The hashes of one prompt's beginnings, the longest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginnings(Vec<(usize, Mixed)>);

impl Beginnings {
    /// `node`: of the choice that is made. What one node knows is nothing to another.
    pub fn of(node: u64, prompt: &[u8]) -> Self {
        let mut found = Vec::new();
        let (mut hash, mut from) = (Hash::START.then(&node.to_le_bytes()), 0);
        for length in LENGTHS {
            let Some(part) = prompt.get(from..length) else {
                break;
            };
            hash = hash.then(part);
            from = length;
            found.push((length, hash.end()));
        }
        if found.is_empty() {
            found.push((prompt.len(), hash.then(prompt).end()));
        }
        Self(found)
    }

    /// Of all that was looked at.
    pub fn longest(&self) -> Mixed {
        self.0.last().map_or(Mixed(0), |(_, hash)| *hash)
    }

    fn looked_at(&self) -> usize {
        self.0.last().map_or(0, |(length, _)| *length)
    }
}

/// Hashes of beginnings, and the target that saw each.
#[derive(Debug, Default)]
pub struct Prefixes {
    young: HashMap<Mixed, u64>,
    old: HashMap<Mixed, u64>,
}

impl Prefixes {
    /// The target that saw the longest known beginning.
    pub fn find(&self, beginnings: &Beginnings) -> Option<u64> {
        let least = beginnings.looked_at() / 4;
        let long_enough = beginnings
            .0
            .iter()
            .rev()
            .filter(|(length, _)| *length >= least);
        let known = |hash| self.young.get(hash).or_else(|| self.old.get(hash));
        long_enough.map(|(_, hash)| hash).find_map(known).copied()
    }

    /// `target` sees the prompt. Beginnings that another has seen stay the other's: a crowd that spills over comes back.
    pub fn note(&mut self, beginnings: &Beginnings, target: u64) {
        for (_, hash) in &beginnings.0 {
            let known = self.old.get(hash).copied();
            self.make_room();
            self.young.entry(*hash).or_insert(known.unwrap_or(target));
        }
    }

    /// `target` takes the place of one that is no longer there.
    pub fn replace(&mut self, beginnings: &Beginnings, target: u64) {
        for (_, hash) in &beginnings.0 {
            self.make_room();
            self.young.insert(*hash, target);
        }
    }

    fn make_room(&mut self) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

/// Bytes of a prompt's beginnings.
const LENGTHS: [usize; 6] = [256, 512, 1_024, 2_048, 4_096, 8_192];
/// Beginnings of one generation: some 1 MiB in all.
const GENERATION: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u8, length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| seed.wrapping_mul(31).wrapping_add(at as u8))
            .collect()
    }

    #[test]
    fn a_longer_prompt_with_a_known_beginning_goes_to_the_same() {
        let mut prefixes = Prefixes::default();
        let long = text(1, 20_000);
        prefixes.note(&Beginnings::of(7, &long[..3_000]), 42);
        for (length, expected) in [
            (3_000, Some(42)),
            (3_500, Some(42)),
            (8_191, Some(42)),
            (20_000, Some(42)),
            (600, Some(42)),
            (200, None),
        ] {
            let beginnings = Beginnings::of(7, &long[..length]);
            assert_eq!(prefixes.find(&beginnings), expected, "{length}");
        }
        let other_node = Beginnings::of(8, &long[..3_000]);
        assert_eq!(prefixes.find(&other_node), None);
        assert_eq!(prefixes.find(&Beginnings::of(7, &text(2, 3_000))), None);
    }

    #[test]
    fn a_common_salutation_binds_nothing() {
        let mut prefixes = Prefixes::default();
        let prompt = |seed| [text(0, 300), text(seed, 4_000)].concat();
        prefixes.note(&Beginnings::of(7, &prompt(1)), 42);
        assert_eq!(prefixes.find(&Beginnings::of(7, &prompt(2))), None);
    }

    #[test]
    fn short_prompts_are_known_as_a_whole() {
        let mut prefixes = Prefixes::default();
        prefixes.note(&Beginnings::of(7, b"hello"), 42);
        assert_eq!(prefixes.find(&Beginnings::of(7, b"hello")), Some(42));
        assert_eq!(prefixes.find(&Beginnings::of(7, b"hello you")), None);
        assert_eq!(Beginnings::of(7, b"").0.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let mut prefixes = Prefixes::default();
        let kept = Beginnings::of(7, b"kept");
        prefixes.note(&kept, 1);
        for number in 0..100_000_u32 {
            prefixes.note(&Beginnings::of(7, &number.to_le_bytes()), 2);
            assert!(prefixes.young.len() <= GENERATION && prefixes.old.len() <= GENERATION);
            if number % 1_000 == 0 {
                prefixes.note(&kept, 3);
            }
        }
        assert_eq!(prefixes.find(&kept), Some(1));
        let first = Beginnings::of(7, &0_u32.to_le_bytes());
        assert_eq!(prefixes.find(&first), None);
    }
}
