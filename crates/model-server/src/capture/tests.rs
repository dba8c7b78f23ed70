use clap::Parser;

use super::*;
use crate::config::{ServeArguments, Settings};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
}

fn settings(more: &[&str]) -> Settings {
    let arguments = [&["model-server", "--model-version=v1"], more].concat();
    Arguments::parse_from(arguments).serve.resolve().unwrap()
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::starting_at(Instant::now()))
}

/// A capture whose queue no thread empties.
fn stalled(inputs: usize) -> (Capture, Receiver<CapturedText>) {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let capture = Capture {
        inputs,
        answered: AtomicUsize::new(0),
        sender: Mutex::new(Some(sender)),
        ended: Mutex::new(None),
        metrics: metrics(),
    };
    (capture, receiver)
}

fn writer(path: PathBuf) -> SampleWriter {
    SampleWriter {
        path,
        redact: Redaction::DigitsAndEmails,
        lines: BTreeMap::new(),
        failed: false,
        metrics: metrics(),
    }
}

fn captured(place: usize, text: &str, label: Option<&str>) -> CapturedText {
    CapturedText {
        place,
        input: GoldenInput {
            text: text.to_owned(),
            text_pair: None,
        },
        label: label.map(str::to_owned),
    }
}

#[test]
fn capture_is_off_by_default_and_with_an_empty_directory() {
    for more in [&[][..], &["--capture-directory", ""]] {
        let settings = settings(more);
        let capture = Capture::start(&settings.capture, &settings.model, &metrics());
        assert!(capture.unwrap().is_none());
    }
}

/// The deployer's tests read the same file.
#[test]
fn sample_equals_the_golden_set_that_the_deployer_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.jsonl");
    let (sender, receiver) = sync_channel(4);
    for text in [
        captured(1, "replaced", None),
        captured(0, "a \"fine\"\nfilm", Some("positive")),
        captured(1, "call 5551212", Some("negative")),
        captured(2, "no label", None),
    ] {
        sender.send(text).unwrap();
    }
    drop(sender);
    writer(path.clone()).run(&receiver);
    let expected = include_str!("../../tests/data/captured.jsonl");
    assert_eq!(fs::read_to_string(path).unwrap(), expected);
}

#[test]
fn every_text_has_the_same_chance_to_be_sampled() {
    fastrand::seed(7);
    let (capture, _receiver) = stalled(1000);
    let mut sample = BTreeMap::new();
    for number in 0..10_000_u32 {
        if let Some(place) = capture.draw() {
            sample.insert(place, number);
        }
    }
    assert_eq!(sample.len(), 1000);
    // Of each tenth of the texts, about 100 are in the sample. 5 standard deviations are 47.
    for tenth in 0..10 {
        let count = sample.values().filter(|it| **it / 1000 == tenth).count();
        assert!((53..=147).contains(&count), "{count} of tenth {tenth}");
    }
}

#[test]
fn long_texts_are_not_sampled() {
    let (capture, _receiver) = stalled(9);
    let longest = "a".repeat(MAX_TEXT_BYTES);
    assert!(capture.copy(&longest, None).is_some());
    assert!(capture.copy(&longest, Some("a")).is_none());
    assert!(capture.copy(&(longest + "a"), None).is_none());
}

#[test]
fn second_text_of_a_pair_is_sampled_and_redacted() {
    let (capture, receiver) = stalled(9);
    let copy = capture.copy("Is it 9?", Some("It is 8."));
    copy.unwrap().keep(Some("no"));
    let line = line(receiver.try_recv().unwrap(), Redaction::DigitsAndEmails);
    let expected = r#"{"input":{"text":"Is it 0?","text_pair":"It is 0."},"expect":"no"}"#;
    assert_eq!(line.trim_end(), expected);
}

#[test]
fn texts_beyond_the_queue_are_dropped_and_counted() {
    let (capture, receiver) = stalled(usize::MAX);
    for _ in 0..MAX_WAITING + 3 {
        capture.copy("fine", None).unwrap().keep(Some("positive"));
    }
    assert_eq!(capture.metrics.captures_dropped.get(), 3);
    assert_eq!(receiver.try_iter().count(), MAX_WAITING);
}

#[test]
fn failed_write_is_counted_and_made_up_for() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("later");
    let mut writer = writer(directory.join("sample.jsonl"));
    writer.lines.insert(0, "line\n".to_owned());
    assert!(!writer.write() && !writer.write());
    assert_eq!(writer.metrics.capture_write_errors.get(), 2);
    fs::create_dir(&directory).unwrap();
    assert!(writer.write());
    assert_eq!(fs::read_to_string(&writer.path).unwrap(), "line\n");
}

#[test]
fn full_disk_fails_the_write_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.jsonl");
    std::os::unix::fs::symlink("/dev/full", path.with_extension("jsonl.new")).unwrap();
    let error = write_file(&path, ["line\n"]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn redaction_replaces_digits_and_addresses_only() {
    for (text, expected) in [
        ("call +49 170 1234567", "call +00 000 0000000"),
        ("<jo.doe@example.org>,\nthanks", "[email]\nthanks"),
        (" two  spaces\t٣ ", " two  spaces\t0 "),
        ("", ""),
    ] {
        assert_eq!(
            redact(text.to_owned(), Redaction::DigitsAndEmails),
            expected
        );
        assert_eq!(redact(text.to_owned(), Redaction::Nothing), text);
    }
}
