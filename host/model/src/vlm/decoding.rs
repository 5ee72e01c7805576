//! Choosing the next word.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::CHECK;
use crate::error::ModelError;

/// How words are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// An answer ends after so many tokens, if it has not ended by itself.
    pub most_tokens: usize,
    /// Draw tokens at random; else the likeliest is taken.
    pub sampling: Option<Sampling>,
}

/// Drawing tokens at random.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// Only the likeliest tokens that have together this probability are drawn, in (0, 1].
    pub top_p: f32,
    /// Equal seeds draw equally.
    pub seed: u64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { most_tokens: 128, sampling: None }
    }
}

impl Decoding {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let sound = |sampling: &Sampling| {
            sampling.temperature.is_finite()
                && sampling.temperature > 0.0
                && sampling.top_p > 0.0
                && sampling.top_p <= 1.0
        };
        if self.most_tokens > 0 && self.sampling.as_ref().is_none_or(sound) {
            return Ok(());
        }
        Err(ModelError::Decoding)
    }
}

/// How the next token is chosen.
#[derive(Debug)]
pub(super) enum Next {
    Likeliest,
    Drawn(Sampling, Box<ChaCha8Rng>),
}

impl Next {
    pub fn new(decoding: &Decoding) -> Self {
        match decoding.sampling {
            None => Self::Likeliest,
            Some(sampling) => Self::Drawn(sampling, Box::new(ChaCha8Rng::seed_from_u64(sampling.seed))),
        }
    }

    /// A token, and the logarithm of its probability before any temperature.
    pub fn choose(&mut self, logits: &[f32]) -> Result<(u32, f64), ModelError> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(ModelError::NotFinite { what: "distribution of words", hint: CHECK });
        }
        let highest = logits.iter().copied().fold(f32::MIN, f32::max);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
        let token = match self {
            // The first of equals, as PyTorch's argmax takes it.
            Self::Likeliest => logits.iter().position(|logit| *logit == highest).unwrap_or(0),
            Self::Drawn(sampling, random) => draw(logits, highest, sampling, random.next_u64()),
        };
        Ok((token as u32, f64::from(logits[token] - highest) - total.ln()))
    }
}

/// Nucleus sampling (Holtzman et al., arXiv 1904.09751).
fn draw(logits: &[f32], highest: f32, sampling: &Sampling, random: u64) -> usize {
    let weight = |index: usize| f64::from((logits[index] - highest) / sampling.temperature).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let total: f64 = order.iter().map(|index| weight(*index)).sum();
    let mut nucleus = 0.0;
    let mut kept = 0;
    while kept < order.len() && nucleus < f64::from(sampling.top_p) * total {
        nucleus += weight(order[kept]);
        kept += 1;
    }
    // 53 random bits make a fraction in [0, 1).
    let mut left = (random >> 11) as f64 / (1u64 << 53) as f64 * nucleus;
    for &index in &order[..kept] {
        left -= weight(index);
        if left < 0.0 {
            return index;
        }
    }
    order[kept.saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_nucleus_draws_the_likeliest_and_a_whole_one_draws_in_proportion() {
        let logits = [0.0, 3f32.ln(), f32::MIN];
        let sampling = |top_p| Sampling { temperature: 1.0, top_p, seed: 0 };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[draw(&logits, logits[1], &sampling(1.0), random.next_u64())] += 1;
            assert_eq!(draw(&logits, logits[1], &sampling(0.7), random.next_u64()), 1);
        }
        assert!(counts[2] == 0 && (900..1100).contains(&counts[0]), "{counts:?}");
    }
}
