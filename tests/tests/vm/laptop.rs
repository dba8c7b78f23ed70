//! The files on a user's laptop: a checkout, a tensor model, and an image derived from the model server's image.

use std::{fs, io::Write as _, path::Path, process::Command, time::SystemTime};

use end_to_end::repository;
use tempfile::TempDir;

use crate::{
    Result,
    machine::{Machine, run},
};

/// A copy of this checkout with only the files that `scripts/vm` needs.
pub(crate) struct Checkout(TempDir);

impl Checkout {
    pub(crate) fn create() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut copy = Command::new("cp");
        copy.arg("-r");
        for name in [
            "compose.yaml",
            "deployer.toml",
            "nginx",
            "scripts",
            "models",
            ".env",
        ] {
            let path = repository().join(name);
            // `.env` exists only on a machine that reaches no image registry.
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

    /// Replaces a version by the release of another version.
    pub(crate) fn replace_version(&self, version: &str, other: &str) -> Result {
        let models = self.path().join("models/sentiment");
        fs::remove_dir_all(models.join(version))?;
        fs::rename(models.join(other), models.join(version))?;
        Ok(())
    }
}

/// A second service with a tensor model, beside the service with the text model.
pub(crate) struct TensorService {
    models: TempDir,
    image: String,
}

impl TensorService {
    /// The service's port for clients.
    pub(crate) const PORT: u16 = 9080;
    /// The path of requests for predictions.
    pub(crate) const INFER_PATH: &str = "/v2/models/tokens/infer";

    /// Creates the model `tokens` from the graphs of the shipped releases. The service runs `image`.
    pub(crate) fn new(image: &DerivedImage) -> Result<Self> {
        let models = tempfile::tempdir()?;
        let tokens = models.path().join("tokens");
        for version in ["v1", "v2"] {
            fs::create_dir_all(tokens.join(version))?;
            let graph = repository().join(format!("models/sentiment/{version}/model.onnx"));
            fs::copy(graph, tokens.join(version).join("model.onnx"))?;
        }
        enlarge_graph(&tokens.join("v1/model.onnx"))?;
        fs::write(
            tokens.join("golden.jsonl"),
            format!("{{\"input\": {}}}\n", Self::request()),
        )?;
        Ok(Self {
            models,
            image: image.0.clone(),
        })
    }

    /// Sets the modification time of the enlarged graph.
    pub(crate) fn set_modification_time(&self, time: SystemTime) -> Result {
        let graph = self.models.path().join("tokens/v1/model.onnx");
        let file = fs::OpenOptions::new().append(true).open(graph)?;
        Ok(file.set_modified(time)?)
    }

    /// Returns a request body with three tokens.
    pub(crate) fn request() -> serde_json::Value {
        let input = |name, data: [u8; 3]| serde_json::json!({"name": name, "datatype": "INT64", "shape": [1, 3], "data": data});
        serde_json::json!({"inputs": [input("input_ids", [2, 7, 3]), input("attention_mask", [1, 1, 1])]})
    }

    /// Returns the command that runs `scripts/vm` of a checkout for this service.
    pub(crate) fn vm_command(
        &self,
        machine: &Machine,
        checkout: &Path,
        arguments: &[&str],
    ) -> Command {
        let mut command = machine.vm_command_of(checkout, arguments);
        command
            .env("NAME", "second")
            .env("PORT", Self::PORT.to_string())
            .env("MODEL", "tokens")
            .env("MODEL_ROOT", self.models.path())
            .env("IMAGE", &self.image);
        command
    }
}

/// Adds 32 MiB of random text to a graph, so that its upload takes long enough to be interrupted.
fn enlarge_graph(graph: &Path) -> Result {
    const LENGTH: usize = 1 << 25;
    // The field `doc_string` (number 6) of ONNX's ModelProto, encoded as Protocol Buffers define it. The length is
    // a varint.
    let mut field = vec![6 << 3 | 2, 0x80, 0x80, 0x80, 0x10];
    debug_assert_eq!(LENGTH, 0x10 << 21);
    field.extend(std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(LENGTH));
    fs::OpenOptions::new()
        .append(true)
        .open(graph)?
        .write_all(&field)?;
    Ok(())
}

/// An image with one small layer on top of the model server's image. It is removed when this is dropped.
pub(crate) struct DerivedImage(pub(crate) String);

impl DerivedImage {
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

impl Drop for DerivedImage {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["image", "rm", &self.0])
            .output();
    }
}
