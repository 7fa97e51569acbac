//! Protocol Buffers' wire format, as far as reading a `tokenizer.model` needs it: fields in order.
//!
//! Knows no schema and copies nothing. Invariant: whatever the bytes are, every step either yields a field that lies
//! within them or ends with an error that says where.

/// A field's value as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'b> {
    /// Integers, booleans, enumerations.
    Varint(u64),
    /// `float`.
    Fixed32(u32),
    /// `double`.
    Fixed64(u64),
    /// Strings, bytes, messages within messages.
    Bytes(Message<'b>),
}

/// A message's bytes; iterates over its fields as (number, value).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Message<'b> {
    bytes: &'b [u8],
    /// Where `bytes` begin in the file.
    at: usize,
}

impl<'b> Message<'b> {
    /// A whole file.
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// What is not read yet.
    pub(super) fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    fn field(&mut self) -> Result<(u64, Field<'b>), String> {
        let start = self.at;
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let at = self.at;
                Field::Bytes(Message { bytes: self.take(len)?, at })
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(format!("byte {start} begins a field of wire type {other}, which is not in use")),
        };
        Ok((key >> 3, field))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("the integer at byte {start} is longer than 10 bytes"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8], String> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(format!("byte {} should begin {len} more, but there are {}", self.at, self.bytes.len()));
        };
        self.bytes = rest;
        self.at += len;
        Ok(taken)
    }
}

impl<'b> Iterator for Message<'b> {
    type Item = Result<(u64, Field<'b>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // An error ends the message: what follows has lost its meaning.
            self.bytes = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1D, 0, 0, 0x80, 0x3F, 0x21, 1, 0, 0, 0, 0, 0, 0, 0];
        let fields: Result<Vec<_>, _> = Message::new(&bytes).collect();
        let expected = [
            (1, Field::Varint(150)),
            (2, Field::Bytes(Message { bytes: b"hi", at: 5 })),
            (3, Field::Fixed32(1f32.to_bits())),
            (4, Field::Fixed64(1)),
        ];
        assert_eq!(fields.as_deref(), Ok(expected.as_slice()), "number and value of each");
    }

    #[test]
    fn what_is_cut_off_or_no_field_is_named_with_its_byte() {
        for (bytes, problem) in [
            (vec![0x12, 0x05, b'h'], "byte 2 should begin 5 more, but there are 1"),
            (vec![0x08], "byte 1 should begin 1 more"),
            (vec![0x0B], "byte 0 begins a field of wire type 3"),
            (vec![0xFF; 12], "the integer at byte 0 is longer than 10 bytes"),
            ([&[0x12u8][..], &[0xFF; 9], &[1]].concat(), "should begin 18446744073709551615 more"),
        ] {
            let fields: Vec<_> = Message::new(&bytes).collect();
            assert_eq!(fields.len(), 1, "an error ends the message");
            let message = fields[0].as_ref().expect_err("not a message");
            assert!(message.contains(problem), "{message}");
        }
    }
}
