//! The files on a laptop: a checkout, a model for tensors, and an image derived from the model server's.

use std::{fs, io::Write as _, path::Path, process::Command, time::SystemTime};

use end_to_end::repository;
use tempfile::TempDir;

use crate::{
    Result,
    machine::{Machine, run},
};

/// A fresh checkout with what `scripts/vm` needs.
pub(crate) struct Checkout(TempDir);

impl Checkout {
    pub(crate) fn fresh() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut copy = Command::new("cp");
        copy.arg("-r");
        for name in ["compose.yaml", "nginx", "scripts", "models", ".env"] {
            let path = repository().join(name);
            // Only a machine without a registry has settings.
            if path.exists() {
                copy.arg(path);
            }
        }
        run(copy.arg(directory.path()))?;
        Ok(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts another release under this version.
    pub(crate) fn mistake(&self, version: &str, other: &str) -> Result {
        let models = self.path().join("models/sentiment");
        fs::remove_dir_all(models.join(version))?;
        fs::rename(models.join(other), models.join(version))?;
        Ok(())
    }
}

/// A service with a model for tensors, beside the service for texts.
pub(crate) struct Tensors {
    models: TempDir,
    image: String,
}

impl Tensors {
    /// Its port for clients.
    pub(crate) const PORT: u16 = 9080;
    /// Its control port.
    pub(crate) const INFER: &str = "/v2/models/tokens/infer";

    /// The graphs of the shipped releases, as the model `tokens`, on `image`.
    pub(crate) fn new(image: &Derived) -> Result<Self> {
        let models = tempfile::tempdir()?;
        let tokens = models.path().join("tokens");
        for version in ["v1", "v2"] {
            fs::create_dir_all(tokens.join(version))?;
            let graph = repository().join(format!("models/sentiment/{version}/model.onnx"));
            fs::copy(graph, tokens.join(version).join("model.onnx"))?;
        }
        make_heavy(&tokens.join("v1/model.onnx"))?;
        fs::write(
            tokens.join("golden.jsonl"),
            format!("{{\"input\": {}}}\n", Self::request()),
        )?;
        Ok(Self {
            models,
            image: image.0.clone(),
        })
    }

    /// Sets the modification time of the heavy graph.
    pub(crate) fn touch(&self, when: SystemTime) -> Result {
        let graph = self.models.path().join("tokens/v1/model.onnx");
        let file = fs::OpenOptions::new().append(true).open(graph)?;
        Ok(file.set_modified(when)?)
    }

    /// Three tokens.
    pub(crate) fn request() -> serde_json::Value {
        let input = |name, data: [u8; 3]| serde_json::json!({"name": name, "datatype": "INT64", "shape": [1, 3], "data": data});
        serde_json::json!({"inputs": [input("input_ids", [2, 7, 3]), input("attention_mask", [1, 1, 1])]})
    }

    /// `scripts/vm` of a checkout, for this service.
    pub(crate) fn vm(&self, machine: &Machine, checkout: &Path, arguments: &[&str]) -> Command {
        let mut vm = machine.vm_of(checkout, arguments);
        vm.env("NAME", "second")
            .env("PORT", Self::PORT.to_string())
            .env("MODEL", "tokens")
            .env("MODEL_ROOT", self.models.path())
            .env("IMAGE", &self.image);
        vm
    }
}

/// Gives a graph a long, incompressible description, so that its upload takes long enough to be interrupted.
fn make_heavy(graph: &Path) -> Result {
    const LENGTH: usize = 1 << 25;
    // Field 6 of ONNX's ModelProto, `doc_string`, in Protocol Buffers' encoding, with its length in groups of
    // seven bits.
    let mut field = vec![6 << 3 | 2, 0x80, 0x80, 0x80, 0x10];
    debug_assert_eq!(LENGTH, 0x10 << 21);
    field.extend(std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(LENGTH));
    fs::OpenOptions::new()
        .append(true)
        .open(graph)?
        .write_all(&field)?;
    Ok(())
}

/// An image with one small layer on top of the model server's, removed when dropped.
pub(crate) struct Derived(pub(crate) String);

impl Derived {
    pub(crate) fn new() -> Result<Self> {
        let name = format!("model-server-derived-{}", std::process::id());
        let directory = tempfile::tempdir()?;
        let recipe = "FROM model-server:latest\nCOPY Dockerfile /\n";
        fs::write(directory.path().join("Dockerfile"), recipe)?;
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--tag", &name]);
        run(build.arg(directory.path()))?;
        Ok(Self(name))
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["image", "rm", &self.0])
            .output();
    }
}
