//! The page of `deployer monitor`: its address for people, and who may do what.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Settings of the page.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageSettings {
    /// The address under which people reach the page; `None` if that is the address of `monitor.page`.
    #[serde(deserialize_with = "empty_is_no_url")]
    pub url: Option<PageUrl>,
    /// The file of named keys. It need not exist.
    pub keys: PathBuf,
    /// How long a person stays signed in.
    #[serde(with = "humantime_serde")]
    pub session: Duration,
    /// The header in which a proxy names the person who is signed in there; empty for none.
    pub identity_header: String,
    /// The address of that proxy. The header counts from there only.
    #[serde(deserialize_with = "empty_is_no_ip")]
    pub identity_from: Option<IpAddr>,
    /// The people of that proxy who may act, by the header's value; `*` for all. The others see.
    pub identity_act: Vec<String>,
}

/// The address of the page: scheme, host, and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageUrl {
    /// As a browser sends it in `Origin`: without a path, and without the scheme's own port.
    pub origin: String,
    /// As a browser sends it in `Host`.
    pub authority: String,
    /// Whether the scheme is `https`.
    pub is_https: bool,
}

impl FromStr for PageUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            format!("{text:?} is not an address such as https://deploy.example.com, without a path")
        };
        let url = reqwest::Url::parse(text).map_err(|_| problem())?;
        let is_plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(problem());
        }
        let origin = url.origin().ascii_serialization();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        Ok(Self {
            authority: authority.ok_or_else(problem)?.to_owned(),
            is_https: url.scheme() == "https",
            origin,
        })
    }
}

/// Reads the address of the page; an empty string means none.
fn empty_is_no_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PageUrl>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}

/// Reads an IP address; an empty string means none.
fn empty_is_no_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse();
    address
        .map(Some)
        .map_err(|_| D::Error::custom(format!("{text:?} is not an IP address, such as 127.0.0.1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_url_has_the_origin_that_a_browser_sends() {
        for (text, origin, authority) in [
            (
                "https://Deploy.example.com/",
                "https://deploy.example.com",
                "deploy.example.com",
            ),
            (
                "https://deploy.example.com:443",
                "https://deploy.example.com",
                "deploy.example.com",
            ),
            ("http://[::1]:9110", "http://[::1]:9110", "[::1]:9110"),
        ] {
            let url: PageUrl = text.parse().unwrap();
            assert_eq!((&*url.origin, &*url.authority), (origin, authority));
            assert_eq!(url.is_https, text.starts_with("https"));
        }
    }

    #[test]
    fn page_url_with_more_than_an_origin_is_refused() {
        for text in [
            "deploy.example.com",
            "ftp://deploy.example.com",
            "https://deploy.example.com/page",
            "https://user@deploy.example.com",
            "https://deploy.example.com?a=b",
            "https://",
        ] {
            let error = text.parse::<PageUrl>().unwrap_err();
            assert!(error.starts_with(&format!("{text:?} is not")), "{error}");
        }
    }
}
