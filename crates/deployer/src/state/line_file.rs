//! Files to which lines are added.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

/// Returns whether the last line lacks its end, as after a full disk or a power cut.
pub(crate) fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
