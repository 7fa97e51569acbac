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
    /// Not less than this and no more than `most`, which is as much at least, in the fewest digits that `--memory`
    /// takes; and what that stands for.
    pub fn as_flag(self, most: u64) -> (String, Self) {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "")];
        let rounded = |unit: u64| self.0.div_ceil(unit).saturating_mul(unit);
        // Ten of a unit are two digits; a byte is always right.
        let fits = |(unit, _): &&(u64, &str)| (self.0 >= 10 * unit || *unit <= 1 << 10) && rounded(*unit) <= most;
        let (unit, name) = units.iter().find(fits).unwrap_or(&units[3]);
        (format!("{}{name}", self.0.div_ceil(*unit)), Self(rounded(*unit)))
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
    fn a_flag_is_never_less_than_the_bytes_nor_more_than_there_is() {
        let flag = |bytes, most| Bytes(bytes).as_flag(most);
        let large = (11 << 30) + 1;
        assert_eq!(flag(1, u64::MAX), ("1KiB".into(), Bytes(1 << 10)), "rounded up");
        assert_eq!(flag((11 << 20) + 1, u64::MAX), ("12MiB".into(), Bytes(12 << 20)), "rounded up");
        assert_eq!(flag(20 << 30, u64::MAX), ("20GiB".into(), Bytes(20 << 30)), "as it is");
        assert_eq!(flag(large, large + (1 << 20)).0, "11265MiB", "no more than there is");
        assert_eq!(flag(large, large).0, large.to_string(), "to the byte");
    }
}
