//! Who is signed in. Sessions are kept in the state directory, so a person stays signed in when the monitor restarts.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    monitor::page::{
        keys::{NamedKey, Role},
        notes::Notes,
        page_directory,
        person::{Person, SignedIn},
        token::{self, SecretDigest, digest},
    },
    state::atomic_file,
};

/// The most sessions of one name. The next one ends the oldest.
const MAX_OF_NAME: usize = 16;
/// The most sessions at all.
const MAX_SESSIONS: usize = 256;

/// A session. The file has only the digest of its identifier, which the person's browser keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    #[serde(with = "token::as_text")]
    id: SecretDigest,
    name: String,
    /// The address from which the person signed in.
    from: IpAddr,
    began: Timestamp,
    signed_in: SignInMethod,
}

/// How a person signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SignInMethod {
    /// With the key that has this digest. The session ends when the file has it no more.
    Key(#[serde(with = "token::as_text")] SecretDigest),
    /// With a one-time link.
    Link,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// Part of the cookie's name. Browsers share cookies among all ports of a host, such as tunnels to several machines.
    installation: String,
    sessions: Vec<Session>,
}

/// The sessions of one installation.
pub(crate) struct Sessions {
    path: PathBuf,
    lifetime: Duration,
    stored: Mutex<Stored>,
    notes: Notes,
}

impl Sessions {
    /// Reads the sessions that an earlier monitor kept. Without them, no person is signed in.
    pub(crate) fn read(state: &Path, lifetime: Duration, notes: Notes) -> io::Result<Self> {
        let path = page_directory(state).join("sessions.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut stored: Stored = serde_json::from_str(&text).unwrap_or_default();
        let is_valid = |it: &str| it.len() == 8 && it.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_valid(&stored.installation) {
            stored = Stored {
                installation: token::random()?[..8].to_owned(),
                sessions: Vec::new(),
            };
        }
        Ok(Self {
            path,
            lifetime,
            stored: Mutex::new(stored),
            notes,
        })
    }

    /// The name of the cookie, without a prefix.
    pub(crate) fn cookie_name(&self) -> String {
        format!("deployer-session-{}", self.stored().installation)
    }

    /// How long a session lasts.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Begins a session for a person who has this key. Returns its identifier for the cookie.
    pub(crate) fn begin_with_key(
        &self,
        key: &NamedKey,
        from: IpAddr,
        now: Timestamp,
    ) -> io::Result<String> {
        self.begin(key.name.clone(), SignInMethod::Key(key.digest), from, now)
    }

    /// Begins a session for a person who opened a one-time link.
    pub(crate) fn begin_with_link(
        &self,
        name: String,
        from: IpAddr,
        now: Timestamp,
    ) -> io::Result<String> {
        self.begin(name, SignInMethod::Link, from, now)
    }

    fn begin(
        &self,
        name: String,
        signed_in: SignInMethod,
        from: IpAddr,
        now: Timestamp,
    ) -> io::Result<String> {
        let id = token::random()?;
        let mut stored = self.stored();
        let sessions = &mut stored.sessions;
        sessions.retain(|session| !self.is_expired(session, now));
        // The oldest ones are first.
        if sessions.iter().filter(|it| it.name == name).count() >= MAX_OF_NAME
            && let Some(oldest) = sessions.iter().position(|it| it.name == name)
        {
            sessions.remove(oldest);
        }
        if sessions.len() >= MAX_SESSIONS {
            sessions.remove(0);
        }
        sessions.push(Session {
            id: digest(&id),
            name,
            from: place_of(from),
            began: now,
            signed_in,
        });
        self.save(&stored);
        Ok(id)
    }

    /// Whether the session whose identifier has this digest began at this address.
    ///
    /// Browsers send a cookie to every port of its host. So a release behind a router on the same host receives it, and must
    /// not be able to use it.
    pub(crate) fn is_from(&self, id: &SecretDigest, from: IpAddr) -> bool {
        let stored = self.stored();
        let ids = stored.sessions.iter().map(|session| &session.id);
        let place = token::position(ids, id);
        place.is_some_and(|place| stored.sessions[place].from == place_of(from))
    }

    /// Returns the person with the session whose identifier has this digest. A session that is over is forgotten.
    pub(crate) fn find(
        &self,
        id: &SecretDigest,
        keys: &[NamedKey],
        now: Timestamp,
    ) -> Option<Person> {
        let mut stored = self.stored();
        let ids = stored.sessions.iter().map(|session| &session.id);
        let place = token::position(ids, id)?;
        let session = &stored.sessions[place];
        let signed_in = SignedIn::Session(session.id);
        let person = match session.signed_in {
            SignInMethod::Key(of) => keys.iter().find(|key| key.digest == of).map(|key| Person {
                name: key.name.clone(),
                role: key.role,
                signed_in,
            }),
            SignInMethod::Link => Some(Person {
                name: session.name.clone(),
                role: Role::Act,
                signed_in,
            }),
        };
        let person = person.filter(|_| !self.is_expired(session, now));
        if person.is_none() {
            stored.sessions.remove(place);
        }
        person
    }

    /// Ends a session.
    pub(crate) fn end(&self, id: &SecretDigest) {
        let mut stored = self.stored();
        stored.sessions.retain(|session| session.id != *id);
        self.save(&stored);
    }

    fn is_expired(&self, session: &Session, now: Timestamp) -> bool {
        let age = now.duration_since(session.began);
        age >= SignedDuration::try_from(self.lifetime).unwrap_or(SignedDuration::MAX)
    }

    /// A full disk must not prevent signing in. The session then ends with this monitor.
    fn save(&self, stored: &Stored) {
        let written = serde_json::to_string(stored)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace_private(&self.path, &text));
        if let Err(error) = written {
            let path = self.path.display();
            self.notes.send(format!(
                "cannot keep the page's sessions in {path}: {error}"
            ));
        }
    }

