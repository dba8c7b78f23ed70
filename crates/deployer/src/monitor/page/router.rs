//! The routes of the page, and the layers that every request passes.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{
        Html, IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt as _};
use maud::Markup;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};

use crate::{
    monitor::page::{
        access::Access,
        actions::{Actions, RequestedAction},
        extractors::{ActingPerson, SignedInPerson, Visitor},
        form::{Fields, MAX_BODY},
        guards::{Refusal, SEC_PURPOSE, check_own_form},
        notices::Notices,
        person::Person,
        render,
        security_headers::set_security_headers,
        server::Peer,
        stream::{self, Live},
        view::{HistoryFilter, Viewer},
    },
    report::{ReportError, Reports},
};

/// How long a request may take. Only the stream of events takes longer.
const MAX_TIME: Duration = Duration::from_secs(30);
/// How many streams of events there may be.
const MAX_STREAMS: usize = 64;
/// How long a stream lasts. The browser then connects again, and shows who it is.
const MAX_STREAM: Duration = Duration::from_mins(10);
/// How often a stream checks that its person is still signed in.
const CHECK_PERSON_EVERY: Duration = Duration::from_secs(1);

/// What all requests share.
pub(crate) struct Page {
    access: Access,
    actions: Actions,
    live: Arc<Live>,
    reports: Reports,
    notices: Notices,
    streams: Arc<Semaphore>,
}

impl Page {
    pub(crate) fn new(access: Access, actions: Actions, live: Arc<Live>, reports: Reports) -> Self {
        Self {
            access,
            actions,
            live,
            reports,
            notices: Notices::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

/// The routes with their layers, in the order in which a request passes them.
pub(crate) fn router(page: Arc<Page>) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn(set_security_headers))
        // No page has a secret beside text of a request, so its size tells nothing (BREACH).
        .layer(CompressionLayer::new())
        // To the layers above, a panic is one more response.
        .layer(CatchPanicLayer::new())
        .layer(from_fn_with_state(Arc::clone(&page), guard));
    Router::new()
        .route("/", get(show_page))
        .route("/deployments/{id}", get(show_deployment))
        .route("/compare", get(show_comparison))
        .route("/page.css", get(|| ready(asset("text/css", render::STYLE))))
        .route(
            "/page.js",
            get(|| ready(asset("text/javascript", render::SCRIPT))),
        )
        // Browsers ask for it on every site, also beside a text.
        .route(
            "/favicon.ico",
            get(|| ready(asset("image/svg+xml", render::ICON))),
        )
        .route("/sign-in", get(show_sign_in).post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/link/{token}", get(open_link))
        .route("/actions/{action}", post(act))
        .fallback(|| ready(Refusal::new(StatusCode::NOT_FOUND, "there is no such page")))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(limit_time))
        .route("/stream", get(follow))
        .layer(layers)
        .with_state(page)
}

/// Refuses requests for other sites and from other sites, and finds out who asks.
async fn guard(
    State(page): State<Arc<Page>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    let site = page.access.hosts.site(headers, request.uri())?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        check_own_form(headers, &site)?;
    }
    let person = page.access.person(headers, peer.0, &site);
    request
        .extensions_mut()
        .insert(Visitor { person, site, peer });
    Ok(next.run(request).await)
}

async fn limit_time(request: Request, next: Next) -> Result<Response, Refusal> {
    timeout(MAX_TIME, next.run(request)).await.map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the page did not answer within {} s", MAX_TIME.as_secs()),
        )
    })
}

async fn show_page(
    State(page): State<Arc<Page>>,
    SignedInPerson(person): SignedInPerson,
    uri: Uri,
) -> Response {
    let notice = page.notices.take(&person);
    let filter = HistoryFilter {
        action: query(&uri, "action"),
        version: query(&uri, "version"),
    };
    let view = page.live.view();
    html(render::page(
        &view,
        viewer(&person),
        &filter,
        notice.as_deref(),
    ))
}

/// The report of a deployment.
async fn show_deployment(
    State(page): State<Arc<Page>>,
    SignedInPerson(person): SignedInPerson,
    Path(id): Path<String>,
) -> Response {
    match page.reports.read(Some(&id)) {
        Ok(record) => html(render::deployment(&record, viewer(&person))),
        Err(error) => no_report(&error, &person),
    }
}

/// Two reports side by side.
async fn show_comparison(
    State(page): State<Arc<Page>>,
    SignedInPerson(person): SignedInPerson,
    uri: Uri,
) -> Response {
    let read = |side| page.reports.read(Some(&query(&uri, side)));
    match (read("left"), read("right")) {
        (Ok(left), Ok(right)) => html(render::compare(&left, &right, viewer(&person))),
        (Err(error), _) | (_, Err(error)) => no_report(&error, &person),
    }
}

