//! Hashes and seeded randomness that give the same numbers on every machine and in every release,
//! which neither std's hasher nor rand's small generators promise.

use rand::RngCore;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;

/// What a draw is for. Each purpose has its own stream, so that switching faults on changes no
/// answer's length and no call's latency.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    OutputTokens = 1,
    Text = 2,
    Fault = 3,
    Latency = 4,
    Invalid = 5,
}

/// SplitMix64 (Steele, Lea, Flood 2014): a few instructions, and any seed is a good one.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64, key: u64, purpose: Purpose) -> Self {
        Self(mix(seed ^ mix(key ^ mix(purpose as u64))))
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Log-normal with this median; `sigma` 0 gives the median itself.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let z: f64 = StandardNormal.sample(self);
        median * (sigma * z).exp()
    }
}

impl RngCore for Draw {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 64-bit FNV-1a: a dozen lines in any language, so other tools can recompute a fingerprint.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

/// FNV-1a of one string.
pub(crate) fn hash_str(text: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.write(text.as_bytes());
    hash.finish()
}

/// Fingerprint of a call's messages (roles and text), printed as 16 hexadecimal digits because a
/// 64-bit number does not survive every JSON reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptHash(
    /// The hash itself; 0 for a call whose body could not be read.
    pub u64,
);

impl fmt::Display for PromptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for PromptHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PromptHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|error| D::Error::custom(format!("prompt hash {digits:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Draw, PromptHash, Purpose, hash_str};
    use rand::RngCore;

    #[test]
    fn numbers_are_pinned_across_releases() {
        // FNV-1a test vectors from draft-eastlake-fnv.
        assert_eq!(hash_str(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_str("foobar"), 0x8594_4171_f739_67e8);
        // The first output of SplitMix64 seeded with 0, from its authors' splitmix64.c.
        assert_eq!(Draw(0).next_u64(), 0xe220_a839_7b1d_cdaf);
        // Changes if an update of rand_distr draws otherwise: recorded runs then no longer repeat.
        assert_eq!(Draw(0).log_normal(1_000_000.0, 1.0).round(), 2_544_252.0);
        let mut draw = Draw::new(1, 2, Purpose::Fault);
        let (unit, sample) = (draw.unit(), draw.log_normal(40.0, 0.6));
        assert!((0.0..1.0).contains(&unit) && sample > 0.0);
        let mut again = Draw::new(1, 2, Purpose::Fault);
        assert_eq!((again.unit(), again.log_normal(40.0, 0.6)), (unit, sample));
        assert_ne!(Draw::new(1, 2, Purpose::Latency).unit(), unit);
        assert_ne!(Draw::new(2, 2, Purpose::Fault).unit(), unit);
        assert_ne!(Draw::new(1, 3, Purpose::Fault).unit(), unit);
    }

    #[test]
    fn draws_have_the_shape_they_claim() {
        let mut halves = 0;
        let mut above_median = 0;
        for key in 0..10_000 {
            let mut draw = Draw::new(7, key, Purpose::OutputTokens);
            halves += u32::from(draw.unit() < 0.5);
            above_median += u32::from(draw.log_normal(40.0, 0.6) > 40.0);
            assert!(draw.below(3) < 3);
        }
        assert!((4_800..5_200).contains(&halves), "{halves}");
        assert!((4_800..5_200).contains(&above_median), "{above_median}");
    }

    #[test]
    fn prompt_hash_survives_json() {
        let hash = PromptHash(u64::MAX - 7);
        let json = serde_json::to_string(&hash).expect("serialises");
        assert_eq!(json, "\"fffffffffffffff8\"");
        assert_eq!(serde_json::from_str::<PromptHash>(&json).expect("reads back"), hash);
    }
}
