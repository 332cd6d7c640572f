//! Kinds of faults dealt out like cards, so that each comes as often as the others.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

/// All kinds, and those that are left of the deal.
pub(super) struct Deck<T: 'static> {
    all: &'static [T],
    left: Vec<T>,
    drawn: usize,
}

impl<T: Copy> Deck<T> {
    /// `all` must not be empty.
    pub(super) fn new(all: &'static [T]) -> Self {
        assert!(!all.is_empty(), "a drill has faults");
        Self { all, left: Vec::new(), drawn: 0 }
    }

    /// The next one; after the last, all are shuffled anew.
    pub(super) fn draw(&mut self, dice: &mut StdRng) -> T {
        if self.left.is_empty() {
            self.left.extend(self.all);
            self.left.shuffle(dice);
        }
        self.drawn += 1;
        self.left.pop().unwrap_or(self.all[0])
    }

    /// Whether each has been drawn.
    pub(super) fn is_through(&self) -> bool {
        self.drawn >= self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::{Deck, StdRng};

    #[test]
    fn each_comes_once_in_a_deal() {
        let dice = &mut StdRng::seed_from_u64(7);
        let mut deck = Deck::new(&[1, 2, 3]);
        for deal in 0..4 {
            assert_eq!(deck.is_through(), deal > 0);
            let mut drawn = [deck.draw(dice), deck.draw(dice), deck.draw(dice)];
            drawn.sort_unstable();
            assert_eq!(drawn, [1, 2, 3]);
        }
    }
}
