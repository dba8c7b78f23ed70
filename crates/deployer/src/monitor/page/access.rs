//! Who asks, and how a person signs in and out.

use std::{io, net::IpAddr, path::Path};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    config::PageSettings,
    monitor::page::{
        attempts::{Attempts, MAX_FAILURES, WINDOW},
        guards::{Hosts, Refusal, Site, only},
        keys::{KeyFile, Role},
        links::{LinkError, Links},
        notes::Notes,
        person::{Person, SignedIn},
        sessions::Sessions,
        token::digest,
    },
};

/// Longer names of people are not believed.
const MAX_IDENTITY: usize = 128;

/// The person of a proxy.
struct Identity {
    header: HeaderName,
    from: IpAddr,
    /// Who may act; `*` for all.
    act: Vec<String>,
}

/// Who may do what.
pub(crate) struct Access {
    pub(crate) hosts: Hosts,
    keys: KeyFile,
    sessions: Sessions,
    links: Links,
    attempts: Attempts,
    identity: Option<Identity>,
    notes: Notes,
}

impl Access {
    /// `state` is the state directory. Fails if the operating system has no random bytes.
    pub(crate) fn new(
        settings: &PageSettings,
        state: &Path,
        hosts: Hosts,
        notes: Notes,
    ) -> io::Result<Self> {
        let header = settings.identity_header.parse().ok();
        Ok(Self {
            hosts,
            keys: KeyFile::read(&settings.keys, notes.clone()),
            sessions: Sessions::read(state, settings.session, notes.clone())?,
            links: Links::of(state),
            attempts: Attempts::default(),
            identity: header
                .zip(settings.identity_from)
                .map(|(header, from)| Identity {
                    header,
                    from: from.to_canonical(),
                    act: settings.identity_act.clone(),
                }),
            notes,
        })
    }

    /// Returns the person who asks, if the page knows one. A session counts more than the name that a proxy gives.
    pub(crate) fn person(&self, headers: &HeaderMap, from: IpAddr, site: &Site) -> Option<Person> {
        let session = self.cookie(headers, site).and_then(|id| {
            let (id, keys) = (digest(id), self.keys.current());
            let found = self.sessions.is_from(&id, from);
            found.then(|| self.sessions.find(&id, &keys, Timestamp::now()))?
        });
        session.or_else(|| self.identity.as_ref()?.person(headers, from))
    }

    /// Whether the person may still see what he or she sees. A person of a proxy is asked again with the next request.
    pub(crate) fn is_signed_in(&self, person: &Person) -> bool {
        match &person.signed_in {
            SignedIn::Proxy => true,
            SignedIn::Session(id) => {
                let keys = self.keys.current();
                let now = self.sessions.find(id, &keys, Timestamp::now());
                now.is_some_and(|now| now.role == person.role)
            }
        }
    }

    /// Exchanges a key for a session. Returns its cookie.
    pub(crate) fn sign_in(
        &self,
        key: &str,
        from: IpAddr,
        site: &Site,
    ) -> Result<HeaderValue, Refusal> {
        if let Some(wait) = self.attempts.wait(from, Instant::now()) {
            let text = "too many wrong keys came from your address: try again in 5 min, or sign in with a link of `deployer page-link`";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(wait));
        }
        let Some(key) = self.keys.find(key) else {
            self.record_failure(from);
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this key is not known: `deployer page-key NAME --role see` makes one",
            ));
        };
        let begun = self.sessions.begin_with_key(&key, from, Timestamp::now());
        let id = begun.map_err(|error| no_random_bytes(&error))?;
        let role = key.role.as_str();
        self.notes.send(format!(
            "{} signed in on the page from {from}, and may {role}",
            key.name
        ));
        self.set_cookie(&id, site)
    }

    /// Exchanges the token of a one-time link for a session. Returns its cookie.
    ///
    /// The limit of attempts does not apply: a person with a shell can always get in.
    pub(crate) fn open_link(
        &self,
        token: &str,
        from: IpAddr,
        site: &Site,
    ) -> Result<HeaderValue, Refusal> {
        let name = self
            .links
            .redeem(token, Timestamp::now())
            .map_err(|error| {
                if matches!(error, LinkError::Unknown) {
                    self.record_failure(from);
                }
                Refusal::new(StatusCode::FORBIDDEN, error.to_string())
            })?;
        let text = format!("{name} opened a link to the page from {from}, and may act");
        let begun = self.sessions.begin_with_link(name, from, Timestamp::now());
        let id = begun.map_err(|error| no_random_bytes(&error))?;
        self.notes.send(text);
        self.set_cookie(&id, site)
    }

    /// Ends the session of a person. Returns a cookie that removes the browser's.
    pub(crate) fn sign_out(&self, person: &Person, site: &Site) -> Result<HeaderValue, Refusal> {
        if let SignedIn::Session(id) = &person.signed_in {
            self.sessions.end(id);
            self.notes
                .send(format!("{} signed out on the page", person.name));
        }
        self.cookie_header("", 0, site)
    }

    fn record_failure(&self, from: IpAddr) {
        if self.attempts.record_failure(from, Instant::now()) {
            let minutes = WINDOW.as_secs() / 60;
            self.notes.send(format!(
                "{MAX_FAILURES} attempts to sign in on the page from {from} failed: no key is accepted from there for {minutes} min"
            ));
        }
    }

    fn cookie_name(&self, site: &Site) -> String {
        let name = self.sessions.cookie_name();
        // The prefix makes browsers refuse the cookie from anything but this host, by TLS.
        let prefix = if site.is_https { "__Host-" } else { "" };
        format!("{prefix}{name}")
    }

    fn cookie<'a>(&self, headers: &'a HeaderMap, site: &Site) -> Option<&'a str> {
        let wanted = self.cookie_name(site);
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(name, value)| (name == wanted).then_some(value))
    }

    fn set_cookie(&self, id: &str, site: &Site) -> Result<HeaderValue, Refusal> {
        self.cookie_header(id, self.sessions.lifetime().as_secs(), site)
    }

    fn cookie_header(&self, id: &str, seconds: u64, site: &Site) -> Result<HeaderValue, Refusal> {
        let name = self.cookie_name(site);
        let secure = if site.is_https { "; Secure" } else { "" };
        let text =
            format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
        HeaderValue::try_from(text)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

impl Identity {
    fn person(&self, headers: &HeaderMap, from: IpAddr) -> Option<Person> {
        if from.to_canonical() != self.from {
            return None;
        }
        let name = only(headers, &self.header).ok()??.trim();
        if name.is_empty() || name.len() > MAX_IDENTITY || name.contains(char::is_control) {
            return None;
        }
        let may_act = self.act.iter().any(|it| it == "*" || it == name);
        Some(Person {
            name: name.to_owned(),
            role: if may_act { Role::Act } else { Role::See },
            signed_in: SignedIn::Proxy,
        })
    }
}

fn no_random_bytes(error: &io::Error) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("cannot sign in: {error}. Try again"),
    )
}
