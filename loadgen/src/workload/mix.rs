//! Shares of the kinds of commands: `create=60,update=30,delete=10`.

use std::str::FromStr;

use crate::random::Random;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A new signal.
    Create,
    /// A merge patch that changes title and payload.
    Update,
    /// The end of a signal.
    Delete,
    /// Several of the others in one request.
    Batch,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Create, Self::Update, Self::Delete, Self::Batch];

    /// As in a mix and in a batch's `op`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Batch => "batch",
        }
    }
}

/// Shares of the kinds. The shares count commands, not requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    shares: [f64; 4],
    text: String,
}

/// Why a mix can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a mix is like create=60,update=30,delete=10; {0}")]
pub struct MixError(String);

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let mut shares = [0.0; 4];
        for part in text.split(',') {
            let (name, share) = part.split_once('=').ok_or_else(|| MixError(format!("{part:?} has no share")))?;
            let index = Kind::ALL
                .iter()
                .position(|kind| kind.name() == name.trim())
                .ok_or_else(|| MixError(format!("there is no kind {name:?}")))?;
            shares[index] = share
                .trim()
                .parse()
                .ok()
                .filter(|share: &f64| share.is_finite() && *share >= 0.0)
                .ok_or_else(|| MixError(format!("{share:?} is no share")))?;
        }
        if shares.iter().sum::<f64>() <= 0.0 {
            return Err(MixError("all shares are 0".to_owned()));
        }
        Ok(Self { shares, text: text.to_owned() })
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Mix {
    /// A kind, with the probability of its share of *requests* where batches of `size` count as
    /// `size` commands: set by [`Mix::per_request`].
    pub fn pick(&self, random: &mut Random) -> Kind {
        Self::pick_of(&self.shares, random)
    }

    /// A kind that can be inside a batch; creates only when the mix has no other singles.
    pub fn pick_single(&self, random: &mut Random) -> Kind {
        let mut shares = self.shares;
        shares[3] = 0.0;
        if shares.iter().sum::<f64>() <= 0.0 {
            return Kind::Create;
        }
        Self::pick_of(&shares, random)
    }

    fn pick_of(shares: &[f64; 4], random: &mut Random) -> Kind {
        let mut at = random.unit() * shares.iter().sum::<f64>();
        for (kind, share) in Kind::ALL.into_iter().zip(shares) {
            if at < *share {
                return kind;
            }
            at -= share;
        }
        Kind::Create
    }

    /// The same mix in shares of requests, and the mean number of commands in a request, where a
    /// batch has `batch_size`.
    #[must_use]
    pub fn per_request(&self, batch_size: usize) -> (Self, f64) {
        let mut mix = self.clone();
        let commands: f64 = mix.shares.iter().sum();
        mix.shares[3] /= batch_size as f64;
        let requests: f64 = mix.shares.iter().sum();
        (mix, commands / requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_picked_in_its_shares() {
        let mix: Mix = "create=60,update=30,delete=10".parse().unwrap();
        let mut random = Random::new(3);
        let deletes = (0..100_000).filter(|_| mix.pick(&mut random) == Kind::Delete).count();
        assert!((9_500..10_500).contains(&deletes), "{deletes}");
    }

    #[test]
    fn a_batch_counts_as_its_commands() {
        let mix: Mix = "create=50,batch=50".parse().unwrap();
        let (_, commands) = mix.per_request(10);
        assert!((commands - 100.0 / 55.0).abs() < 1e-9);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "create", "create=x", "create=-1", "create=0", "make=1"] {
            assert!(text.parse::<Mix>().is_err(), "{text:?}");
        }
    }
}
