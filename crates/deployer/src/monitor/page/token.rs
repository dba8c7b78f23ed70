//! Random secrets, and their digests.
//!
//! Keys, session identifiers, and links are 256 random bits. Nobody can guess one, so what is kept is its plain SHA-256:
//! a slow hash with a salt is for passwords, which can be guessed.

use std::io;

use model_repository::hexadecimal;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// The SHA-256 of a secret. All digests have the same length, so a comparison takes the same time for every secret.
pub(crate) type SecretDigest = [u8; 32];

/// Returns 256 random bits as 64 hexadecimal digits.
pub(crate) fn random() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(format!("no random bytes: {error}")))?;
    Ok(hexadecimal(&bytes))
}

/// Returns the digest of a secret as it is typed, sent, or stored by a browser.
pub(crate) fn digest(secret: &str) -> SecretDigest {
    Sha256::digest(secret).into()
}

/// Reads a digest of 64 hexadecimal digits.
pub(crate) fn parse_digest(text: &str) -> Option<SecretDigest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(digest)
}

/// Returns the position of `wanted`. It compares with all digests, in a time that does not depend on their bytes.
pub(crate) fn position<'a>(
    digests: impl Iterator<Item = &'a SecretDigest>,
    wanted: &SecretDigest,
) -> Option<usize> {
    let (mut found, mut position) = (Choice::from(0), 0_u64);
    for (place, digest) in (0_u64..).zip(digests) {
        let same = digest.ct_eq(wanted);
        position = u64::conditional_select(&position, &place, same);
        found |= same;
    }
    let position = usize::try_from(position).ok()?;
    bool::from(found).then_some(position)
}

/// How a file has a digest: as 64 hexadecimal digits.
pub(crate) mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{SecretDigest, hexadecimal, parse_digest};

    pub(crate) fn serialize<S: Serializer>(
        digest: &SecretDigest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hexadecimal(digest))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretDigest, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_digest(&text).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_secrets_have_256_bits_and_differ() {
        let [one, other] = [(); 2].map(|()| random().unwrap());
        assert_ne!(one, other);
        assert_eq!(hexadecimal(&parse_digest(&one).unwrap()), one);
    }

    #[test]
    fn digest_matches_sha256sum() {
        // printf abc | sha256sum
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hexadecimal(&digest("abc")), expected);
    }

    #[test]
    fn digest_of_other_length_or_digits_is_not_parsed() {
        let valid = "0".repeat(64);
        assert!(parse_digest(&valid).is_some());
        assert!(parse_digest(&valid[1..]).is_none());
        assert!(parse_digest(&format!("+{}", &valid[1..])).is_none());
        assert!(parse_digest(&"é".repeat(32)).is_none());
    }

    #[test]
    fn position_is_that_of_the_equal_digest() {
        let digests = ["a", "b", "c"].map(digest);
        assert_eq!(position(digests.iter(), &digests[0]), Some(0));
        assert_eq!(position(digests.iter(), &digests[2]), Some(2));
        assert_eq!(position(digests.iter(), &digest("d")), None);
        assert_eq!(position([].iter(), &digests[0]), None);
    }
}
