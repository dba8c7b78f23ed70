use std::{fs, net::IpAddr, path::PathBuf};

use axum::{
    body::{Body, to_bytes},
    http::request::Builder,
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config,
    monitor::{
        page::{
            attempts::MAX_FAILURES,
            guards::Hosts,
            keys::{Role, add_key},
            links::Links,
            notes::{Notes, received},
            security_headers::SECURITY_HEADERS,
        },
        page_actions::{self, PageAction, PageRequest},
    },
};

const HOST: &str = "127.0.0.1:9110";
const ORIGIN: &str = "http://127.0.0.1:9110";
const PROXY: &str = "192.0.2.9";

/// A page in a temporary state directory, with a key for each role.
struct TestPage {
    state: TempDir,
    router: Router,
    notes: mpsc::Receiver<String>,
    requests: mpsc::Receiver<PageRequest>,
    see: String,
    act: String,
}

/// A response that was read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl TestPage {
    fn new(over: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let keys = state.path().join("page-keys");
        let see = add_key(&keys, "sue", Role::See).unwrap();
        let act = add_key(&keys, "ann", Role::Act).unwrap();
        let keys = format!("page.keys={}", keys.display());
        let over: Vec<String> = [&keys]
            .into_iter()
            .cloned()
            .chain(over.iter().map(ToString::to_string))
            .collect();
        let settings = config::load(None, &over).unwrap();
        let hosts = Hosts {
            own: HOST.parse().unwrap(),
            url: settings.page.url.clone(),
        };
        let (notes, received) = Notes::channel();
        let access = Access::new(&settings.page, state.path(), hosts, notes).unwrap();
        let (monitor, requests) = page_actions::channel();
        let page = Page::new(
            access,
            Actions::new(state.path(), monitor),
            Arc::new(Live::new(state.path())),
            Reports::of(state.path()),
        );
        Self {
            router: router(Arc::new(page)),
            notes: received,
            requests,
            see,
            act,
            state,
        }
    }

    async fn send_from(&self, peer: &str, request: Builder, body: &str) -> Answer {
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        let headers = request.headers_mut();
        headers
            .entry(header::HOST)
            .or_insert(HeaderValue::from_static(HOST));
        let peer: IpAddr = peer.parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.into()).unwrap(),
        }
    }

    async fn send(&self, request: Builder, body: &str) -> Answer {
        self.send_from("127.0.0.1", request, body).await
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.send(get_with(path, cookie), "").await
    }

    async fn sign_in_from(&self, peer: &str, key: &str) -> Answer {
        let body = format!("key={key}");
        self.send_from(peer, form("/sign-in", ""), &body).await
    }

    /// Signs in. Returns the cookie for the next requests.
    async fn signed_in(&self, key: &str) -> String {
        let answer = self.sign_in_from("127.0.0.1", key).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        cookie_of(&answer)
    }

    fn links(&self) -> Links {
        Links::of(self.state.path())
    }

    fn keys(&self) -> PathBuf {
        self.state.path().join("page-keys")
    }
}

fn get_with(path: &str, cookie: &str) -> Builder {
    Request::get(path).header(header::COOKIE, cookie)
}

/// A form of the page itself.
fn form(path: &str, cookie: &str) -> Builder {
    form_from(ORIGIN, path, cookie)
}

fn form_from(origin: &str, path: &str, cookie: &str) -> Builder {
    Request::post(path)
        .header(header::ORIGIN, origin)
        .header(header::COOKIE, cookie)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
}

