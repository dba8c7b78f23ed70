use std::fmt;

/// Defines [`Elements`] and [`Datatype`], with one variant for each element type.
macro_rules! datatypes {
    ($($(#[$doc:meta])* $variant:ident($number:ty) = $name:literal, $size:literal;)+) => {
        /// The element types of a tensor, with the names of the Open Inference Protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Datatype {
            $($(#[$doc])* $variant,)+
        }

        impl Datatype {
            /// All element types.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the protocol, such as `FP32`.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Bytes per element.
            pub(crate) fn size(self) -> usize {
                match self { $(Self::$variant => $size,)+ }
            }

            /// Returns `count` zeros.
            pub(crate) fn zeros(self, count: usize) -> Elements {
                match self { $(Self::$variant => Elements::$variant(vec![<$number>::default(); count]),)+ }
            }
        }

        /// The elements of a tensor in row-major order.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum Elements {
            $($(#[$doc])* $variant(Vec<$number>),)+
        }

        impl Elements {
            /// The element type.
            pub(crate) fn datatype(&self) -> Datatype {
                match self { $(Self::$variant(_) => Datatype::$variant,)+ }
            }

            /// The number of elements.
            pub(crate) fn len(&self) -> usize {
                match self { $(Self::$variant(numbers) => numbers.len(),)+ }
            }
        }
    };
}

datatypes! {
    /// True or false.
    Bool(bool) = "BOOL", 1;
    /// Unsigned, 8 bits.
    Uint8(u8) = "UINT8", 1;
    /// Unsigned, 16 bits.
    Uint16(u16) = "UINT16", 2;
    /// Unsigned, 32 bits.
    Uint32(u32) = "UINT32", 4;
    /// Unsigned, 64 bits.
    Uint64(u64) = "UINT64", 8;
    /// Signed, 8 bits.
    Int8(i8) = "INT8", 1;
    /// Signed, 16 bits.
    Int16(i16) = "INT16", 2;
    /// Signed, 32 bits.
    Int32(i32) = "INT32", 4;
    /// Signed, 64 bits.
    Int64(i64) = "INT64", 8;
    /// Float, 16 bits with the range of FP32.
    Bf16(half::bf16) = "BF16", 2;
    /// Float, 16 bits.
    Fp16(half::f16) = "FP16", 2;
    /// Float, 32 bits.
    Fp32(f32) = "FP32", 4;
    /// Float, 64 bits.
    Fp64(f64) = "FP64", 8;
}

impl fmt::Display for Datatype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Elements {
    /// Converts floats to FP32, to the nearest one. Returns the elements themselves if they are no floats.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an FP64 that overflows becomes infinite, which the tasks refuse"
    )]
    pub(crate) fn into_fp32(self) -> Result<Vec<f32>, Self> {
        Ok(match self {
            Self::Bf16(numbers) => numbers.into_iter().map(f32::from).collect(),
            Self::Fp16(numbers) => numbers.into_iter().map(f32::from).collect(),
            Self::Fp32(numbers) => numbers,
            Self::Fp64(numbers) => numbers.into_iter().map(|it| it as f32).collect(),
            other => return Err(other),
        })
    }
}

/// Elements with a shape. The product of the shape equals the number of elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    /// The length of each dimension, outermost first.
    pub(crate) shape: Vec<usize>,
    /// The elements in row-major order.
    pub(crate) elements: Elements,
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorSpec {
    /// Its name in the graph.
    pub(crate) name: String,
    /// The element type.
    pub(crate) datatype: Datatype,
    /// The length of each dimension; `None` if it depends on the request.
    pub(crate) shape: Vec<Option<usize>>,
}

impl TensorSpec {
    /// The shape as text, such as `[-1, 32]`, where -1 stands for any length.
    pub(crate) fn shape_text(&self) -> String {
        let length = |it: &Option<usize>| it.map_or("-1".to_owned(), |it| it.to_string());
        let lengths: Vec<String> = self.shape.iter().map(length).collect();
        format!("[{}]", lengths.join(", "))
    }

    /// Whether a tensor of this shape is accepted.
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
    /// The inputs; all are required.
    pub(crate) inputs: Vec<TensorSpec>,
    /// The outputs.
    pub(crate) outputs: Vec<TensorSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_width_become_fp32() {
        let numbers = [0.5, -2.0];
        for elements in [
            Elements::Bf16(numbers.map(half::bf16::from_f32).into()),
            Elements::Fp16(numbers.map(half::f16::from_f32).into()),
            Elements::Fp32(numbers.into()),
            Elements::Fp64(numbers.map(f64::from).into()),
        ] {
            assert_eq!(elements.into_fp32().unwrap(), numbers);
        }
        assert!(Elements::Int64(vec![1]).into_fp32().is_err());
        let too_large = Elements::Fp64(vec![1e300]).into_fp32();
        assert_eq!(too_large.unwrap(), [f32::INFINITY]);
    }

    #[test]
    fn spec_admits_shapes_with_matching_fixed_dimensions() {
        let spec = TensorSpec {
            name: "pixels".to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![None, Some(3)],
        };
        assert!(spec.admits(&[7, 3]) && spec.admits(&[0, 3]));
        assert!(!spec.admits(&[7, 4]) && !spec.admits(&[3]) && !spec.admits(&[7, 3, 1]));
    }
}
