use std::{os::unix::fs::symlink, process::Command};

use super::*;

const MODEL_FILE: &str = "model.onnx";
const TEXT_FILES: [&str; 3] = [CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE];

fn root_with_v1() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let release = root.path().join("sentiment/v1");
    fs::create_dir_all(&release).unwrap();
    for name in TEXT_FILES {
        fs::write(release.join(name), name).unwrap();
    }
    root
}

/// Returns the digest of the listing that `sha256sum` prints for these files.
fn sha256sum(release: &ReleaseDirectory, files: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("sha256sum {files} | sha256sum")])
        .current_dir(&release.path)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.split(' ').next().unwrap().to_owned()
}

/// Encodes a field of a Protocol Buffers message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(0x80 | u8::try_from(length & 0x7f).unwrap());
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend(content);
    bytes
}

/// A tensor whose values are in another file. Its name contains the path of a file that is not part of a release.
fn tensor(location: &str) -> Vec<u8> {
    let entry = |key: &[u8], value: &[u8]| field(13, &[field(1, key), field(2, value)].concat());
    let location = entry(b"location", location.as_bytes());
    // Field 1 is a packed dimension, and field 14 says EXTERNAL.
    [
        field(1, &[4]),
        field(8, b"model.embeddings"),
        entry(b"offset", b"0"),
        location,
        vec![14 << 3, 1],
    ]
    .concat()
}

/// A model with weights in these files.
fn graph(locations: &[&str]) -> Vec<u8> {
    let tensors = locations
        .iter()
        .flat_map(|location| field(5, &tensor(location)));
    field(7, &tensors.collect::<Vec<u8>>())
}

/// A tensor model whose graph has the path `graph_file`, and weights in `locations`.
fn release_with_data(
    graph_file: &str,
    locations: &[&str],
) -> (tempfile::TempDir, ReleaseDirectory) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("vision/v1")).unwrap();
    let release = ReleaseDirectory::locate(root.path(), "vision", "v1").unwrap();
    let path = release.file(graph_file);
    let directory = path.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(&path, graph(locations)).unwrap();
    for location in locations {
        let file = directory.join(location);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, location).unwrap();
    }
    (root, release)
}

#[test]
fn digest_covers_weights_in_other_files() {
    let locations = ["model.onnx_data", "weights/part one", "./a.bin"];
    let (_root, release) = release_with_data(MODEL_FILE, &locations);
    let files = "a.bin model.onnx model.onnx_data 'weights/part one'";
    assert_eq!(release.digest().unwrap(), sha256sum(&release, files));
    fs::write(release.file("model.onnx_data"), "changed").unwrap();
    let changed = release.digest().unwrap();
    assert_eq!(changed, sha256sum(&release, files));

    let (_root, release) = release_with_data("onnx/model.onnx", &["model.onnx_data"]);
    for name in [CONFIG_FILE, TOKENIZER_FILE] {
        fs::write(release.file(name), name).unwrap();
    }
    let files = "config.json onnx/model.onnx onnx/model.onnx_data tokenizer.json";
    assert_eq!(release.digest().unwrap(), sha256sum(&release, files));
}

