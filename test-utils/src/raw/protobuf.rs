//! The encoding of protobuf messages, as <https://protobuf.dev/programming-guides/encoding/> describes it.

/// Numbers in base 128, least significant first.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// A message under construction. Each call appends a field, also one whose value is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number, of any of the types that travel as a varint: uint32, uint64, bool, an enum.
    #[must_use]
    pub fn uint(mut self, field: u32, value: u64) -> Self {
        self.tag(field, VARINT);
        varint(&mut self.0, value);
        self
    }

    /// A field of bytes, or a message inside the message.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, BYTES);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A message inside the message.
    #[must_use]
    pub fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// A repeated number, packed as proto3 packs it.
    #[must_use]
    pub fn packed(self, field: u32, values: impl IntoIterator<Item = u64>) -> Self {
        let mut packed = Vec::new();
        values.into_iter().for_each(|value| varint(&mut packed, value));
        self.bytes(field, &packed)
    }

    /// 4 bytes of their own wire type.
    #[must_use]
    pub fn fixed32(mut self, field: u32, value: u32) -> Self {
        self.tag(field, FIXED32);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// 8 bytes of their own wire type.
    #[must_use]
    pub fn fixed64(mut self, field: u32, value: u64) -> Self {
        self.tag(field, FIXED64);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        varint(&mut self.0, u64::from(field) << 3 | u64::from(wire_type));
    }
}

/// Appends a number as a varint.
pub fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes a varint off the front of `bytes`; `None` where it is not whole.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The fields of a message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<(u32, Value)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// Takes a message apart.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn parse(bytes: &[u8]) -> Self {
        Self::try_parse(bytes).unwrap_or_else(|| panic!("no message: {bytes:02x?}"))
    }

    fn try_parse(mut rest: &[u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let tag = take_varint(&mut rest)?;
            let value = match tag as u32 & 7 {
                VARINT => Value::Number(take_varint(&mut rest)?),
                FIXED64 => Value::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?)),
                FIXED32 => Value::Number(u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?).into()),
                BYTES => {
                    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                    Value::Bytes(take(&mut rest, length)?.to_vec())
                }
                _ => return None,
            };
            fields.push((u32::try_from(tag >> 3).ok()?, value));
        }
        Some(Self(fields))
    }

    fn last(&self, field: u32) -> Option<&Value> {
        self.0.iter().rev().find(|(number, _)| *number == field).map(|(_, value)| value)
    }

    /// A number; 0 where it is absent, as proto3 has it.
    ///
    /// # Panics
    ///
    /// If the field is there and no number.
    pub fn uint(&self, field: u32) -> u64 {
        match self.last(field) {
            None => 0,
            Some(Value::Number(value)) => *value,
            Some(Value::Bytes(_)) => panic!("field {field} is no number: {self:?}"),
        }
    }

    /// A sint32, which travels in zigzag.
    pub fn sint(&self, field: u32) -> i64 {
        let value = self.uint(field);
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    /// Bytes; none where they are absent.
    ///
    /// # Panics
    ///
    /// If the field is a number.
    pub fn bytes(&self, field: u32) -> &[u8] {
        match self.last(field) {
            None => &[],
            Some(Value::Bytes(bytes)) => bytes,
            Some(Value::Number(_)) => panic!("field {field} is a number: {self:?}"),
        }
    }

    /// Whether the field is there.
    pub fn has(&self, field: u32) -> bool {
        self.last(field).is_some()
    }

    /// A message inside the message; an empty one where it is absent.
    pub fn message(&self, field: u32) -> Fields {
        Self::parse(self.bytes(field))
    }

    /// All messages of a repeated field.
    pub fn messages(&self, field: u32) -> Vec<Fields> {
        let all = self.0.iter().filter(|(number, _)| *number == field);
        all.map(|(_, value)| match value {
            Value::Bytes(bytes) => Self::parse(bytes),
            Value::Number(_) => panic!("field {field} is a number: {self:?}"),
        })
        .collect()
    }

    /// All numbers of a repeated field, packed or not.
    pub fn uints(&self, field: u32) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (_, value) in self.0.iter().filter(|(number, _)| *number == field) {
            match value {
                Value::Number(number) => numbers.push(*number),
                Value::Bytes(packed) => {
                    let mut rest = packed.as_slice();
                    while !rest.is_empty() {
                        numbers.push(take_varint(&mut rest).expect("a packed number"));
                    }
                }
            }
        }
        numbers
    }

    /// The numbers of the fields that are there, in order.
    pub fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|(number, _)| *number).collect()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_encodings_description_come_out() {
        assert_eq!(Message::new().uint(1, 150).as_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::new().bytes(2, b"testing").as_bytes(), b"\x12\x07testing");
        assert_eq!(Message::new().message(3, &Message::new().uint(1, 150)).as_bytes(), [0x1a, 3, 0x08, 0x96, 0x01]);
        assert_eq!(Message::new().packed(6, [3, 270, 86942]).as_bytes(), [0x32, 6, 3, 0x8e, 2, 0x9e, 0xa7, 5]);
    }

    #[test]
    fn what_was_written_is_read() {
        let inner = Message::new().uint(1, u64::MAX);
        let message = Message::new().uint(1, 3).bytes(2, b"x").message(3, &inner).packed(4, [1, 300]).uint(4, 5);
        let fields = Fields::parse(message.fixed32(5, 7).fixed64(6, 8).as_bytes());
        assert_eq!((fields.uint(1), fields.sint(1), fields.bytes(2)), (3, -2, &b"x"[..]));
        assert_eq!((fields.message(3).uint(1), fields.uints(4)), (u64::MAX, vec![1, 300, 5]));
        assert_eq!((fields.uint(5), fields.uint(6), fields.uint(9)), (7, 8, 0));
        assert_eq!(fields.numbers(), [1, 2, 3, 4, 4, 5, 6]);
    }
}