/// The cookie that a response sets, as a browser sends it.
fn cookie_of(answer: &Answer) -> String {
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// Whether the response sends the client to the sign-in page.
fn is_sent_to_sign_in(answer: &Answer) -> bool {
    answer.status == StatusCode::SEE_OTHER && answer.headers[header::LOCATION] == "/sign-in"
}

const ROLL_BACK: &str = "release=v2&reason=it+is+slow";

#[tokio::test]
async fn pages_are_for_people_who_are_signed_in() {
    let page = TestPage::new(&[]);
    for path in ["/", "/deployments/x", "/compare?left=a&right=b"] {
        let answer = page.get(path, "").await;
        assert!(is_sent_to_sign_in(&answer), "{path}: {}", answer.status);
    }
    assert_eq!(page.get("/stream", "").await.status, StatusCode::FORBIDDEN);
    let sign_in = page.get("/sign-in", "").await;
    assert!(
        sign_in.text.contains("action=\"/sign-in\""),
        "{}",
        sign_in.text
    );
    for asset in ["/page.css", "/page.js"] {
        assert_eq!(page.get(asset, "").await.status, StatusCode::OK, "{asset}");
    }
    let cookie = page.signed_in(&page.see).await;
    let shown = page.get("/", &cookie).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.text.contains("sue"), "{}", shown.text);
    let missing = page.get("/deployments/..%2f..%2fjournal", &cookie).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn wrong_key_is_refused_and_appears_nowhere() {
    let mut page = TestPage::new(&[]);
    for key in ["wrong-key", "%00", "<script>alert(1)</script>", ""] {
        let answer = page.sign_in_from("127.0.0.1", key).await;
        assert_ne!(answer.status, StatusCode::SEE_OTHER, "{key}");
        assert!(!answer.headers.contains_key(header::SET_COOKIE));
        assert!(answer.text.contains("role=\"alert\""), "{}", answer.text);
        assert!(!answer.text.contains("wrong-key") && !answer.text.contains("<script>a"));
    }
    let notes = received(&mut page.notes).join("\n");
    assert!(!notes.contains("wrong-key"), "{notes}");
}

#[tokio::test]
async fn attempts_are_limited_for_each_address() {
    let mut page = TestPage::new(&[]);
    for _ in 0..MAX_FAILURES {
        let answer = page.sign_in_from("192.0.2.1", "wrong").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    let key = page.act.clone();
    let limited = page.sign_in_from("192.0.2.1", &key).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers.contains_key(header::RETRY_AFTER));
    let notes = received(&mut page.notes);
    assert!(
        notes
            .iter()
            .any(|note| note.contains("from 192.0.2.1 failed")),
        "{notes:?}"
    );
    let other = page.sign_in_from("192.0.2.2", &key).await;
    assert_eq!(other.status, StatusCode::SEE_OTHER);
    // A person with a shell can always get in.
    let token = page.links().make("ann@host", Timestamp::now()).unwrap();
    let link = page.send_from("192.0.2.1", Request::get(format!("/link/{token}")), "");
    assert_eq!(link.await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn person_who_may_see_cannot_act() {
    let mut page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.see).await;
    for action in [
        "approve", "reject", "abort", "promote", "rollback", "stand-in",
    ] {
        let path = format!("/actions/{action}");
        let answer = page.send(form(&path, &cookie), ROLL_BACK).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{action}");
        assert!(
            answer.text.contains("sue may see, but not act"),
            "{}",
            answer.text
        );
        let nobody = page.send(form(&path, ""), ROLL_BACK).await;
        assert_eq!(nobody.status, StatusCode::FORBIDDEN, "{action}");
    }
    assert!(
        page.requests.try_recv().is_err(),
        "nothing reaches the monitor"
    );
    assert!(!page.state.path().join("requests").exists());
}

#[tokio::test]
async fn person_who_may_act_is_named_to_the_monitor() {
    let mut page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.act).await;
    let carried_out = async {
        let request = page.requests.recv().await.unwrap();
        let release = "v2".to_owned();
        assert_eq!(request.action, PageAction::RollBack { release });
        assert_eq!(
            (&*request.by, &*request.reason),
            ("ann (page)", "it is slow")
        );
        request
            .answer
            .send(Ok("rolled back <b>".to_owned()))
            .unwrap();
    };
    let router = page.router.clone();
    let mut request = form("/actions/rollback", &cookie)
        .body(Body::from(ROLL_BACK))
        .unwrap();
    request
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_static(HOST));
    request.extensions_mut().insert(Peer([127, 0, 0, 1].into()));
    let (answer, ()) = tokio::join!(router.oneshot(request), carried_out);
    assert_eq!(answer.unwrap().status(), StatusCode::SEE_OTHER);
    let shown = page.get("/", &cookie).await.text;
    assert!(shown.contains("rolled back &lt;b&gt;"), "{shown}");
    let again = page.get("/", &cookie).await.text;
    assert!(
        !again.contains("rolled back &lt;b&gt;"),
        "a notice is shown once"
    );
}