#[test]
fn weights_are_found_wherever_a_graph_may_have_tensors() {
    let tensor = tensor("weights.data");
    let attribute = |number| field(5, &field(number, &tensor));
    let sparse = field(2, &tensor);
    let branch = field(1, &field(5, &field(6, &field(5, &tensor))));
    for (place, model) in [
        ("initializer", field(7, &field(5, &tensor))),
        ("sparse initializer", field(7, &field(15, &sparse))),
        ("constant", field(7, &field(1, &attribute(5)))),
        ("constants", field(7, &field(1, &attribute(10)))),
        ("branch", field(7, &branch)),
        // A field before the graph, and one after it.
        (
            "metadata",
            [vec![8, 8], field(7, &field(5, &tensor)), field(14, b"more")].concat(),
        ),
    ] {
        let (_root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
        fs::write(release.file(MODEL_FILE), model).unwrap();
        let found = release.data_files(MODEL_FILE).unwrap();
        assert_eq!(found.len(), 1, "{place}");
        assert_eq!(found[0].name, "weights.data", "{place}");
    }
}

#[test]
fn weights_inside_the_graph_are_skipped() {
    let (_root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
    let mut inside = tensor("weights.data");
    inside.pop();
    inside.push(0);
    let weights = vec![0x5a; 1 << 20];
    let model = [field(5, &field(9, &weights)), field(5, &inside)].concat();
    fs::write(release.file(MODEL_FILE), field(7, &model)).unwrap();
    assert_eq!(release.data_files(MODEL_FILE).unwrap(), []);
}

#[test]
fn file_without_tensors_names_no_files_and_a_graph_that_breaks_off_is_refused() {
    let (_root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
    let whole = graph(&["weights.data"]);
    // The graph and its tensor begin with a key and a length each.
    for length in 0..4 {
        fs::write(release.file(MODEL_FILE), &whole[..length]).unwrap();
        assert_eq!(release.data_files(MODEL_FILE).unwrap(), [], "{length}");
    }
    let behind_a_tensor = |bytes: &[u8]| [&whole, bytes].concat();
    for damaged in [
        behind_a_tensor(&field(7, &[5 << 3 | 2, 9])),
        behind_a_tensor(&[7]),
        field(7, &field(5, &[&*tensor("weights.data"), &[7]].concat())),
        graph(&[&"a".repeat(5000)]),
    ] {
        fs::write(release.file(MODEL_FILE), damaged).unwrap();
        let message = release.digest().unwrap_err().to_string();
        assert!(
            message.contains("vision/v1/model.onnx is damaged"),
            "{message}"
        );
    }
    let deep = (0..200).fold(Vec::new(), |inner, _| {
        field(1, &field(5, &field(6, &inner)))
    });
    fs::write(release.file(MODEL_FILE), field(7, &deep)).unwrap();
    assert_eq!(release.data_files(MODEL_FILE).unwrap(), []);
}

/// A graph that only this crate cannot read would be served with files that nothing checked.
#[test]
fn weights_are_found_behind_what_other_readers_ignore() {
    let [group_start, group_end] = [9 << 3 | 3, 9 << 3 | 4];
    let ignored = [
        vec![group_start, group_start, 8, 1, group_end, group_end],
        vec![group_start, 0x0a, 1, b'x', group_end],
    ];
    for ignored in ignored {
        let (_root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
        let model = [&*ignored, &graph(&["weights.data"])].concat();
        fs::write(release.file(MODEL_FILE), model).unwrap();
        assert_eq!(
            release.data_files(MODEL_FILE).unwrap().len(),
            1,
            "{ignored:?}"
        );
    }
    // EXTERNAL, an unknown value, and EXTERNAL behind 32 bits that are truncated.
    let unknown = [14 << 3, 7].to_vec();
    let wide = [14 << 3, 0x81, 0x80, 0x80, 0x80, 0x10].to_vec();
    for more in [unknown, wide] {
        let (_root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
        let tensor = [tensor("weights.data"), more.clone()].concat();
        fs::write(release.file(MODEL_FILE), field(7, &field(5, &tensor))).unwrap();
        assert_eq!(release.data_files(MODEL_FILE).unwrap().len(), 1, "{more:?}");
    }
}

#[test]
fn weights_outside_of_the_release_are_refused() {
    let (root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
    let refusal = |location: &str| {
        fs::write(release.file(MODEL_FILE), graph(&[location])).unwrap();
        release.digest().unwrap_err().to_string()
    };
    for (location, problem) in [
        (
            "../v2/weights.data",
            "leads out of the directory of the graph",
        ),
        ("/etc/passwd", "leads out of the directory of the graph"),
        (
            "a/../../weights.data",
            "leads out of the directory of the graph",
        ),
        ("a\\weights.data", "has a backslash"),
        ("a\nb", "control character"),
        ("missing.data", "keeps weights in this file: copy it there"),
        ("", "has no name"),
        ("a", "is not a file"),
    ] {
        fs::create_dir_all(release.file("a")).unwrap();
        let message = refusal(location);
        assert!(message.contains(problem), "{location:?}: {message}");
        assert!(message.contains("vision/v1/model.onnx"), "{message}");
    }
    let outside = root.path().join("weights");
    fs::write(&outside, "weights").unwrap();
    symlink(&outside, release.file("linked.data")).unwrap();
    let message = refusal("linked.data");
    assert!(
        message.contains("is a symbolic link out of the release"),
        "{message}"
    );
    symlink("weights.data", release.file("inner.data")).unwrap();
    fs::write(release.file(MODEL_FILE), graph(&["inner.data"])).unwrap();
    release.digest().unwrap();
}

#[test]
fn graph_is_found_by_its_usual_paths_and_otherwise_if_it_is_the_only_one() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("vision/v1/onnx")).unwrap();
    let release = ReleaseDirectory::locate(root.path(), "vision", "v1").unwrap();
    let message = release.graph().unwrap_err().to_string();
    assert!(message.contains("vision/v1/onnx/model.onnx"), "{message}");
    for (added, expected) in [
        ("notes.txt", None),
        ("onnx/model_fp16.onnx", Some("onnx/model_fp16.onnx")),
        ("model_quantized.onnx", None),
        ("onnx/model.onnx", Some("onnx/model.onnx")),
        ("model.onnx", Some("model.onnx")),
    ] {
        fs::write(release.file(added), "").unwrap();
        let graph = release.graph().ok();
        assert_eq!(graph.as_deref(), expected, "{added}");
        if added == "model_quantized.onnx" {
            let message = release.graph().unwrap_err().to_string();
            let expected = "model_quantized.onnx, onnx/model_fp16.onnx; rename";
            assert!(message.contains(expected), "{message}");
        }
    }
}

/// The script that lists the files for `scripts/vm`.
fn script() -> Command {
    let path = "../../scripts/vm.d/release-files";
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
}

/// `scripts/vm` sends the same files.
#[test]
fn script_that_ships_lists_the_files_of_the_digest() {
    let listed = |release: &ReleaseDirectory| {
        let output = script().arg(&release.path).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    };
    let long = format!("weights/{}", "long ".repeat(40));
    let locations = [
        "model.onnx_data",
        "weights/part one",
        "weights//two",
        "./a.bin",
        "B.bin",
        "tenletters",
        &long,
    ];
    for graph_file in [MODEL_FILE, "onnx/model.onnx", "model_fp16.onnx"] {
        for is_text in [false, true] {
            let (_root, release) = release_with_data(graph_file, &locations);
            let directory = release.file(graph_file);
            // The graph contains all these names, but keeps no weights there.
            for decoy in ["model", "location", "offset", "two", "weights/part"] {
                let decoy = directory.parent().unwrap().join(decoy);
                fs::write(decoy, "not served").unwrap();
            }
            if is_text {
                for name in [CONFIG_FILE, TOKENIZER_FILE, WARM_UP_FILE] {
                    fs::write(release.file(name), name).unwrap();
                }
            }
            let files: Vec<_> = release.files().unwrap().into_iter().collect();
            let expected = files.join("\n") + "\n";
            assert_eq!(listed(&release).as_deref(), Ok(&*expected));
        }
    }
    let (_root, release) = release_with_data("a.onnx", &[]);
    fs::write(release.file("b.onnx"), "").unwrap();
    let message = listed(&release).unwrap_err();
    assert!(
        message.contains("several graphs: a.onnx b.onnx"),
        "{message}"
    );
    fs::remove_file(release.file("a.onnx")).unwrap();
    fs::remove_file(release.file("b.onnx")).unwrap();
    assert!(listed(&release).unwrap_err().contains("no graph"));
    fs::write(release.file(MODEL_FILE), "").unwrap();
    fs::write(release.file(CONFIG_FILE), "").unwrap();
    assert!(listed(&release).unwrap_err().contains("no tokenizer.json"));
}

#[test]
fn digest_matches_sha256sum() {
    let root = root_with_v1();
    let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
    assert_eq!(
        release.digest().unwrap(),
        sha256sum(&release, "config.json model.onnx tokenizer.json")
    );
}

#[test]
fn digest_changes_with_any_file() {
    let root = root_with_v1();
    let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
    for name in TEXT_FILES {
        let before = release.digest().unwrap();
        fs::write(release.file(name), "changed").unwrap();
        assert_ne!(before, release.digest().unwrap(), "{name}");
    }
}

#[test]
fn digest_covers_the_warm_up() {
    let root = root_with_v1();
    let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
    fs::write(release.file(WARM_UP_FILE), "{}").unwrap();
    let files = "config.json model.onnx tokenizer.json warmup.jsonl";
    assert_eq!(release.digest().unwrap(), sha256sum(&release, files));
}

#[test]
fn unknown_version_error_names_path_and_present_versions() {
    let root = root_with_v1();
    let error = ReleaseDirectory::locate(root.path(), "sentiment", "v9").unwrap_err();
    let message = error.to_string();
    assert!(message.contains("sentiment/v9"), "{message}");
    assert!(message.ends_with("present: v1"), "{message}");
}

#[test]
fn missing_file_error_names_its_path() {
    let root = root_with_v1();
    let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
    fs::remove_file(release.file(MODEL_FILE)).unwrap();
    let message = release.digest().unwrap_err().to_string();
    assert!(message.contains("sentiment/v1/model.onnx"), "{message}");
}

#[test]
fn release_without_tokenizer_and_labels_is_tensor_model() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("vision/v1");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(MODEL_FILE), "one graph").unwrap();
    let release = ReleaseDirectory::locate(root.path(), "vision", "v1").unwrap();
    assert!(!release.reads_texts());
    let digest = release.digest().unwrap();
    fs::write(path.join(MODEL_FILE), "another graph").unwrap();
    assert_ne!(release.digest().unwrap(), digest);
    // Labels without a tokenizer are a mistake, not a tensor model.
    fs::write(path.join(CONFIG_FILE), "{}").unwrap();
    assert!(release.reads_texts() && release.digest().is_err());
}

#[test]
fn version_cannot_lead_out_of_model_root() {
    let root = root_with_v1();
    for bad in ["..", ".", "", "a/b", "/etc", "../sentiment", "-v", "v\n1"] {
        let result = ReleaseDirectory::locate(root.path(), "sentiment", bad);
        assert!(
            matches!(result, Err(RepositoryError::InvalidName { .. })),
            "{bad:?}"
        );
    }
}

/// `scripts/vm` sends no file from outside of a release.
#[test]
fn script_that_ships_refuses_weights_outside_of_the_release() {
    let (root, release) = release_with_data(MODEL_FILE, &["weights.data"]);
    fs::write(root.path().join("weights"), "weights").unwrap();
    symlink(root.path().join("weights"), release.file("linked.data")).unwrap();
    symlink("weights.data", release.file("inner.data")).unwrap();
    fs::create_dir(release.file("directory")).unwrap();
    for (location, is_served) in [
        ("weights.data", true),
        ("inner.data", true),
        ("../../weights", false),
        ("directory/../weights.data", false),
        ("/etc/passwd", false),
        ("linked.data", false),
        ("missing.data", false),
        ("directory", false),
        ("", false),
    ] {
        fs::write(release.file(MODEL_FILE), graph(&[location])).unwrap();
        assert_eq!(release.files().is_ok(), is_served, "{location}");
        let output = script().arg(&release.path).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), is_served, "{location}: {log}");
        assert_eq!(
            log.contains("keeps weights in"),
            !is_served,
            "{location}: {log}"
        );
    }
}
