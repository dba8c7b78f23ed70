//! Which requests the page answers at all: for its own names only, and changes only from its own forms.
//!
//! Without this, a site that a signed-in person visits could act in that person's name (cross-site request forgery), or
//! read the page under a name that it points to this address (DNS rebinding).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::config::PageUrl;

/// Says from where a browser sends a request.
pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Says whether a person follows a link, or a script asks.
pub(crate) const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// Says that a browser asks before a person wants the answer.
pub(crate) const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// A request that is refused, and why: one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// How long the client should wait before it tries again.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            retry_after: None,
        }
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.text)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// The page under the name that a request uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// As a browser sends it in `Origin`.
    pub(crate) origin: String,
    /// Whether clients reach it by TLS.
    pub(crate) is_https: bool,
}

/// The names of the page.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    /// The address at which the page listens.
    pub(crate) own: SocketAddr,
    /// The address for people.
    pub(crate) url: Option<PageUrl>,
}

impl Hosts {
    /// Returns the site that a request is for. Refuses any name but `page.url`, the page's own IP address, and the names of
    /// the machine itself. The port may differ, because a tunnel may have another one.
    pub(crate) fn site(&self, headers: &HeaderMap, uri: &Uri) -> Result<Site, Refusal> {
        let misdirected = |text: String| Refusal::new(StatusCode::MISDIRECTED_REQUEST, text);
        let host = only(headers, &header::HOST)
            .map_err(|()| misdirected("the request has two hosts".to_owned()))?
            .ok_or_else(|| misdirected("the request names no host".to_owned()))?;
        let host = host.to_ascii_lowercase();
        let of_uri = uri.authority().map(|it| it.as_str().to_ascii_lowercase());
        if of_uri.is_some_and(|of_uri| of_uri != host) {
            return Err(misdirected("the request has two hosts".to_owned()));
        }
        if let Some(url) = &self.url
            && url.authority == host
        {
            return Ok(Site {
                origin: url.origin.clone(),
                is_https: url.is_https,
            });
        }
        if self.is_own(&host) {
            return Ok(Site {
                origin: format!("http://{host}"),
                is_https: false,
            });
        }
        Err(misdirected(
            "the page does not have the name under which it was asked: set page.url to the address that people use".to_owned(),
        ))
    }

    /// Whether `host`, with or without a port, names the machine itself or the page's own address.
    fn is_own(&self, host: &str) -> bool {
        // The colons of an IPv6 address are in brackets.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        };
        if port.is_some_and(|port| !is_port(port)) {
            return false;
        }
        if name == "localhost" {
            return true;
        }
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name);
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address == self.own.ip())
    }
}

/// Refuses a request to change something unless a browser sent it from a form of the page itself.
///
/// Browsers send `Origin` with every POST, and `Sec-Fetch-Site` to every address that they trust. A request without both is
/// not from a form: programs use the commands of the deployer.
pub(crate) fn check_own_form(headers: &HeaderMap, site: &Site) -> Result<(), Refusal> {
    let refused = |text: &str| Refusal::new(StatusCode::FORBIDDEN, text);
    let twice = |()| refused("the request says twice where it comes from");
    let fetch_site = only(headers, &SEC_FETCH_SITE).map_err(twice)?;
    let origin = only(headers, &header::ORIGIN).map_err(twice)?;
    if fetch_site.is_none() && origin.is_none() {
        return Err(refused(
            "the request does not say where it comes from, so it is not from a form of this page: use the command of the deployer",
        ));
    }
    if fetch_site.is_some_and(|it| it != "same-origin")
        || origin.is_some_and(|it| !it.eq_ignore_ascii_case(&site.origin))
    {
        return Err(refused(
            "the request comes from another site, so nothing was done: open the page itself",
        ));
    }
    Ok(())
}

/// Whether a person follows a link from another site. The browser then sends no cookie, because it is `SameSite=Strict`.
pub(crate) fn is_link_from_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, value: &str| headers.get(name).is_some_and(|it| it == value);
    is(&SEC_FETCH_MODE, "navigate")
        && (is(&SEC_FETCH_SITE, "cross-site") || is(&SEC_FETCH_SITE, "same-site"))
}

/// Returns the value of a header; an error if there are several, or if it is not visible ASCII.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(());
    }
    value.to_str().map(Some).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts {
            own: "192.0.2.7:9110".parse().unwrap(),
            url: Some("https://deploy.example.com".parse().unwrap()),
        }
    }

    fn headers(pairs: &[(&HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn own_names_are_accepted_with_their_origin() {
        for (host, origin) in [
            ("192.0.2.7:9110", "http://192.0.2.7:9110"),
            ("localhost:7000", "http://localhost:7000"),
            ("LocalHost", "http://localhost"),
            ("127.0.0.1:9110", "http://127.0.0.1:9110"),
            ("[::1]:9110", "http://[::1]:9110"),
            ("[::1]", "http://[::1]"),
            ("deploy.example.com", "https://deploy.example.com"),
        ] {
            let site = hosts().site(&headers(&[(&header::HOST, host)]), &Uri::from_static("/"));
            let site = site.unwrap();
            assert_eq!(site.origin, origin);
            assert_eq!(site.is_https, origin.starts_with("https"));
        }
    }

    #[test]
    fn other_names_are_refused() {
        let own = "localhost:9110";
        for given in [
            &["evil.example.com"][..],
            &["localhost.evil.example.com:9110"],
            &["127.0.0.1.evil.example.com"],
            &["192.0.2.8:9110"],
            &["deploy.example.com:9110"],
            &["localhost:"],
            &["localhost:+1"],
            &["user@localhost"],
            &["localhost:9110:9110"],
            &[""],
            &[],
            &[own, own],
        ] {
            let given: Vec<_> = given.iter().map(|host| (&header::HOST, *host)).collect();
            let site = hosts().site(&headers(&given), &Uri::from_static("/"));
            let refusal = site.unwrap_err();
            assert_eq!(refusal.status, StatusCode::MISDIRECTED_REQUEST, "{given:?}");
        }
        let own = headers(&[(&header::HOST, own)]);
        let site = hosts().site(&own, &Uri::from_static("http://evil.example.com/"));
        assert!(site.is_err(), "the address has another host");
    }

    #[test]
    fn change_is_accepted_from_the_own_origin_only() {
        let site = Site {
            origin: "http://localhost:9110".to_owned(),
            is_https: false,
        };
        let (origin, fetch) = (&header::ORIGIN, &SEC_FETCH_SITE);
        for (given, accepted) in [
            (
                &[(origin, "http://localhost:9110"), (fetch, "same-origin")][..],
                true,
            ),
            (&[(origin, "http://localhost:9110")], true),
            (&[(fetch, "same-origin")], true),
            (&[], false),
            (&[(fetch, "none")], false),
            (&[(fetch, "same-site")], false),
            (&[(fetch, "cross-site")], false),
            (&[(origin, "null")], false),
            (&[(origin, "http://localhost:9111")], false),
            (&[(origin, "https://localhost:9110")], false),
            (
                &[(origin, "http://localhost:9110"), (fetch, "cross-site")],
                false,
            ),
            (
                &[(origin, "http://evil.example.com"), (fetch, "same-origin")],
                false,
            ),
            (
                &[(origin, "http://localhost:9110"), (origin, "null")],
                false,
            ),
        ] {
            let checked = check_own_form(&headers(given), &site);
            assert_eq!(checked.is_ok(), accepted, "{given:?}: {checked:?}");
        }
    }
}