#[tokio::test]
async fn action_without_a_reason_is_not_carried_out() {
    let mut page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.act).await;
    let answer = page
        .send(form("/actions/rollback", &cookie), "release=v2&reason=+")
        .await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let shown = page.get("/", &cookie).await.text;
    assert!(shown.contains("no reason was given"), "{shown}");
    assert!(page.requests.try_recv().is_err());
    let unknown = page.send(form("/actions/switch", &cookie), ROLL_BACK).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let mut page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.act).await;
    for path in ["/actions/rollback", "/sign-out", "/sign-in"] {
        for origin in ["http://evil.example.com", "http://127.0.0.1:3000", "null"] {
            let answer = page.send(form_from(origin, path, &cookie), ROLL_BACK).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} from {origin}");
            assert!(answer.text.contains("another site"), "{}", answer.text);
        }
        let cross = form(path, &cookie).header("sec-fetch-site", "cross-site");
        assert_eq!(
            page.send(cross, ROLL_BACK).await.status,
            StatusCode::FORBIDDEN
        );
        let silent = Request::post(path).header(header::COOKIE, &cookie);
        assert_eq!(
            page.send(silent, ROLL_BACK).await.status,
            StatusCode::FORBIDDEN
        );
    }
    assert!(page.requests.try_recv().is_err());
    assert_eq!(
        page.get("/", &cookie).await.status,
        StatusCode::OK,
        "still signed in"
    );
}

#[tokio::test]
async fn requests_under_other_names_are_refused() {
    let page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.act).await;
    for path in ["/", "/sign-in", "/page.js", "/stream"] {
        let request = get_with(path, &cookie).header(header::HOST, "evil.example.com:9110");
        let answer = page.send(request, "").await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert!(!answer.text.contains("evil"), "{}", answer.text);
    }
}

