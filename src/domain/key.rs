//! Idempotency keys, order lines and request fingerprints, as hashes of fixed size.
//!
//! A hash is the first 16 bytes of BLAKE3 over length-prefixed parts, so that no two lists of parts run together. The
//! buyer records in Redis keep the first 8 bytes.

use uuid::Uuid;

/// The only tenant while there is no authentication.
pub const TENANT: &str = "default";

/// Hash of an idempotency key or an order's line, with tenant and operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// Of a key that the client chose, for `operation`.
    #[must_use]
    pub fn explicit(operation: &str, key: &str) -> Self {
        hash(&["key", TENANT, operation, key])
    }

    /// Of an order's line: also the derived key of a reservation without one of its own. `location` as sent, empty
    /// where none was.
    #[must_use]
    pub fn order_line(order: &str, sku: &str, location: &str) -> Self {
        hash(&["line", TENANT, order, sku, location])
    }

    /// Of an order's cart: the derived key of one without its own.
    #[must_use]
    pub fn cart(order: &str) -> Self {
        hash(&["cart", TENANT, order])
    }

    /// Of one item of a cart in its lane; `cart` is the cart's key.
    #[must_use]
    pub fn part(cart: KeyHash, sku: &str, location: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"part");
        hasher.update(&cart.0);
        finish(hasher, &[sku, location])
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn to_uuid(self) -> Uuid {
        Uuid::from_bytes(self.0)
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        KeyHash(uuid.into_bytes())
    }

    /// The part that buyer records keep.
    #[must_use]
    pub fn head(self) -> [u8; 8] {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        head
    }
}

/// Hash of what a request asks for: the same key with another fingerprint is another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl Fingerprint {
    /// Over the request's fields, in a fixed order, absent ones as empty.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        Fingerprint(hash(parts).head())
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        i64::from_be_bytes(self.0)
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Fingerprint(value.to_be_bytes())
    }
}

fn hash(parts: &[&str]) -> KeyHash {
    finish(blake3::Hasher::new(), parts)
}

fn finish(mut hasher: blake3::Hasher, parts: &[&str]) -> KeyHash {
    for part in parts {
        hasher.update(&u64::try_from(part.len()).expect("a length fits 64 bits").to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut head = [0; 16];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    KeyHash(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(KeyHash::order_line("a", "bc", ""), KeyHash::order_line("ab", "c", ""));
        assert_ne!(KeyHash::explicit("reserve", "k"), KeyHash::explicit("commit", "k"));
        assert_ne!(KeyHash::cart("a"), KeyHash::order_line("a", "", ""));
        let cart = KeyHash::cart("a");
        assert_ne!(KeyHash::part(cart, "b", "c"), KeyHash::part(cart, "bc", ""));
        assert_ne!(Fingerprint::of(&["1", ""]), Fingerprint::of(&["", "1"]));
    }
}
