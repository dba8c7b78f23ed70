//! Finds the files in which an `.onnx` file keeps weights, by the field numbers in onnx.proto
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).
//!
//! Weights inside the graph are skipped, not read, so this takes little memory and time for a graph of any size.

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::Path,
};

/// Deeper messages are invalid for other readers of Protocol Buffers too.
const MAX_DEPTH: usize = 100;

/// The wire types of a group's first and last key.
const GROUP_START: u64 = 3;
const GROUP_END: u64 = 4;

/// The longest path of a file on Linux.
const MAX_STRING_BYTES: u64 = 4096;

/// The values of `TensorProto.DataLocation`.
const DEFAULT: i32 = 0;
const EXTERNAL: i32 = 1;

/// The messages that can hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// Returns the kind of message in a field; `None` if it holds no tensors.
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => {
                Some(Self::Tensor)
            }
            _ => None,
        }
    }
}

/// Returns the paths of the data files as the graph names them: relative to its own directory.
///
/// A file that is damaged before its first tensor is probably not a graph, and names none. The engines refuse it, and say
/// why. A graph that is damaged behind a tensor fails with [`io::ErrorKind::InvalidData`] or
/// [`io::ErrorKind::UnexpectedEof`]: an engine may read what this code cannot, and then files that nothing checked.
pub(crate) fn locations(graph: &Path) -> io::Result<Vec<String>> {
    let file = File::open(graph)?;
    let end = file.metadata()?.len();
    let mut reader = GraphReader {
        input: BufReader::new(file),
        position: 0,
        has_tensors: false,
        locations: Vec::new(),
    };
    match reader.read_message(Message::Model, end, 0) {
        Err(error) if reader.has_tensors || !is_damage(&error) => Err(error),
        Ok(()) | Err(_) => Ok(reader.locations),
    }
}

/// Whether an error of [`locations`] means that the file could be read, but is not a valid graph.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

struct GraphReader {
    input: BufReader<File>,
    /// Bytes that were read or skipped.
    position: u64,
    /// Whether a tensor began before the position.
    has_tensors: bool,
    locations: Vec<String>,
}

impl GraphReader {
    /// Reads the fields of a message that ends at the byte `end`.
    fn read_message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.has_tensors |= message == Message::Tensor;
        let (mut data_location, mut locations) = (DEFAULT, Vec::new());
        while self.position < end {
            let (field, value) = self.read_field(end)?;
            match (value, message.child(field)) {
                (Value::Bytes { end }, Some(child)) => self.read_message(child, end, depth + 1)?,
                (Value::Bytes { end }, None) if (message, field) == (Message::Tensor, 13) => {
                    locations.extend(self.read_location(end)?);
                }
                (Value::Bytes { end }, None) => self.skip_to(end)?,
                (Value::Number(number), _) if (message, field) == (Message::Tensor, 14) => {
                    // Readers of Protocol Buffers truncate an enum to 32 bits, and ignore unknown values.
                    #[expect(clippy::cast_possible_truncation, reason = "as explained above")]
                    if let number @ (DEFAULT | EXTERNAL) = number as i32 {
                        data_location = number;
                    }
                }
                (Value::Number(_), _) => {}
            }
        }
        if data_location == EXTERNAL {
            self.locations.append(&mut locations);
        }
        Ok(())
    }

    /// Reads an entry of `external_data`. Returns its value if its key is `location`.
    fn read_location(&mut self, end: u64) -> io::Result<Option<String>> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.position < end {
            match self.read_field(end)? {
                (1, Value::Bytes { end }) => key = self.read_string(end)?,
                (2, Value::Bytes { end }) => value = self.read_string(end)?,
                (_, Value::Bytes { end }) => self.skip_to(end)?,
                (_, Value::Number(_)) => {}
            }
        }
        Ok((key == "location").then_some(value))
    }

    /// Reads the number of a field, and its value if it is a number.
    fn read_field(&mut self, end: u64) -> io::Result<(u64, Value)> {
        let key = self.read_varint()?;
        if key & 7 == GROUP_START {
            self.skip_group(key >> 3, end)?;
            // No field of a graph is a group, and an empty value means nothing in any field.
            let end = self.position;
            return Ok((key >> 3, Value::Bytes { end }));
        }
        Ok((key >> 3, self.read_value(key & 7, end)?))
    }

    fn read_value(&mut self, wire_type: u64, end: u64) -> io::Result<Value> {
        let length = match wire_type {
            0 => return Ok(Value::Number(self.read_varint()?)),
            1 => 8,
            2 => self.read_varint()?,
            5 => 4,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let value_end = self.position.checked_add(length).filter(|it| *it <= end);
        let end = value_end.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Value::Bytes { end })
    }

    /// Skips a group and those inside, as other readers of Protocol Buffers do: they ignore unknown fields.
    fn skip_group(&mut self, number: u64, end: u64) -> io::Result<()> {
        let mut open = vec![number];
        while let Some(innermost) = open.last() {
            let key = self.read_varint()?;
            match key & 7 {
                GROUP_END if key >> 3 == *innermost => _ = open.pop(),
                GROUP_START if open.len() < MAX_DEPTH => open.push(key >> 3),
                wire_type => {
                    if let Value::Bytes { end } = self.read_value(wire_type, end)? {
                        self.skip_to(end)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read_varint(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.input.read_exact(&mut byte)?;
            self.position += 1;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn read_string(&mut self, end: u64) -> io::Result<String> {
        let length = end - self.position;
        if length > MAX_STRING_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = String::new();
        let read = (&mut self.input).take(length).read_to_string(&mut text)?;
        self.position += read as u64;
        Ok(text)
    }

    fn skip_to(&mut self, end: u64) -> io::Result<()> {
        let length = i64::try_from(end - self.position).map_err(io::Error::other)?;
        self.input.seek_relative(length)?;
        self.position = end;
        Ok(())
    }
}

/// The value of a field.
enum Value {
    Number(u64),
    /// Bytes that begin at the reader's position.
    Bytes {
        end: u64,
    },
}
