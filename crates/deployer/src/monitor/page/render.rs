//! The pages that the monitor serves. They need no JavaScript, and have no style or script of their own, so that the
//! Content-Security-Policy can forbid both.

use maud::{DOCTYPE, Markup, html};

use crate::{
    monitor::page::{
        recent,
        render_actions::actions,
        render_colors::colors,
        render_compare::comparison,
        render_history::history,
        render_status as status,
        stream::event_id_of,
        view::{HistoryFilter, PageView, Viewer},
    },
    report::{page, record::Record},
};

/// The style of all pages, for `/page.css`.
pub(crate) const STYLE: &str = page::STYLE;
/// The script of the page, for `/page.js`.
pub(crate) const SCRIPT: &str = include_str!("page.js");
/// The icon of all pages, for `/favicon.ico`.
pub(crate) const ICON: &str = include_str!("icon.svg");

/// The sections of the page in order, each with the identifier of its element. They name no viewer.
pub(crate) fn sections(view: &PageView, viewer: Viewer<'_>) -> Vec<(&'static str, String)> {
    let unfiltered = &HistoryFilter::default();
    let sections = sections_with(view, viewer, unfiltered).into_iter();
    let sections = sections.map(|section| (section.id, section.markup.into_string()));
    sections.collect()
}

/// A section of the page.
struct Section {
    id: &'static str,
    /// What a screen reader announces: changes of the situation, and nothing that changes every second.
    is_announced: bool,
    /// Whether later changes must not replace it, because they know no filter.
    is_kept: bool,
    markup: Markup,
}

fn sections_with(view: &PageView, viewer: Viewer<'_>, filter: &HistoryFilter) -> Vec<Section> {
    let section = |id, content: Markup| Section {
        id,
        is_announced: id == "status",
        is_kept: id == "history" && !filter.is_empty(),
        markup: content,
    };
    let sections = [
        section("status", status::status(view)),
        section("work", status::at_work(view)),
        section("colors", colors(view)),
        section("actions", actions(view, viewer)),
        section("deployment", status::deployment(view)),
        section("gates", status::gates(view)),
        section("running", status::running(view)),
        section("traffic", recent::traffic(&view.round.traffic)),
        section("notes", status::notes(view)),
        section("history", history(view, filter)),
        section("checked", status::checked(view)),
    ];
    let wrapped = sections.map(|section| Section {
        markup: section.wrap(),
        ..section
    });
    wrapped.into()
}

impl Section {
    /// The element of the section.
    fn wrap(&self) -> Markup {
        html! {
            section id=(self.id) aria-live=[self.is_announced.then_some("polite")] data-keep[self.is_kept] { (self.markup) }
        }
    }
}

/// The page.
pub(crate) fn page(
    view: &PageView,
    viewer: Viewer<'_>,
    filter: &HistoryFilter,
    notice: Option<&str>,
) -> Markup {
    let shown = sections_with(view, viewer, filter);
    // The stream sends the history without a filter. What a viewer sees of it is never sent again.
    let event_id = event_id_of(view, &sections(view, viewer));
    let title = match view.deployment.as_deref() {
        Some(record) => page::title(record),
        None => view.round.model.clone(),
    };
    let content = html! {
        @if let Some(notice) = notice { p.notice role="status" { (notice) } }
        @for section in &shown { (section.markup) }
    };
    document(&title, Some(viewer), Some(&event_id), &content)
}

/// The report of a deployment.
pub(crate) fn deployment(record: &Record, viewer: Viewer<'_>) -> Markup {
    let content = html! { (back()) (page::deployment(record)) };
    document(&page::title(record), Some(viewer), None, &content)
}

/// Two deployments side by side.
pub(crate) fn compare(left: &Record, right: &Record, viewer: Viewer<'_>) -> Markup {
    let title = format!(
        "{} and {}",
        left.plan.release.version, right.plan.release.version
    );
    let content = html! { (back()) (comparison(left, right)) };
    document(&title, Some(viewer), None, &content)
}

/// The form to sign in. `error` says why a key was not accepted.
pub(crate) fn sign_in(error: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Sign in" }
        p { "This page needs a key. " code { "deployer page-key" } " makes one, and " code { "deployer page-link" } " prints a link that works once." }
        @if let Some(error) = error { p.notice.bad role="alert" { "✗ " (error) } }
        form.sign-in method="post" action="/sign-in" {
            label for="key" { "Key" }
            input type="password" id="key" name="key" required autocomplete="current-password" autocapitalize="off" spellcheck="false";
            button type="submit" { "Sign in" }
        }
    };
    document("Sign in", None, None, &content)
}

/// A page that says that something was not found, or went wrong.
pub(crate) fn message(title: &str, text: &str, viewer: Option<Viewer<'_>>) -> Markup {
    let content = html! {
        (back())
        h1 { (title) }
        p.lead { (text) }
    };
    document(title, viewer, None, &content)
}

fn back() -> Markup {
    html! { nav.back aria-label="Back" { a href="/" { "← Back to the page" } } }
}

/// A document. `event_id` names what the page shows, if it follows the changes.
fn document(
    title: &str,
    viewer: Option<Viewer<'_>>,
    event_id: Option<&str>,
    content: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="/page.css";
                @if event_id.is_some() { script src="/page.js" defer {} }
            }
            body.served data-event-id=[event_id] {
                a.skip href="#main" { "Skip to the content" }
                header.site {
                    p.brand { a href="/" { span.dot.blue aria-hidden="true" {} span.dot.green aria-hidden="true" {} "Deployments" } }
                    @if let Some(viewer) = viewer { (signed_in(viewer)) }
                }
                main id="main" tabindex="-1" {
                    (content)
                    @if event_id.is_some() { p.connection id="connection" role="status" {} }
                }
            }
        }
    }
}

fn signed_in(viewer: Viewer<'_>) -> Markup {
    let role = if viewer.may_act { "may act" } else { "may see" };
    html! {
        div.viewer {
            span { (viewer.name) " (" (role) ")" }
            form method="post" action="/sign-out" { button.quiet type="submit" { "Sign out" } }
        }
    }
}

#[cfg(test)]
mod tests;
