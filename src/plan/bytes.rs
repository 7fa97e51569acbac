//! Byte counts, as people read them.

use std::fmt;

/// A number of bytes, shown in decimal units, as adapters and disks are sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0 as f64;
        match count {
            _ if count >= 1e9 => write!(f, "{:.2} GB", count / 1e9),
            _ if count >= 1e6 => write!(f, "{:.1} MB", count / 1e6),
            _ => write!(f, "{:.1} kB", count / 1e3),
        }
    }
}

impl Bytes {
    /// Not less than this, in the fewest digits that `--memory` takes.
    pub fn as_flag(self) -> String {
        let (unit, name) = self.unit();
        format!("{}{name}", self.0.div_ceil(unit))
    }

    /// What [`Self::as_flag`] stands for.
    pub const fn flagged(self) -> Self {
        let (unit, _) = self.unit();
        Self(self.0.div_ceil(unit).saturating_mul(unit))
    }

    const fn unit(self) -> (u64, &'static str) {
        match self.0 {
            bytes if bytes >= 10 << 30 => (1 << 30, "GiB"),
            bytes if bytes >= 10 << 20 => (1 << 20, "MiB"),
            _ => (1 << 10, "KiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_have_three_digits_or_so() {
        assert_eq!(Bytes(1_234_567_890).to_string(), "1.23 GB", "gigabytes");
        assert_eq!(Bytes(98_000_000).to_string(), "98.0 MB", "megabytes");
        assert_eq!(Bytes(512).to_string(), "0.5 kB", "less");
    }

    #[test]
    fn a_flag_is_never_less_than_the_bytes() {
        assert_eq!(Bytes(1).as_flag(), "1KiB", "rounded up");
        assert_eq!(Bytes((11 << 20) + 1).as_flag(), "12MiB", "rounded up");
        assert_eq!(Bytes(20 << 30).as_flag(), "20GiB", "as it is");
        assert_eq!(Bytes((11 << 20) + 1).flagged(), Bytes(12 << 20), "what it stands for");
    }
}