    fn stored(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A browser may use any loopback address for `localhost`, so all of them count as one.
fn place_of(from: IpAddr) -> IpAddr {
    let from = from.to_canonical();
    if from.is_loopback() {
        return Ipv4Addr::LOCALHOST.into();
    }
    from
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const LIFETIME: Duration = Duration::from_hours(12);

    fn sessions(state: &Path) -> Sessions {
        let (notes, _receiver) = Notes::channel();
        Sessions::read(state, LIFETIME, notes).unwrap()
    }

    fn find(sessions: &Sessions, id: &str, keys: &[NamedKey], now: Timestamp) -> Option<Person> {
        sessions.find(&digest(id), keys, now)
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(second.try_into().unwrap()).unwrap()
    }

    fn ann(role: Role) -> NamedKey {
        NamedKey {
            name: "ann".to_owned(),
            role,
            digest: digest("her key"),
        }
    }

    #[test]
    fn session_lasts_for_its_lifetime() {
        let state = tempfile::tempdir().unwrap();
        let sessions = sessions(state.path());
        let id = sessions
            .begin_with_key(&ann(Role::See), HERE, at(0))
            .unwrap();
        let keys = [ann(Role::See)];
        let last = LIFETIME.as_secs() - 1;
        assert_eq!(find(&sessions, &id, &keys, at(last)).unwrap().name, "ann");
        assert_eq!(find(&sessions, &id, &keys, at(last + 1)), None);
        // It is forgotten, also if the clock is set back.
        assert_eq!(find(&sessions, &id, &keys, at(0)), None);
        assert_eq!(find(&sessions, "", &keys, at(0)), None);
    }

    #[test]
    fn session_is_known_at_the_address_where_it_began() {
        let state = tempfile::tempdir().unwrap();
        let sessions = sessions(state.path());
        let begin = |from: &str| {
            let from = from.parse().unwrap();
            let id = sessions.begin_with_link("ann".to_owned(), from, at(0));
            digest(&id.unwrap())
        };
        let is_from = |id: &SecretDigest, from: &str| sessions.is_from(id, from.parse().unwrap());
        let own = begin("127.0.0.1");
        assert!(is_from(&own, "127.0.0.1") && is_from(&own, "::1"));
        assert!(!is_from(&own, "192.0.2.1"));
        let other = begin("192.0.2.1");
        assert!(is_from(&other, "::ffff:192.0.2.1"));
        assert!(!is_from(&other, "192.0.2.2") && !is_from(&other, "127.0.0.1"));
        assert!(!is_from(&digest("unknown"), "127.0.0.1"));
    }

    #[test]
    fn removed_key_ends_its_sessions() {
        let state = tempfile::tempdir().unwrap();
        let sessions = sessions(state.path());
        let id = sessions
            .begin_with_key(&ann(Role::Act), HERE, at(0))
            .unwrap();
        let link = sessions
            .begin_with_link("bob@host".to_owned(), HERE, at(0))
            .unwrap();
        let found = find(&sessions, &id, &[ann(Role::See)], at(1)).unwrap();
        assert_eq!(found.role, Role::See, "the file's role counts");
        assert_eq!(find(&sessions, &id, &[], at(1)), None);
        assert_eq!(find(&sessions, &id, &[ann(Role::Act)], at(1)), None);
        assert_eq!(find(&sessions, &link, &[], at(1)).unwrap().name, "bob@host");
    }

    #[test]
    fn sessions_survive_a_restart_without_their_identifiers() {
        let state = tempfile::tempdir().unwrap();
        let first = sessions(state.path());
        let id = first.begin_with_key(&ann(Role::Act), HERE, at(0)).unwrap();
        let ended = first
            .begin_with_link("bob@host".to_owned(), HERE, at(0))
            .unwrap();
        first.end(&digest(&ended));
        let path = page_directory(state.path()).join("sessions.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&id) && !text.contains("her key"), "{text}");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = sessions(state.path());
        assert_eq!(second.cookie_name(), first.cookie_name());
        assert!(find(&second, &id, &[ann(Role::Act)], at(1)).is_some());
        assert_eq!(find(&second, &ended, &[], at(1)), None);
    }

    #[test]
    fn number_of_sessions_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let sessions = sessions(state.path());
        let begin = |name: String| sessions.begin_with_link(name, HERE, at(0)).unwrap();
        let is_known = |id: &str| find(&sessions, id, &[], at(1)).is_some();
        let bob = begin("bob".to_owned());
        let ann: Vec<String> = (0..=MAX_OF_NAME).map(|_| begin("ann".to_owned())).collect();
        assert!(is_known(&bob) && !is_known(&ann[0]) && is_known(&ann[1]));
        for number in 0..MAX_SESSIONS {
            begin(format!("person-{number}"));
        }
        assert!(!is_known(&bob) && !is_known(&ann[MAX_OF_NAME]));
        assert_eq!(sessions.stored().sessions.len(), MAX_SESSIONS);
    }
}
