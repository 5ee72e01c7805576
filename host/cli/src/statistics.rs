//! What many episodes come to.

/// The quantile of a standard normal distribution at 0.975.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of a success rate by Wilson's score method (Wilson 1927), as fractions. Of no trial, everything.
pub fn wilson_interval(successes: usize, trials: usize) -> [f64; 2] {
    if trials == 0 {
        return [0.0, 1.0];
    }
    let n = trials as f64;
    let rate = successes as f64 / n;
    let scale = 1.0 + Z * Z / n;
    let middle = (rate + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_agrees_with_published_values() {
        // Newcombe 1998, table I, method 3.
        for (successes, trials, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)]
        {
            let [lower, upper] = wilson_interval(successes, trials);
            assert!((lower - low).abs() < 5e-5 && (upper - high).abs() < 5e-5, "{successes}/{trials}: {lower} {upper}");
        }
        assert_eq!(wilson_interval(0, 0), [0.0, 1.0]);
    }
}
