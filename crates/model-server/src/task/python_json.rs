//! JSON as Python's `json` module writes it.

/// The byte order mark that some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The numbers that Python writes although JSON has none of them.
const NOT_IN_JSON: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Returns the file as strict JSON: without a byte order mark, and with `null` for numbers that JSON lacks.
pub(super) fn to_strict_json(file: &[u8]) -> Vec<u8> {
    let mut rest = file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file);
    let mut json = Vec::with_capacity(rest.len());
    let (mut in_string, mut is_escaped) = (false, false);
    while let [byte, after @ ..] = rest {
        let number = NOT_IN_JSON.iter().find(|name| rest.starts_with(name));
        if let Some(name) = number.filter(|_| !in_string) {
            json.extend(b"null");
            rest = &rest[name.len()..];
            continue;
        }
        in_string ^= *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        json.push(*byte);
        rest = after;
    }
    json
}
