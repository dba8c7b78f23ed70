use proptest::prelude::*;

use super::*;

/// A history as the deployer writes it, and the newest line that it remembers.
#[derive(Default)]
struct Written {
    file: Vec<u8>,
    remembered: Option<NewestLine>,
}

impl Written {
    fn with(count: usize) -> Self {
        let mut written = Self::default();
        for _ in 0..count {
            written.append();
        }
        written
    }

    fn append(&mut self) {
        if self.file.last().is_some_and(|last| *last != b'\n') {
            self.file.push(b'\n');
        }
        let link = next_link(&self.file, self.remembered.as_ref());
        let mut object = serde_json::json!({"action": "promoted", "reason": "it is good"});
        object["number"] = link.number.into();
        object["previous"] = link.previous.into();
        let text = object.to_string();
        self.remembered = Some(NewestLine {
            number: link.number,
            sha256: sha256(text.as_bytes()),
        });
        self.file.extend_from_slice(text.as_bytes());
        self.file.push(b'\n');
    }

    fn edit(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        let text = String::from_utf8(self.file.clone()).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        self.file = lines.concat_lines();
    }

    fn verify(&self) -> Verification {
        verify(&self.file, self.remembered.as_ref(), None)
    }

    fn breaks(&self) -> Vec<(usize, BreakKind)> {
        let breaks = self.verify().breaks;
        breaks.iter().map(|it| (it.line, it.kind)).collect()
    }
}

trait ConcatLines {
    fn concat_lines(&self) -> Vec<u8>;
}

impl ConcatLines for Vec<String> {
    fn concat_lines(&self) -> Vec<u8> {
        self.iter()
            .flat_map(|line| [line.as_bytes(), b"\n"].concat())
            .collect()
    }
}

fn reworded(line: &str) -> String {
    line.replace("it is good", "it is bad")
}

#[test]
fn sha256_matches_published_value() {
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(b"abc"), expected);
}

#[test]
fn unchanged_history_is_intact() {
    assert_eq!(Written::default().verify(), Verification::default());
    let written = Written::with(3);
    let verified = written.verify();
    assert_eq!((verified.lines, verified.before_chain), (3, 0));
    assert_eq!((verified.breaks, verified.torn), (vec![], vec![]));
    assert_eq!(verified.newest, written.remembered.map(|it| it.sha256));
}

#[test]
fn edited_line_is_named() {
    for edited in 0..4 {
        let mut written = Written::with(4);
        written.edit(|lines| lines[edited] = reworded(&lines[edited]));
        assert_eq!(written.breaks(), [(edited + 1, BreakKind::Edited)]);
        written.append();
        assert_eq!(
            written.breaks(),
            [(edited + 1, BreakKind::Edited)],
            "it stays known after the next line"
        );
    }
}

#[test]
fn removed_line_is_named() {
    for removed in 0..4 {
        let mut written = Written::with(4);
        written.edit(|lines| drop(lines.remove(removed)));
        assert_eq!(written.breaks(), [(removed + 1, BreakKind::Removed)]);
        written.append();
        assert_eq!(written.breaks(), [(removed + 1, BreakKind::Removed)]);
    }
}

#[test]
fn removed_end_is_found_without_remembered_line_by_wanted_hash() {
    let mut written = Written::with(4);
    let hash = written.verify().newest.unwrap();
    written.edit(|lines| lines.truncate(2));
    let verified = verify(&written.file, None, None);
    assert_eq!(verified.breaks, []);
    let verified = verify(&written.file, None, Some(&hash));
    assert_eq!(verified.breaks[0].kind, BreakKind::Unknown);
    written.file.clear();
    assert_eq!(written.breaks(), [(1, BreakKind::Removed)]);
}

#[test]
fn reordered_and_added_lines_are_named() {
    let mut written = Written::with(4);
    written.edit(|lines| lines.swap(1, 2));
    assert_eq!(written.breaks()[0], (2, BreakKind::Moved));
    let mut written = Written::with(4);
    written.edit(|lines| lines.insert(2, lines[1].clone()));
    assert_eq!(written.breaks(), [(3, BreakKind::Moved)]);
    let mut written = Written::with(4);
    written.edit(|lines| lines.insert(2, "{\"action\":\"promoted\"}".to_owned()));
    assert_eq!(
        written.breaks(),
        [(3, BreakKind::Added), (4, BreakKind::Moved)]
    );
}

#[test]
fn chain_goes_on_after_a_torn_line() {
    let mut written = Written::with(2);
    written.file.extend_from_slice(b"{\"action\":\"prom");
    for _ in 0..2 {
        let verified = written.verify();
        assert_eq!((verified.torn, verified.breaks), (vec![3], vec![]));
        written.append();
    }
    let mut powerless = Written::with(2);
    powerless.file.extend_from_slice(&[0; 40]);
    powerless.append();
    assert_eq!(powerless.verify().torn, [3]);
    assert_eq!(powerless.breaks(), []);
}

#[test]
fn line_shortened_later_is_damaged_not_torn() {
    let mut written = Written::with(4);
    written.edit(|lines| lines[1].truncate(20));
    assert_eq!(written.breaks(), [(2, BreakKind::Damaged)]);
    assert_eq!(written.verify().torn, [0; 0]);
    let mut written = Written::with(4);
    let length = written.file.len();
    written.file.truncate(length - 20);
    assert_eq!(written.breaks(), [(4, BreakKind::Damaged)]);
    written.append();
    assert_eq!(written.breaks(), [(4, BreakKind::Damaged)]);
}

#[test]
fn edited_torn_line_is_damaged() {
    let mut written = Written::with(1);
    written.file.extend_from_slice(b"{\"action");
    written.append();
    written.edit(|lines| lines[1].push('x'));
    assert_eq!(written.breaks(), [(2, BreakKind::Damaged)]);
}

#[test]
fn remembered_line_may_lag_behind_after_a_kill() {
    let mut written = Written::with(2);
    let lagging = written.remembered.clone();
    written.append();
    written.remembered = lagging;
    assert_eq!(written.breaks(), []);
    written.append();
    assert_eq!(written.breaks(), []);
}

#[test]
fn lines_from_before_the_chain_are_counted() {
    let old = "{\"action\":\"promoted\"}\n{\"action\":\"refused\"}\n";
    let mut written = Written {
        file: old.as_bytes().to_vec(),
        remembered: None,
    };
    assert_eq!(written.verify().before_chain, 2);
    written.append();
    let verified = written.verify();
    assert_eq!((verified.before_chain, verified.lines), (2, 3));
    assert_eq!(verified.breaks, []);
    written.edit(|lines| lines[1] = "{\"action\":\"halted\"}".to_owned());
    assert_eq!(written.breaks(), [(2, BreakKind::Edited)]);
    written.edit(|lines| drop(lines.remove(0)));
    assert!(!written.breaks().is_empty());
}

proptest! {
    #[test]
    fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut written = Written::with(5);
        let at = at.index(written.file.len());
        // Without its end the newest line is still complete.
        prop_assume!(written.file[at] != byte && at + 1 < written.file.len());
        written.file[at] = byte;
        prop_assert!(!written.breaks().is_empty());
    }

    #[test]
    fn verification_never_panics(file in prop::collection::vec(any::<u8>(), 0..200), number in any::<u64>()) {
        let remembered = NewestLine { number, sha256: String::new() };
        let _ = verify(&file, Some(&remembered), Some(""));
        let _ = next_link(&file, Some(&remembered));
    }
}
