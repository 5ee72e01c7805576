//! Loops over rows that the compiler vectorises: each is compiled for every instruction set that `pulp` knows, and the best
//! one is taken at run time. Sums run in sixteen lanes, so that they do not depend on the instruction set.

use pulp::Arch;

const LANES: usize = 16;

/// Functions of an `Arch` and more, whose bodies are compiled once for each instruction set. `Arch::dispatch` would leave
/// it to the compiler whether the loop becomes a part of the function that may use them, and of long ones it does not.
macro_rules! vectorised {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) $(-> $output:ty)? $body:block)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(arch: Arch, $($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
                fn with_avx512($($argument: $type),*) $(-> $output)? {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn with_avx2($($argument: $type),*) $(-> $output)? {
                    body($($argument),*)
                }
                match arch {
                    // SAFETY: `pulp` found these instructions.
                    Arch::V4(_) => return unsafe { with_avx512($($argument),*) },
                    // SAFETY: as above.
                    Arch::V3(_) => return unsafe { with_avx2($($argument),*) },
                    _ => {}
                }
            }
            let _ = arch;
            body($($argument),*)
        }
    )*};
}

/// `e^x` to two units in the last place between -87 and 88, and the ends of that range beyond it.
///
/// Cephes' `expf`: `x = n ln 2 + r`, a polynomial for `e^r`, and `n` put into the exponent. Without branches and library
/// calls, so that loops around it vectorise.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let power = (rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

#[inline(always)]
fn sum(numbers: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane += term(number);
        }
    }
    for (lane, &number) in lanes.iter_mut().zip(rest) {
        *lane += term(number);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn maximum(numbers: &[f32]) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [f32::MIN; LANES];
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = if number > *lane { number } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::MIN, |a, &b| a.max(b))
}

