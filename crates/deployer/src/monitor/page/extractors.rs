//! Who sent a request, as handlers receive it.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, Uri, request::Parts},
    response::{IntoResponse as _, Response},
};

use crate::monitor::page::{
    guards::{Refusal, Site, is_link_from_elsewhere},
    person::Person,
    router::{Page, see_other},
    server::Peer,
};

/// In the address of a page that asks for itself again, so that this happens once.
const AGAIN: &str = "again";

/// Who sent a request, and under which name of the page.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) person: Option<Person>,
    pub(super) site: Site,
    pub(super) peer: Peer,
}

/// A person who is signed in. A visitor without a person is sent to the sign-in page.
pub(super) struct SignedInPerson(pub(super) Person);

impl FromRequestParts<Arc<Page>> for SignedInPerson {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Page>) -> Result<Self, Response> {
        let visitor = parts.extensions.get::<Visitor>();
        if let Some(person) = visitor.and_then(|visitor| visitor.person.clone()) {
            return Ok(Self(person));
        }
        if is_link_from_elsewhere(&parts.headers)
            && let Some(again) = ask_again(&parts.uri)
        {
            return Err(again);
        }
        Err(see_other("/sign-in"))
    }
}

/// A link from another site, such as one in a notification, comes without the cookie. The browser sends it if the page
/// itself asks for the same address again. Returns `None` if it has done that.
fn ask_again(uri: &Uri) -> Option<Response> {
    let query = uri.query().unwrap_or_default();
    if query.split('&').any(|pair| pair == AGAIN) {
        return None;
    }
    let separator = if query.is_empty() { "" } else { "&" };
    // A path that begins with two slashes would be the address of another host.
    let path = uri.path().trim_start_matches('/');
    let refresh = format!("0; url=/{path}?{query}{separator}{AGAIN}");
    let refresh = HeaderValue::try_from(refresh).ok()?;
    let mut response = "one moment\n".into_response();
    let name = HeaderName::from_static("refresh");
    response.headers_mut().insert(name, refresh);
    Some(response)
}

/// A person who may act.
pub(super) struct ActingPerson(pub(super) Person);

impl FromRequestParts<Arc<Page>> for ActingPerson {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Page>) -> Result<Self, Refusal> {
        let visitor = parts.extensions.get::<Visitor>();
        let Some(person) = visitor.and_then(|visitor| visitor.person.clone()) else {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "nothing was done: you are not signed in. Sign in, and try again",
            ));
        };
        if !person.may_act() {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "nothing was done, because {} may see, but not act",
                    person.name
                ),
            ));
        }
        Ok(Self(person))
    }
}
