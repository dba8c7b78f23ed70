//! Whether what was promoted is still what a color serves, and what its directory holds.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use jiff::Timestamp;
use model_repository::{ReleaseDirectory, RepositoryError};

use crate::{
    color::Color,
    config::Settings,
    ports::Ports,
    release::{Health, Release},
    state::{action::Action, history::HistoryEntry},
};

/// How a color differs from the release that was promoted there last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Differences {
    /// The released directory has other files.
    pub(crate) files: Option<String>,
    /// The server reports another digest.
    pub(crate) server: Option<String>,
}

impl Differences {
    /// Compares `color`, whose server reports `health`, with the promotion of the release that it should hold.
    ///
    /// A deployment at work replaces the release of its idle color, so that color differs in nothing.
    pub(crate) async fn find(
        settings: &Settings,
        ports: &Ports,
        color: Color,
        health: Option<&Health>,
    ) -> Self {
        let journal = ports.journal.read().await.unwrap_or_default();
        let unfinished = journal.unfinished_deployment();
        if unfinished.is_some_and(|it| it.plan.idle == color) {
            return Self::default();
        }
        let history = ports.journal.read_history().await.unwrap_or_default();
        let Some(promotion) = Promotion::held_by(&history.entries, color, settings) else {
            return Self::default();
        };
        Self {
            server: health.and_then(|health| promotion.differs_from_server(color, health)),
            files: promotion.differs_from_files(settings).await,
        }
    }

    /// All of them, as sentences.
    pub(crate) fn into_sentences(self) -> impl Iterator<Item = String> {
        self.files.into_iter().chain(self.server)
    }
}

/// A release that was promoted.
struct Promotion {
    /// Where it was promoted.
    color: Color,
    release: Release,
    digest: String,
    /// When its deployment began. The digest is as old.
    began: Timestamp,
}

impl Promotion {
    /// The promotion of the release that a color should hold; `None` if there was none, or its digest is unknown.
    ///
    /// That is the last promotion on the color. A later rollback may have given the color an earlier release back, which
    /// may have been promoted on the other color. A version may have been promoted with several digests.
    fn held_by(history: &[HistoryEntry], color: Color, settings: &Settings) -> Option<Self> {
        let is_promotion = |entry: &&HistoryEntry| entry.action == Action::Promoted;
        let started = history.iter().rposition(|entry| {
            entry.color == color && matches!(entry.action, Action::Promoted | Action::Restored)
        })?;
        let HistoryEntry {
            version, digest, ..
        } = &history[started];
        let mut promotions = history[..=started].iter().rev().filter(is_promotion);
        let entry = promotions.find(|entry| {
            entry.version == *version && (digest.is_none() || entry.digest == *digest)
        })?;
        let seconds = entry.seconds.unwrap_or(f64::MAX);
        let began = jiff::SignedDuration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|duration| entry.at.checked_sub(duration).ok());
        Some(Self {
            color: entry.color,
            release: Release {
                model: settings.release.model.clone(),
                version: entry.version.clone()?,
                digest: None,
            },
            digest: entry.digest.clone()?,
            began: began.unwrap_or(Timestamp::MIN),
        })
    }

    fn differs_from_server(&self, color: Color, health: &Health) -> Option<String> {
        let digest = health.model_digest.as_ref()?;
        let version = health.model_version.as_deref().unwrap_or("a release");
        (*digest != self.digest).then(|| {
            format!(
                "{color} serves {version} with the digest {}, but {} with the digest {} was promoted on {}",
                short(digest),
                self.release.version,
                short(&self.digest),
                self.color
            )
        })
    }

    async fn differs_from_files(&self, settings: &Settings) -> Option<String> {
        let color = self.color;
        let Release { model, version, .. } = &self.release;
        let root = settings.release.model_root.as_ref()?;
        let shown = root.join(model).join(version);
        let shown = shown.display();
        let directory = match ReleaseDirectory::locate(root, model, version) {
            Ok(directory) => directory,
            Err(error) => {
                return Some(format!(
                    "the files of {version}, which was promoted on {color}, are gone: {error}"
                ));
            }
        };
        // Hashing a large model takes long, and most files are older than their promotion.
        if is_older(&directory, self.began) {
            return None;
        }
        match digest_of(directory).await? {
            Ok(digest) if digest == self.digest => None,
            Ok(digest) => Some(format!(
                "{shown} is not what was promoted on {color}: its digest is {}, that of the promoted files was {}; \
                 a server that starts again serves other files",
                short(&digest),
                short(&self.digest)
            )),
            Err(error) => Some(format!(
                "{shown} is not what was promoted on {color}: {error}"
            )),
        }
    }
}

