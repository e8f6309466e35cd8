//! Big-endian packing for queue entries and grants: the layout that the Lua scripts and we share.

/// The bytes ended before the value did, a length in them is wrong, or they are not as they were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packed bytes are cut short, malformed or altered")]
pub struct Malformed;

/// Reads packed values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    /// The next `n` bytes (at most 8) as an unsigned number.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn uint(&mut self, n: usize) -> Result<u64, Malformed> {
        Ok(self
            .take(n)?
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// The next `n` bytes (at most 4) as an unsigned number.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn uint32(&mut self, n: usize) -> Result<u32, Malformed> {
        u32::try_from(self.uint(n)?).map_err(|_| Malformed)
    }

    /// One byte.
    ///
    /// # Errors
    /// None is left.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A length byte and that many bytes of UTF-8.
    ///
    /// # Errors
    /// Fewer are left, or they are not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.byte()?;
        std::str::from_utf8(self.take(length.into())?).map_err(|_| Malformed)
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends the low `n` bytes of `value`.
pub fn put_uint(out: &mut Vec<u8>, value: u64, n: usize) {
    out.extend_from_slice(&value.to_be_bytes()[8 - n..]);
}

/// Appends a length byte and the text, of at most 255 bytes; ids are at most 128.
///
/// # Panics
/// The text is longer, which no checked id is.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("ids are at most 128 bytes"));
    out.extend_from_slice(text.as_bytes());
}