vectorised! {
    /// `silu` of every number.
    fn silu(numbers: &mut [f32]) {
        numbers.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x));
    }

    /// `gelu` of every number, in its `tanh` form: `0.5 (1 + tanh u)` is the sigmoid of `2 u`.
    fn gelu_tanh(numbers: &mut [f32]) {
        const SLOPE: f32 = 2.0 * 0.797_884_6;
        for x in numbers {
            *x /= 1.0 + exp(-SLOPE * (*x + 0.044715 * *x * *x * *x));
        }
    }

    /// `silu(gate) * up`.
    fn swiglu(gate: &[f32], up: &[f32], output: &mut [f32]) {
        for ((out, &g), &u) in output.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }

    /// One row's softmax, in place, but for the factor that comes back: it is cheaper to multiply what they weigh by it.
    fn softmax(scores: &mut [f32]) -> f32 {
        let most = maximum(scores);
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *score = exp(*score - most);
                *lane += *score;
            }
        }
        for (lane, score) in lanes.iter_mut().zip(rest) {
            *score = exp(*score - most);
            *lane += *score;
        }
        1.0 / lanes.iter().sum::<f32>()
    }

    /// `numbers *= scale`.
    fn multiply(scale: f32, numbers: &mut [f32]) {
        numbers.iter_mut().for_each(|number| *number *= scale);
    }

    /// One row of an RMS norm.
    fn rms_norm(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
        let mean_square = sum(input, |x| x * x) / input.len() as f32;
        let scale = 1.0 / (mean_square + epsilon).sqrt();
        for ((out, &x), &w) in output.iter_mut().zip(input).zip(weight) {
            *out = w * (x * scale);
        }
    }

    /// One row of a layer norm.
    fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
        let n = input.len() as f32;
        let mean = sum(input, |x| x) / n;
        let variance = sum(input, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (((out, &x), &w), &b) in output.iter_mut().zip(input).zip(weight).zip(bias) {
            *out = (x - mean) * scale * w + b;
        }
    }

    /// Turns one head by the angles whose cosines and sines are given.
    fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
        let (low, high) = head.split_at_mut(cosines.len());
        for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// The sum of products.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a * b;
            }
        }
        lanes.iter().sum()
    }

    /// Numbers of which `bits` are the upper halves.
    fn unpack_bf16(bits: &[u16], numbers: &mut [f32]) {
        for (number, &bits) in numbers.iter_mut().zip(bits) {
            *number = f32::from_bits(u32::from(bits) << 16);
        }
    }

    /// Numbers in IEEE half precision.
    fn unpack_f16(bits: &[u16], numbers: &mut [f32]) {
        /// `2^112`, which makes up for the difference of the two exponents' biases; subnormals come out right, too.
        const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
        for (number, &bits) in numbers.iter_mut().zip(bits) {
            let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * REBIAS;
            *number = f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16);
        }
    }

    /// `output += scale * input`.
    fn axpy(scale: f32, input: &[f32], output: &mut [f32]) {
        output.iter_mut().zip(input).for_each(|(out, &x)| *out += scale * x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f32, expected: f64) -> bool {
        (f64::from(found) - expected).abs() <= 1e-6 * expected.abs().max(1e-3)
    }

    #[test]
    fn exp_agrees_with_the_standard_library_and_stays_finite_beyond_its_range() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 3e-7 * expected, "{x}");
        }
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NEG_INFINITY) >= 0.0);
        assert!(exp(-1000.0) < 1e-37);
    }

    #[test]
    fn activations_are_their_textbook_formulas() {
        let arch = Arch::new();
        for step in -800..=800 {
            let x = f64::from(step) / 100.0;
            let (mut silu_of, mut gelu_of, mut product) = ([x as f32], [x as f32], [0.0]);
            silu(arch, &mut silu_of);
            gelu_tanh(arch, &mut gelu_of);
            swiglu(arch, &[x as f32], &[2.0], &mut product);
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            assert!(close(silu_of[0], x * sigmoid), "{x}");
            assert!(close(product[0], 2.0 * x * sigmoid), "{x}");
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            assert!((f64::from(gelu_of[0]) - 0.5 * x * (1.0 + u.tanh())).abs() < 2e-6, "{x}");
        }
    }

    #[test]
    fn softmax_of_any_length_sums_to_one_and_keeps_ratios() {
        for length in [1, 15, 16, 17, 100] {
            let mut scores: Vec<f32> = (0..length).map(|i| (i % 7) as f32 - 50.0).collect();
            let scale = softmax(Arch::new(), &mut scores);
            multiply(Arch::new(), scale, &mut scores);
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            if length > 1 {
                assert!((scores[1] / scores[0] - std::f32::consts::E).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn half_precision_of_both_kinds_unpacks_exactly() {
        // No infinities and not-a-numbers: no checkpoint that is served holds them.
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut numbers = vec![0.0; bits.len()];
        unpack_bf16(Arch::new(), &bits, &mut numbers);
        for (&bits, number) in bits.iter().zip(&numbers).filter(|(bits, _)| half::bf16::from_bits(**bits).is_finite()) {
            assert_eq!(half::bf16::from_bits(bits).to_f32().to_bits(), number.to_bits());
        }
        unpack_f16(Arch::new(), &bits, &mut numbers);
        for (&bits, number) in bits.iter().zip(&numbers).filter(|(bits, _)| half::f16::from_bits(**bits).is_finite()) {
            assert_eq!(half::f16::from_bits(bits).to_f32().to_bits(), number.to_bits());
        }
    }

    #[test]
    fn norms_give_rows_of_unit_size() {
        let input: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 5.0 + 2.0).collect();
        let (ones, zeros, mut output) = (vec![1.0; 37], vec![0.0; 37], vec![0.0; 37]);
        rms_norm(Arch::new(), &input, &ones, 0.0, &mut output);
        let mean_square = output.iter().map(|x| x * x).sum::<f32>() / 37.0;
        assert!((mean_square - 1.0).abs() < 1e-5);
        layer_norm(Arch::new(), &input, &ones, &zeros, 0.0, &mut output);
        let mean = output.iter().sum::<f32>() / 37.0;
        let variance = output.iter().map(|x| x * x).sum::<f32>() / 37.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5);
    }
}
