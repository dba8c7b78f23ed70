use std::fmt;

/// Defines the kinds of numbers in a tensor: one variant of [`Elements`] and of [`Datatype`] each.
macro_rules! datatypes {
    ($($(#[$doc:meta])* $variant:ident($number:ty) = $name:literal, $size:literal;)+) => {
        /// The kinds of numbers that a tensor may hold, with the names of the Open Inference Protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Datatype {
            $($(#[$doc])* $variant,)+
        }

        impl Datatype {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in the protocol, such as `FP32`.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Bytes per number.
            pub(crate) fn size(self) -> usize {
                match self { $(Self::$variant => $size,)+ }
            }

            /// As many zeros.
            pub(crate) fn zeros(self, count: usize) -> Elements {
                match self { $(Self::$variant => Elements::$variant(vec![<$number>::default(); count]),)+ }
            }
        }

        /// The numbers of a tensor, row by row.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum Elements {
            $($(#[$doc])* $variant(Vec<$number>),)+
        }

        impl Elements {
            /// Which kind of numbers these are.
            pub(crate) fn datatype(&self) -> Datatype {
                match self { $(Self::$variant(_) => Datatype::$variant,)+ }
            }

            /// How many there are.
            pub(crate) fn len(&self) -> usize {
                match self { $(Self::$variant(numbers) => numbers.len(),)+ }
            }
        }
    };
}

datatypes! {
    /// True or false.
    Bool(bool) = "BOOL", 1;
    /// 8 bits without a sign.
    Uint8(u8) = "UINT8", 1;
    /// 16 bits without a sign.
    Uint16(u16) = "UINT16", 2;
    /// 32 bits without a sign.
    Uint32(u32) = "UINT32", 4;
    /// 64 bits without a sign.
    Uint64(u64) = "UINT64", 8;
    /// 8 bits.
    Int8(i8) = "INT8", 1;
    /// 16 bits.
    Int16(i16) = "INT16", 2;
    /// 32 bits.
    Int32(i32) = "INT32", 4;
    /// 64 bits.
    Int64(i64) = "INT64", 8;
    /// 16-bit floats.
    Fp16(half::f16) = "FP16", 2;
    /// 32-bit floats.
    Fp32(f32) = "FP32", 4;
    /// 64-bit floats.
    Fp64(f64) = "FP64", 8;
}

impl fmt::Display for Datatype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Numbers with a shape. The product of the shape is the count of the elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    /// The length of each dimension, the outermost first.
    pub(crate) shape: Vec<usize>,
    /// The numbers, row by row.
    pub(crate) elements: Elements,
}

/// What an engine says of one input or output of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorSpec {
    /// Its name in the graph.
    pub(crate) name: String,
    /// What numbers it holds.
    pub(crate) datatype: Datatype,
    /// The length of each dimension; `None` where it depends on the request.
    pub(crate) shape: Vec<Option<usize>>,
}

impl TensorSpec {
    /// Whether a tensor of this shape may stand here.
    pub(crate) fn admits(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self
                .shape
                .iter()
                .zip(shape)
                .all(|(wanted, length)| wanted.is_none_or(|wanted| wanted == *length))
    }
}

/// The inputs and outputs of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signature {
    /// Each of them has to be given.
    pub(crate) inputs: Vec<TensorSpec>,
    /// What the graph computes.
    pub(crate) outputs: Vec<TensorSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_fits_where_each_fixed_dimension_is_met() {
        let spec = TensorSpec {
            name: "pixels".to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![None, Some(3)],
        };
        assert!(spec.admits(&[7, 3]) && spec.admits(&[0, 3]));
        assert!(!spec.admits(&[7, 4]) && !spec.admits(&[3]) && !spec.admits(&[7, 3, 1]));
    }
}
