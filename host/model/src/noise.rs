//! The noise that a chunk of actions starts from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Fills `numbers` with standard normal noise.
///
/// ChaCha8 seeded by `seed_from_u64(seed)`; each pair of 32-bit words `a`, `b` gives two numbers by Box and Muller:
/// `sqrt(-2 ln u)` times `cos v` and `sin v` with `u = (a + 1) / 2^32`, `v = 2 pi b / 2^32`, in f64.
pub(crate) fn fill_normal(numbers: &mut [f32], seed: u64) {
    const WORDS: f64 = (1u64 << 32) as f64;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for pair in numbers.chunks_mut(2) {
        let u = (f64::from(random.next_u32()) + 1.0) / WORDS;
        let v = std::f64::consts::TAU * f64::from(random.next_u32()) / WORDS;
        let radius = (-2.0 * u.ln()).sqrt();
        for (number, part) in pair.iter_mut().zip([v.cos(), v.sin()]) {
            *number = (radius * part) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_standard_normal_and_depends_on_nothing_but_the_seed() {
        let (mut first, mut again, mut other) = (vec![0.0; 100_001], vec![0.0; 100_001], vec![0.0; 100_001]);
        fill_normal(&mut first, 7);
        fill_normal(&mut again, 7);
        fill_normal(&mut other, 8);
        assert_eq!(first, again);
        assert_ne!(first, other);
        let n = first.len() as f32;
        let mean = first.iter().sum::<f32>() / n;
        let variance = first.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
        let within_one = first.iter().filter(|x| x.abs() < 1.0).count() as f32 / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((within_one - 0.6827).abs() < 0.01, "{within_one}");
    }
}
