//! Checksums of what Redis keeps for us: an altered byte is found when it is read, not when somebody misses a unit.
//!
//! CRC-32 where a gateway computes it, of a slip and of what a buyer's record keeps of it; SHA-1, cut short, where a
//! script has to, of an entry, since Redis computes that in C. Both are against accidents. Who may write to Redis can
//! compute them too.

use sha1::{Digest, Sha1};

/// Of a slip, or of a live entry of a record.
pub type Sum = [u8; SUM_BYTES];

/// Length of a [`Sum`].
pub(crate) const SUM_BYTES: usize = 4;
/// Hexadecimal digits of an entry's digest: 64 bits.
const DIGITS: usize = 16;

/// Of these parts, one after the other. All of them but the last must have lengths that the layout fixes.
pub(crate) fn sum(parts: &[&[u8]]) -> Sum {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_be_bytes()
}

/// The first digits of the SHA-1 of these parts, as `redis.sha1hex` writes them.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    data_encoding::HEXLOWER.encode(&hasher.finalize()[..DIGITS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_others_compute() {
        // The check value of CRC-32/ISO-HDLC, and the first example of FIPS 180.
        assert_eq!(sum(&[b"12345", b"6789"]), 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(digest(&[b"a", b"bc"]), "a9993e364706816a");
    }
}
