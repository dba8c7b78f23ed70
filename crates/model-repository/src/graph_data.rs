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

/// The longest path of a file on Linux.
const MAX_STRING_BYTES: u64 = 4096;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

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
/// A file that is not a graph names none. The engines refuse it, and say why.
pub(crate) fn locations(graph: &Path) -> io::Result<Vec<String>> {
    let file = File::open(graph)?;
    let end = file.metadata()?.len();
    let mut reader = GraphReader {
        input: BufReader::new(file),
        position: 0,
        locations: Vec::new(),
    };
    match reader.read_message(Message::Model, end, 0) {
        Ok(()) => Ok(reader.locations),
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            _ => Err(error),
        },
    }
}

struct GraphReader {
    input: BufReader<File>,
    /// Bytes that were read or skipped.
    position: u64,
    locations: Vec<String>,
}

impl GraphReader {
    /// Reads the fields of a message that ends at the byte `end`.
    fn read_message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (mut is_external, mut locations) = (false, Vec::new());
        while self.position < end {
            let (field, value) = self.read_field(end)?;
            match (value, message.child(field)) {
                (Value::Bytes { end }, Some(child)) => self.read_message(child, end, depth + 1)?,
                (Value::Bytes { end }, None) if (message, field) == (Message::Tensor, 13) => {
                    locations.extend(self.read_location(end)?);
                }
                (Value::Bytes { end }, None) => self.skip_to(end)?,
                (Value::Number(number), _) if (message, field) == (Message::Tensor, 14) => {
                    is_external = number == EXTERNAL;
                }
                (Value::Number(_), _) => {}
            }
        }
        if is_external {
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
        let length = match key & 7 {
            0 => return Ok((key >> 3, Value::Number(self.read_varint()?))),
            1 => 8,
            2 => self.read_varint()?,
            5 => 4,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let value_end = self.position.checked_add(length).filter(|it| *it <= end);
        let end = value_end.ok_or(io::ErrorKind::InvalidData)?;
        Ok((key >> 3, Value::Bytes { end }))
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