#[tokio::test]
async fn hostile_headers_are_refused_or_ignored() {
    let page = TestPage::new(&[
        "page.identity_header=x-user",
        "page.identity_from=192.0.2.9",
    ]);
    let cookie = page.signed_in(&page.see).await;
    let (name, _) = cookie.split_once('=').unwrap();
    for hostile in [
        format!("{name}="),
        format!("{name}={}", "a".repeat(4096)),
        format!("{name}=../../sessions"),
        name.to_owned(),
        format!("x{cookie}"),
        ";;;=;".to_owned(),
    ] {
        let answer = page.get("/", &hostile).await;
        assert!(is_sent_to_sign_in(&answer), "{hostile}");
    }
    let bytes = HeaderValue::from_bytes(b"\xff\xfe=\x80").unwrap();
    let request = Request::get("/").header(header::COOKIE, bytes.clone());
    assert!(is_sent_to_sign_in(&page.send(request, "").await));
    let request = Request::get("/").header("x-user", bytes);
    assert!(is_sent_to_sign_in(
        &page.send_from(PROXY, request, "").await
    ));
    let request = Request::get("/").header("x-user", "<img src=x>");
    let shown = page.send_from(PROXY, request, "").await.text;
    assert!(
        shown.contains("&lt;img src=x&gt;") && !shown.contains("<img"),
        "{shown}"
    );
    let two = Request::get("/")
        .header("x-user", "ann")
        .header("x-user", "bob");
    assert!(is_sent_to_sign_in(&page.send_from(PROXY, two, "").await));
    let large = format!("key={}", "a".repeat(MAX_BODY));
    let answer = page.send(form("/sign-in", ""), &large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn cookie_is_bound_to_the_site_and_hidden_from_scripts() {
    let page = TestPage::new(&["page.url=https://deploy.example.com", "page.session=1h"]);
    let key = format!("key={}", page.act);
    let plain = page.send(form("/sign-in", ""), &key).await;
    let plain = plain.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(plain.starts_with("deployer-session-"), "{plain}");
    assert!(
        plain.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=3600"),
        "{plain}"
    );
    let by_tls = form_from("https://deploy.example.com", "/sign-in", "")
        .header(header::HOST, "deploy.example.com");
    let by_tls = page.send(by_tls, &key).await;
    let secure = by_tls.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(secure.starts_with("__Host-deployer-session-"), "{secure}");
    assert!(secure.ends_with("; Max-Age=3600; Secure"), "{secure}");
    let cookie = cookie_of(&by_tls);
    let shown = get_with("/", &cookie).header(header::HOST, "deploy.example.com");
    assert_eq!(page.send(shown, "").await.status, StatusCode::OK);
    // The cookie of one site is none of the other's.
    assert!(is_sent_to_sign_in(&page.get("/", &cookie).await));
}

#[tokio::test]
async fn removed_key_and_sign_out_end_sessions() {
    let page = TestPage::new(&[]);
    let (see, act) = (
        page.signed_in(&page.see).await,
        page.signed_in(&page.act).await,
    );
    let out = page.send(form("/sign-out", &see), "").await;
    assert!(is_sent_to_sign_in(&out));
    let removed = out.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(removed.contains("Max-Age=0"), "{removed}");
    assert!(is_sent_to_sign_in(&page.get("/", &see).await));
    assert_eq!(page.get("/", &act).await.status, StatusCode::OK);
    let text = fs::read_to_string(page.keys()).unwrap();
    let kept = text.replace("ann act", "# ann act");
    fs::write(page.keys(), kept).unwrap();
    assert!(is_sent_to_sign_in(&page.get("/", &act).await));
    let refused = page.send(form("/actions/rollback", &act), ROLL_BACK).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn one_time_link_is_refused_for_second_use_head_and_prefetch() {
    let page = TestPage::new(&[]);
    let token = page.links().make("ann@host", Timestamp::now()).unwrap();
    let path = format!("/link/{token}");
    let looked = page.send(Request::head(&*path), "").await;
    assert_eq!(looked.status, StatusCode::METHOD_NOT_ALLOWED);
    let prefetched = Request::get(&*path).header("sec-purpose", "prefetch");
    assert_eq!(
        page.send(prefetched, "").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let opened = page.get(&path, "").await;
    assert_eq!(opened.status, StatusCode::SEE_OTHER);
    assert_eq!(opened.headers[header::LOCATION], "/");
    let shown = page.get("/", &cookie_of(&opened)).await.text;
    assert!(shown.contains("ann@host"), "{shown}");
    let again = page.get(&path, "").await;
    assert_eq!(again.status, StatusCode::FORBIDDEN);
    assert!(again.text.contains("was used already"), "{}", again.text);
    assert!(!again.text.contains(&token));
    let old = Timestamp::now() - Duration::from_mins(6);
    let token = page.links().make("ann@host", old).unwrap();
    let expired = page.get(&format!("/link/{token}"), "").await;
    assert_eq!(expired.status, StatusCode::FORBIDDEN);
    assert!(expired.text.contains("expired"), "{}", expired.text);
}

#[tokio::test]
async fn identity_header_counts_from_its_proxy_only() {
    let page = TestPage::new(&[
        "page.identity_header=x-user",
        "page.identity_from=192.0.2.9",
        "page.identity_act=[\"ann@example.com\"]",
    ]);
    let as_ann = || Request::get("/").header("x-user", "ann@example.com");
    let from_proxy = page.send_from(PROXY, as_ann(), "").await;
    assert!(
        from_proxy.text.contains("ann@example.com (may act)"),
        "{}",
        from_proxy.text
    );
    let mapped = page.send_from("::ffff:192.0.2.9", as_ann(), "").await;
    assert_eq!(mapped.status, StatusCode::OK);
    for other in ["192.0.2.10", "127.0.0.1", "::1"] {
        let answer = page.send_from(other, as_ann(), "").await;
        assert!(is_sent_to_sign_in(&answer), "{other}");
    }
    let as_bob = Request::get("/").header("x-user", "bob@example.com");
    let shown = page.send_from(PROXY, as_bob, "").await.text;
    assert!(shown.contains("bob@example.com (may see)"), "{shown}");
    let act = form("/actions/rollback", "").header("x-user", "bob@example.com");
    let refused = page.send_from(PROXY, act, ROLL_BACK).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.act).await;
    let mut answers = Vec::new();
    for path in [
        "/",
        "/sign-in",
        "/page.css",
        "/nothing",
        "/link/x",
        "/deployments/x",
    ] {
        answers.push((path, page.get(path, &cookie).await));
    }
    let other = Request::get("/").header(header::HOST, "evil.example.com");
    answers.push(("other host", page.send(other, "").await));
    answers.push(("other method", page.send(Request::delete("/"), "").await));
    for (path, Answer { headers, text, .. }) in answers {
        for (name, value) in SECURITY_HEADERS {
            assert_eq!(headers[&name], value, "{path}");
        }
        for inline in ["<style", " style=", "<script>", " onclick", "javascript:"] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
    }
}

#[tokio::test]
async fn link_from_another_site_asks_for_the_page_again_once() {
    let page = TestPage::new(&[]);
    let from_elsewhere = |path: &str, cookie: &str| {
        get_with(path, cookie)
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate")
    };
    let first = page
        .send(from_elsewhere("//evil.example.com/x?a=b", ""), "")
        .await;
    assert_eq!(first.status, StatusCode::NOT_FOUND);
    let first = page
        .send(from_elsewhere("/compare?left=a&right=b", ""), "")
        .await;
    assert_eq!(
        first.headers["refresh"],
        "0; url=/compare?left=a&right=b&again"
    );
    let again = page
        .send(from_elsewhere("/compare?left=a&right=b&again", ""), "")
        .await;
    assert!(is_sent_to_sign_in(&again));
    let cookie = page.signed_in(&page.see).await;
    let shown = page.send(from_elsewhere("/?again", &cookie), "").await;
    assert_eq!(shown.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn stream_ends_when_its_person_is_signed_out() {
    let page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.see).await;
    let following = page.get("/stream", &cookie);
    let removed = async {
        sleep(Duration::from_secs(5)).await;
        fs::remove_file(page.keys()).unwrap();
    };
    let (answer, ()) = tokio::join!(following, removed);
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text.contains("data:"), "{}", answer.text);
}

#[tokio::test]
async fn number_of_streams_is_bounded() {
    let page = TestPage::new(&[]);
    let cookie = page.signed_in(&page.see).await;
    let open = async || {
        let mut request = get_with("/stream", &cookie).body(Body::empty()).unwrap();
        let host = HeaderValue::from_static(HOST);
        request.headers_mut().insert(header::HOST, host);
        request.extensions_mut().insert(Peer([127, 0, 0, 1].into()));
        page.router.clone().oneshot(request).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..MAX_STREAMS {
        let stream = open().await;
        assert_eq!(stream.status(), StatusCode::OK);
        held.push(stream);
    }
    assert_eq!(open().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    held.pop();
    assert_eq!(open().await.status(), StatusCode::OK);
}
