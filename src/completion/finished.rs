//! Which choices of an answer have ended, by their index: a reason told twice for one of them is no end of another.

use std::collections::BTreeSet;

/// The indices of the choices whose finish reason has been seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Bit `i`: choice `i`. Nearly every answer fits, so that ending a choice allocates nothing.
    low: u128,
    /// The choices of a long list of prompts. At most [`MAX_HIGH`] of them.
    high: BTreeSet<u32>,
}

impl Finished {
    /// Choice `index` has ended. The index is the upstream's: nothing is sized by it.
    pub fn end(&mut self, index: u32) {
        if index < u128::BITS {
            self.low |= 1 << index;
        } else if self.high.len() < MAX_HIGH {
            self.high.insert(index);
        }
    }

    /// The choices of `other` have ended too.
    pub fn join(&mut self, other: &Self) {
        self.low |= other.low;
        for &index in &other.high {
            self.end(index);
        }
    }

    /// Whether choice `index` is among them.
    pub fn contains(&self, index: u32) -> bool {
        if index < u128::BITS {
            self.low >> index & 1 == 1
        } else {
            self.high.contains(&index)
        }
    }

    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_empty()
    }

    /// How many choices have ended.
    pub fn count(&self) -> u32 {
        let high = u32::try_from(self.high.len()).unwrap_or(u32::MAX);
        self.low.count_ones().saturating_add(high)
    }

    /// Whether each of the first `choices` has ended. One alone may carry any index.
    pub fn covers(&self, choices: u32) -> bool {
        if choices <= 1 {
            return !self.is_empty();
        }
        let low = 1_u128
            .checked_shl(choices)
            .map_or(u128::MAX, |next| next - 1);
        let beyond = self.high.range(..choices).count();
        self.low & low == low && u32::try_from(beyond) == Ok(choices.saturating_sub(u128::BITS))
    }
}

/// 2,048 prompts with 128 choices each, more than any API takes.
const MAX_HIGH: usize = 2_048 * 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(indices: impl IntoIterator<Item = u32>) -> Finished {
        let mut finished = Finished::default();
        indices.into_iter().for_each(|index| finished.end(index));
        finished
    }

    #[test]
    fn an_answer_is_complete_when_every_choice_has_ended() {
        for (ended, choices, complete) in [
            (vec![], 1, false),
            (vec![0], 1, true),
            (vec![1], 1, true),
            (vec![0, 0], 2, false),
            (vec![1, 0], 2, true),
            (vec![0, 2], 2, false),
            (vec![0, u32::MAX], 2, false),
            ((0..127).collect(), 128, false),
            ((0..128).collect(), 128, true),
            ((0..129).collect(), 129, true),
            ((0..400).collect(), 401, false),
            ((0..401).rev().collect(), 401, true),
        ] {
            assert_eq!(
                finished(ended.clone()).covers(choices),
                complete,
                "{ended:?}"
            );
        }
    }

    #[test]
    fn a_choice_counts_once_wherever_it_was_seen() {
        let mut both = finished([0, 7, 7, 500]);
        both.join(&finished([7, 8, 500, 501]));
        assert_eq!((both.count(), both.is_empty()), (5, false));
        assert!([0, 7, 8, 500].iter().all(|&index| both.contains(index)));
        assert!(
            [1, 127, 128, 499]
                .iter()
                .all(|&index| !both.contains(index))
        );
        assert!(finished([]).is_empty());
    }

    #[test]
    fn an_endless_row_of_indices_is_not_stored() {
        let many = finished(0..300_000);
        assert_eq!(many.count() as usize, MAX_HIGH + 128);
    }
}
