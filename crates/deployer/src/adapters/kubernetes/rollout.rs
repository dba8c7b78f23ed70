//! What a Deployment and its pods say of a rollout.

use serde_json::Value;

use crate::ports::PortError;

/// How far a rollout is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rollout {
    /// All replicas are of the new release and ready.
    Done,
    /// It goes on, and this many of the wanted replicas are ready.
    Running { ready: u64, wanted: u64 },
    /// It cannot succeed, for this reason.
    Failed(String),
}

/// Reasons of a waiting container that time does not mend.
const HOPELESS: [&str; 7] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// Judges a Deployment, and the pods of its newest revision.
pub(super) fn judge(deployment: &Value, pods: &[Value]) -> Rollout {
    let number = |place: &str| deployment.pointer(place).and_then(Value::as_u64);
    let wanted = number("/spec/replicas").unwrap_or(1);
    let [updated, ready, all] = ["updatedReplicas", "readyReplicas", "replicas"]
        .map(|name| number(&format!("/status/{name}")).unwrap_or(0));
    // The status may still be that of the release before.
    let observed = number("/status/observedGeneration") >= number("/metadata/generation");
    if observed && updated == wanted && ready == wanted && all == wanted {
        return Rollout::Done;
    }
    if let Some(trouble) = pods.iter().find_map(trouble) {
        return Rollout::Failed(trouble);
    }
    if observed && let Some(message) = deadline_exceeded(deployment) {
        return Rollout::Failed(message);
    }
    Rollout::Running { ready, wanted }
}

/// Why a pod does not become ready by itself; `None` if it may.
fn trouble(pod: &Value) -> Option<String> {
    // A pod of the release before is ending.
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or("?");
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    statuses.iter().find_map(|status| {
        let waiting = &status["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        if !HOPELESS.contains(&reason) {
            return None;
        }
        let message = waiting["message"].as_str().unwrap_or_default();
        let ended = &status["lastState"]["terminated"]["exitCode"];
        let ended = ended.as_i64().map_or_else(String::new, |code| {
            format!("; it exited with {code} before")
        });
        Some(format!("pod {name}: {reason}: {message}{ended}"))
    })
}

fn deadline_exceeded(deployment: &Value) -> Option<String> {
    let conditions = deployment["status"]["conditions"].as_array()?;
    let progressing = conditions.iter().find(|it| it["type"] == "Progressing")?;
    (progressing["reason"] == "ProgressDeadlineExceeded").then(|| {
        let message = progressing["message"].as_str();
        message.unwrap_or("it makes no progress").to_owned()
    })
}

/// Fails if the replicas of a color do not run the same image: a tag may have moved between two pulls.
pub(super) fn check_same_image(pods: &[Value]) -> Result<(), PortError> {
    let mut images = pods
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| {
            let image = pod
                .pointer("/status/containerStatuses/0/imageID")?
                .as_str()?;
            Some((pod["metadata"]["name"].as_str().unwrap_or("?"), image))
        });
    let Some((first, wanted)) = images.next() else {
        return Ok(());
    };
    match images.find(|(_, image)| *image != wanted) {
        None => Ok(()),
        Some((other, image)) => Err(PortError::Invalid(format!(
            "the replicas run different images: {first} runs {wanted}, {other} runs {image}"
        ))),
    }
}