/// Hashes the files on a thread of their own, which does not keep this process from ending, as a thread of tokio would.
async fn digest_of(directory: ReleaseDirectory) -> Option<Result<String, RepositoryError>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(directory.digest()));
    receiver.await.ok()
}

/// Whether a release was last changed before a time. The kernel sets these times, and no program can choose them.
fn is_older(directory: &ReleaseDirectory, time: Timestamp) -> bool {
    let Ok(names) = directory.files() else {
        return false;
    };
    let files: Vec<_> = names.iter().map(|name| directory.file(name)).collect();
    let root = directory.file("");
    // A file that was added or removed changes its directory.
    let files_and_directories = files.iter().flat_map(|path| path.ancestors());
    files_and_directories
        .filter(|path| path.starts_with(&root))
        .flat_map(|path| [changed(path, false), changed(path, true)])
        .all(|changed| changed.is_some_and(|changed| changed < time.as_second()))
}

/// When a file, or the symbolic link to it, was last changed, in seconds since 1970.
fn changed(path: &Path, follow: bool) -> Option<i64> {
    let metadata = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    metadata.ok().map(|metadata| metadata.ctime())
}

/// The beginning of a digest, which is enough for people.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DIGEST: &str = "00000000000000000000000000000000";

    fn entry(action: Action, color: Color, version: &str) -> HistoryEntry {
        HistoryEntry {
            at: Timestamp::from_second(1_000).unwrap(),
            action,
            id: None,
            color,
            version: Some(version.to_owned()),
            digest: Some(DIGEST.to_owned()),
            seconds: Some(60.0),
            trace: None,
            outside_window: None,
            by: "test".to_owned(),
            reason: None,
        }
    }

    /// Settings with a release v1, and the directory that holds it.
    fn installation() -> (Settings, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sentiment/v1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("model.onnx"), "weights").unwrap();
        let mut settings = crate::config::load(None, &[]).unwrap();
        settings.release.model_root = Some(root.path().to_owned());
        (settings, root)
    }

    #[test]
    fn promotion_is_the_last_one_of_its_color() {
        let (settings, _root) = installation();
        let history = [
            entry(Action::Promoted, Color::Green, "v1"),
            entry(Action::Promoted, Color::Green, "v2"),
            entry(Action::Promoted, Color::Blue, "v3"),
            entry(Action::Refused, Color::Green, "v4"),
        ];
        let promotion = Promotion::held_by(&history, Color::Green, &settings).unwrap();
        assert_eq!(promotion.release.version, "v2");
        assert_eq!(promotion.began, Timestamp::from_second(940).unwrap());
        assert!(Promotion::held_by(&history[..2], Color::Blue, &settings).is_none());
    }

    #[test]
    fn restored_release_is_compared_with_its_own_promotion() {
        let (settings, _root) = installation();
        let restored = |version| HistoryEntry {
            digest: None,
            seconds: None,
            ..entry(Action::Restored, Color::Green, version)
        };
        let mut history = vec![
            entry(Action::Promoted, Color::Blue, "v1"),
            entry(Action::Promoted, Color::Green, "v3"),
            entry(Action::RolledBack, Color::Green, "v3"),
            restored("v1"),
        ];
        history[0].digest = Some("1111111111111111".to_owned());
        let promotion = Promotion::held_by(&history, Color::Green, &settings).unwrap();
        assert_eq!(promotion.release.version, "v1");
        assert_eq!(promotion.digest, "1111111111111111");
        assert_eq!(promotion.color, Color::Blue);

        // A release that was never promoted has nothing to differ from.
        history.push(restored("v0"));
        assert!(Promotion::held_by(&history, Color::Green, &settings).is_none());

        history.push(entry(Action::Promoted, Color::Green, "v4"));
        let promotion = Promotion::held_by(&history, Color::Green, &settings).unwrap();
        assert_eq!(promotion.release.version, "v4");
    }

    #[test]
    fn restored_release_is_compared_with_the_promotion_of_its_digest() {
        let (settings, _root) = installation();
        let v2 = |action, digest: &str| HistoryEntry {
            digest: Some(digest.to_owned()),
            ..entry(action, Color::Green, "v2")
        };
        let mut history = vec![
            v2(Action::Promoted, "a"),
            v2(Action::Promoted, "b"),
            v2(Action::RolledBack, "b"),
            v2(Action::Restored, "a"),
        ];
        let promotion = Promotion::held_by(&history, Color::Green, &settings).unwrap();
        assert_eq!(promotion.digest, "a");

        history.push(v2(Action::Restored, "never promoted"));
        assert!(Promotion::held_by(&history, Color::Green, &settings).is_none());
    }

    #[test]
    fn server_differs_by_digest_only_if_it_reports_one() {
        let (settings, _root) = installation();
        let history = [entry(Action::Promoted, Color::Blue, "v1")];
        let promotion = Promotion::held_by(&history, Color::Blue, &settings).unwrap();
        let differs = |digest: Option<&str>| {
            let health = Health {
                model_version: Some("v1".to_owned()),
                model_digest: digest.map(str::to_owned),
                ..Health::default()
            };
            promotion.differs_from_server(Color::Blue, &health)
        };
        assert_eq!(differs(None), None);
        assert_eq!(differs(Some(DIGEST)), None);
        let text = differs(Some("1111111111111111")).unwrap();
        assert!(
            text.starts_with("blue serves v1 with the digest 111111111111, but"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn files_are_compared_only_if_changed_after_promotion() {
        let (settings, root) = installation();
        let history = [entry(Action::Promoted, Color::Blue, "v1")];
        let mut promotion = Promotion::held_by(&history, Color::Blue, &settings).unwrap();
        let text = promotion.differs_from_files(&settings).await;
        let text = text.unwrap();
        assert!(
            text.contains("v1 is not what was promoted on blue"),
            "{text}"
        );
        promotion.began = Timestamp::now() + Duration::from_mins(1);
        let text = promotion.differs_from_files(&settings).await;
        assert_eq!(text, None);
        fs::remove_dir_all(root.path().join("sentiment/v1")).unwrap();
        let text = promotion.differs_from_files(&settings).await;
        assert!(text.unwrap().contains("are gone"));
    }

    #[tokio::test]
    async fn changed_weights_beside_the_graph_differ_from_the_promotion() {
        let (settings, root) = installation();
        let directory = root.path().join("sentiment/v1");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../model-server/tests/data/models/external/1");
        for name in ["model.onnx", "model.onnx_data"] {
            fs::copy(fixture.join(name), directory.join(name)).unwrap();
        }
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        let mut history = [entry(Action::Promoted, Color::Blue, "v1")];
        history[0].digest = Some(release.digest().unwrap());
        let promotion = Promotion::held_by(&history, Color::Blue, &settings).unwrap();
        assert_eq!(promotion.differs_from_files(&settings).await, None);
        fs::write(directory.join("model.onnx_data"), "other weights").unwrap();
        let text = promotion.differs_from_files(&settings).await.unwrap();
        assert!(
            text.contains("v1 is not what was promoted on blue"),
            "{text}"
        );
    }
}
