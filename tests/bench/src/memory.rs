//! How much memory a server holds, whoever else runs.

use std::collections::BTreeMap;

/// What one mapping of a process has in memory, in kilobytes.
#[derive(Debug, Default)]
struct Mapping {
    /// Device, inode and offset; none for memory that comes from no file.
    file: Option<String>,
    resident: u64,
    proportional: u64,
    private_dirty: u64,
}

/// Kilobytes that processes hold together, by the `smaps` of each of them.
///
/// What several of them share counts once. A page of a file also counts whole where others map it,
/// such as a library that other servers use too: a share of it (proportional set size) would make
/// a server look the leaner the more others run.
pub(crate) fn held<'a>(smaps: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut own = 0;
    let mut files: BTreeMap<String, u64> = BTreeMap::new();
    for mapping in smaps.into_iter().flat_map(mappings) {
        match mapping.file {
            None => own += mapping.proportional,
            Some(file) => {
                own += mapping.private_dirty;
                let shared = mapping.resident.saturating_sub(mapping.private_dirty);
                let most = files.entry(file).or_default();
                *most = shared.max(*most);
            }
        }
    }
    own + files.values().sum::<u64>()
}

/// What `/proc/PID/smaps` tells (described in proc(5)): a line for each mapping, followed by its figures.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let Some(key) = first.strip_suffix(':') else {
            let place: Vec<&str> = words.skip(1).take(3).collect();
            let file = place.last().filter(|inode| **inode != "0");
            mappings.push(Mapping {
                file: file.map(|_| place.join(" ")),
                ..Mapping::default()
            });
            continue;
        };
        let (Some(mapping), Some(kilobytes)) = (
            mappings.last_mut(),
            words.next().and_then(|word| word.parse().ok()),
        ) else {
            continue;
        };
        match key {
            "Rss" => mapping.resident = kilobytes,
            "Pss" => mapping.proportional = kilobytes,
            "Private_Dirty" => mapping.private_dirty = kilobytes,
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str = "7f00-7f80 r-xp 00001000 fe:00 42    /usr/lib/library.so
Size:              4096 kB
Rss:               2048 kB
Pss:                100 kB
Private_Dirty:     1024 kB
VmFlags: rd ex mr mw me
";
    const HEAP: &str = "5500-5600 rw-p 00000000 00:00 0    [heap]
Rss:               8192 kB
Pss:               4096 kB
Private_Dirty:        0 kB
";

    #[test]
    fn a_library_counts_whole_and_once_and_the_heap_by_its_share() {
        let alone = [LIBRARY, HEAP].concat();
        assert_eq!(held([alone.as_str()]), 6 * 1024);
        assert_eq!(held([alone.as_str(), alone.as_str()]), 11 * 1024);
    }
}
