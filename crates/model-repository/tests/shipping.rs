//! `scripts/vm` sends all files of a release. Stand-ins for ssh, rsync, and docker take the place of a machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use model_repository::ReleaseDirectory;

/// The exit code of the last step that the machine takes.
const END: i32 = 42;

/// Answers the commands that `ship` runs on the machine until the model is there.
const SSH: &str = r#"#!/bin/sh
case "$*" in
*"bash -s -- blue-green vision '' v1"*) cat >/dev/null; exit 3 ;;
*"bash -s"*) cat >/dev/null; echo "$*" >"$SENT/placed"; exit 42 ;;
*MODEL_NAME*) echo vision ;;
*stat*) echo 0 ;;
*df*) echo 99999M ;;
esac
"#;

const RSYNC: &str = r#"#!/bin/sh
for argument; do
    case $argument in target/*) cp "$argument" "$SENT/archive" ;; esac
done
"#;

const DOCKER: &str = "#!/bin/sh\necho sha256:0123456789abcdef\n";

/// A checkout with only what `scripts/vm` reads, and a model root.
struct Laptop {
    root: tempfile::TempDir,
}

impl Laptop {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let laptop = Self { root };
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for directory in ["scripts/vm.d", "bin", "sent", "models/vision/v1"] {
            fs::create_dir_all(laptop.path(directory)).unwrap();
        }
        for name in [
            "compose.yaml",
            "scripts/vm",
            "scripts/vm.d/place-model",
            "scripts/vm.d/release-files",
        ] {
            fs::copy(repository.join(name), laptop.path(name)).unwrap();
        }
        for (name, script) in [("ssh", SSH), ("rsync", RSYNC), ("docker", DOCKER)] {
            let path = laptop.path("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        laptop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn ship(&self) -> Output {
        let programs = format!(
            "{}:{}",
            self.path("bin").display(),
            env::var("PATH").unwrap()
        );
        Command::new(self.path("scripts/vm"))
            .args(["ship", "v1"])
            .envs([
                ("HOST", "user@machine"),
                ("MODEL", "vision"),
                ("PATH", &programs),
            ])
            .env("SENT", self.path("sent"))
            .output()
            .unwrap()
    }
}

#[test]
fn ship_sends_weights_in_other_files_and_the_graph_in_its_directory() {
    let laptop = Laptop::new();
    let release = laptop.path("models/vision/v1");
    let fixture = "../model-server/tests/data/models/external/1";
    fs::create_dir(release.join("onnx")).unwrap();
    for name in ["model.onnx", "model.onnx_data"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
        fs::copy(fixture.join(name), release.join("onnx").join(name)).unwrap();
    }
    for name in ["config.json", "tokenizer.json", "pytorch_model.bin"] {
        fs::write(release.join(name), name).unwrap();
    }
    let output = laptop.ship();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(END), "{log}");

    // What arrived is the same release.
    let arrived = laptop.path("machine/vision/v1");
    fs::create_dir_all(&arrived).unwrap();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(laptop.path("sent/archive"))
        .current_dir(&arrived)
        .status();
    assert!(unpacked.unwrap().success());
    let [sent, arrived] = ["models", "machine"]
        .map(|root| ReleaseDirectory::locate(&laptop.path(root), "vision", "v1").unwrap());
    let digest = sent.digest().unwrap();
    assert_eq!(arrived.digest().unwrap(), digest);
    assert!(!arrived.file("pytorch_model.bin").exists());
    let placed = fs::read_to_string(laptop.path("sent/placed")).unwrap();
    let expected =
        format!("v1 {digest} config.json onnx/model.onnx onnx/model.onnx_data tokenizer.json");
    assert!(placed.contains(&expected), "{placed}");
}

#[test]
fn ship_refuses_a_release_without_a_graph() {
    let laptop = Laptop::new();
    let output = laptop.ship();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("models/vision/v1 has no graph"), "{log}");
}