fn no_report(error: &ReportError, person: &Person) -> Response {
    let text = error.to_string();
    let page = render::message("No such report", &text, Some(viewer(person)));
    (StatusCode::NOT_FOUND, html(page)).into_response()
}

fn viewer(person: &Person) -> Viewer<'_> {
    Viewer {
        name: &person.name,
        may_act: person.may_act(),
    }
}

/// Returns a value of the query; an empty string if it is not there.
fn query(uri: &Uri, name: &str) -> String {
    let query = uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let found = pairs.find(|(key, _)| key == name);
    found.map_or_else(String::new, |(_, value)| value.into_owned())
}

fn html(page: Markup) -> Response {
    Html(page.into_string()).into_response()
}

async fn show_sign_in(Extension(visitor): Extension<Visitor>) -> Response {
    match visitor.person {
        Some(_) => see_other("/"),
        None => html(render::sign_in(None)),
    }
}

async fn sign_in(
    State(page): State<Arc<Page>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fields = Fields::parse(&headers, &body, &["key"])?;
    let signed_in = fields
        .field("key")
        .and_then(|key| page.access.sign_in(key, visitor.peer.0, &visitor.site));
    Ok(match signed_in {
        Ok(cookie) => with_cookie(see_other("/"), cookie),
        Err(refusal) => {
            let shown = html(render::sign_in(Some(&refusal.text)));
            let (mut parts, _) = refusal.into_response().into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            let (shown, body) = shown.into_parts();
            parts.headers.extend(shown.headers);
            Response::from_parts(parts, body)
        }
    })
}

async fn sign_out(
    State(page): State<Arc<Page>>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Response, Refusal> {
    let Some(person) = visitor.person else {
        return Ok(see_other("/sign-in"));
    };
    let cookie = page.access.sign_out(&person, &visitor.site)?;
    Ok(with_cookie(see_other("/sign-in"), cookie))
}

async fn open_link(
    State(page): State<Arc<Page>>,
    Extension(visitor): Extension<Visitor>,
    Path(token): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // A link works once. A program that looks what is there must not use it up.
    if method != Method::GET || headers.contains_key(&SEC_PURPOSE) {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "a link is for a person: open it in a browser",
        ));
    }
    let opened = page
        .access
        .open_link(&token, visitor.peer.0, &visitor.site)?;
    Ok(with_cookie(see_other("/"), opened))
}

async fn act(
    State(page): State<Arc<Page>>,
    ActingPerson(person): ActingPerson,
    Path(action): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fields = Fields::parse(&headers, &body, &RequestedAction::FIELDS)?;
    let requested = RequestedAction::read(&action, &fields)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such action"))?;
    // People correct a form on the page. Programs read the status.
    let answer = match requested.and_then(|action| Ok((action, fields.reason()?))) {
        Ok((action, reason)) => page.actions.perform(action, person.by(), reason).await,
        Err(refusal) => Err(refusal.text),
    };
    let (Ok(text) | Err(text)) = answer;
    page.notices.put(&person, text);
    Ok(see_other("/"))
}

async fn follow(
    State(page): State<Arc<Page>>,
    Extension(visitor): Extension<Visitor>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Refusal> {
    let person = visitor
        .person
        .ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "you are not signed in"))?;
    let slot = Arc::clone(&page.streams).try_acquire_owned().map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_STREAMS} people follow the page already: reload it instead"),
        )
        .retry_after(Duration::from_secs(10))
    })?;
    // A browser sends the header when it connects again. The first time, the script sends what the page says.
    let last = headers.get("last-event-id");
    let last = last.and_then(|last| last.to_str().ok());
    let last = last.map_or_else(|| query(&uri, "last"), str::to_owned);
    let events = stream::stream(&page.live, person.may_act(), Some(&last));
    let ended = async move { timeout(MAX_STREAM, signed_out(&page.access, &person)).await };
    let events = events.take_until(Box::pin(ended)).map(move |event| {
        let _held = &slot;
        event
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Resolves when the person is signed in no more.
async fn signed_out(access: &Access, person: &Person) {
    while access.is_signed_in(person) {
        sleep(CHECK_PERSON_EVERY).await;
    }
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

pub(super) fn see_other(path: &'static str) -> Response {
    let location = [(header::LOCATION, HeaderValue::from_static(path))];
    (StatusCode::SEE_OTHER, location).into_response()
}

fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

#[cfg(test)]
mod tests;
