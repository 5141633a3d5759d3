//! Which of the live signals a command is about.

use std::str::FromStr;

use crate::random::Random;

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Skew {
    /// Each as often as any other.
    Uniform,
    /// Rank `k` with weight `1 / k^s`.
    Zipf(f64),
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no key skew: use uniform, zipf or zipf=1.1");
        match text.split_once('=') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "zipf" => Ok(Self::Zipf(0.99)),
            Some(("zipf", s)) => match s.parse::<f64>() {
                Ok(s) if s > 0.0 && s <= 5.0 => Ok(Self::Zipf(s)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Skew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(s) => write!(f, "zipf={s}"),
        }
    }
}

impl Skew {
    /// An index below `count`, or `None` of nothing.
    ///
    /// Zipf by rejection inversion (W. Hörmann, G. Derflinger, "Rejection-inversion to generate
    /// variates from monotone discrete distributions", 1996): exact, without tables, so that
    /// `count` may change from one call to the next.
    pub fn pick(self, count: usize, random: &mut Random) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let Self::Zipf(s) = self else {
            return Some(random.below(count));
        };
        let h_integral = |x: f64| {
            let log = x.ln();
            if (1.0 - s).abs() < 1e-9 { log } else { ((1.0 - s) * log).exp_m1() / (1.0 - s) }
        };
        let h_inverse = |x: f64| {
            if (1.0 - s).abs() < 1e-9 { x.exp() } else { ((x * (1.0 - s)).ln_1p() / (1.0 - s)).exp() }
        };
        let h = |x: f64| x.powf(-s);
        let low = h_integral(1.5) - 1.0;
        let high = h_integral(count as f64 + 0.5);
        let threshold = 2.0 - h_inverse(h_integral(2.5) - h(2.0));
        loop {
            let u = high + random.unit() * (low - high);
            let x = h_inverse(u);
            let k = x.round().clamp(1.0, count as f64);
            if k - x <= threshold || u >= h_integral(k + 0.5) - h(k) {
                return Some(k as usize - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_ranks_have_their_weights() {
        let (count, draws) = (1_000, 200_000);
        for s in [0.5, 0.99, 1.0, 1.5] {
            let mut random = Random::new(11);
            let mut hits = vec![0u32; count];
            for _ in 0..draws {
                hits[Skew::Zipf(s).pick(count, &mut random).unwrap()] += 1;
            }
            let total: f64 = (1..=count).map(|k| (k as f64).powf(-s)).sum();
            for rank in [1usize, 2, 10] {
                let expected = draws as f64 * (rank as f64).powf(-s) / total;
                let got = f64::from(hits[rank - 1]);
                assert!((got - expected).abs() < 6.0 * expected.sqrt(), "s {s} rank {rank}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn skews_are_parsed() {
        assert_eq!("zipf=1.2".parse(), Ok(Skew::Zipf(1.2)));
        assert!("zipf=0".parse::<Skew>().is_err());
        assert!("pareto".parse::<Skew>().is_err());
    }
}
