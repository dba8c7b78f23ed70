//! The images of Docker: their names, and which of them are unused. Pure.

/// The name of an image without tag and digest.
pub(super) fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    // A colon before the last slash belongs to the registry's port.
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    let tag = image[name..].find(':').map_or(image.len(), |at| name + at);
    &image[..tag]
}

/// The images that no container uses, except the first `keep`: their names, or their identifiers if they have
/// no tag. A line of `listed` is identifier and name.
pub(super) fn unused_images<'a>(listed: &'a str, used: &str, keep: usize) -> Vec<&'a str> {
    listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(id, _)| !used.lines().any(|used| used == *id))
        .skip(keep)
        .map(|(id, name)| if name.ends_with(":<none>") { id } else { name })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_repository_excludes_tag_and_digest() {
        for (image, name) in [
            ("model-server:latest", "model-server"),
            ("model-server", "model-server"),
            (
                "registry:5000/team/model-server:v2",
                "registry:5000/team/model-server",
            ),
            ("registry:5000/model-server", "registry:5000/model-server"),
            ("model-server@sha256:00", "model-server"),
            (
                "registry:5000/model-server:v2@sha256:00",
                "registry:5000/model-server",
            ),
        ] {
            assert_eq!(repository(image), name);
        }
    }

    #[test]
    fn prune_keeps_used_and_newest_images() {
        let listed = "5 m:v5\n4 m:v4\n3 m:v3\n2 m:<none>\n1 m:v1\n0 m:v0\n";
        assert_eq!(unused_images(listed, "4\n0\n", 1), ["m:v3", "2", "m:v1"]);
        assert_eq!(unused_images(listed, "4\n0\n", 9), [""; 0]);
    }
}
