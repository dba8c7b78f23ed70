//! The two colors as cards, and the arrow to the one that has the traffic.

use maud::{Markup, html};

use crate::{color::Color, monitor::page::view::PageView, report::page::short_digest};

pub(super) fn colors(view: &PageView) -> Markup {
    html! {
        h2.hidden { "Colors" }
        div.cards {
            (card(view, Color::Blue))
            (arrow(view.active))
            (card(view, Color::Green))
        }
        (router(view))
    }
}

/// What a color does at the moment.
fn role(view: &PageView, color: Color) -> &'static str {
    let candidate = view.running().map(|record| record.plan.idle);
    match (view.active, view.card(color).fit) {
        (None, _) => "unknown",
        (Some(active), _) if active == color => "active",
        _ if candidate == Some(color) => "candidate",
        (_, Some(true)) => "standby",
        _ => "idle",
    }
}

fn card(view: &PageView, color: Color) -> Markup {
    let card = view.card(color);
    let role = role(view, color);
    html! {
        article.card.(color) .has-traffic[role == "active"] aria-labelledby={ "card-" (color) } {
            h3 id={ "card-" (color) } { span.dot.(color) aria-hidden="true" {} (color) span.role { (role) } }
            p.release { (card.version.as_deref().unwrap_or("no release")) }
            p.digest { @if let Some(digest) = &card.digest { (short_digest(digest)) } @else { "no digest" } }
            dl {
                div { dt { "Health" } dd { (health(view, color)) } }
                div { dt { "New requests" } dd { (traffic(view, color)) } }
                div { dt { "May stand in" } dd { (fit(view, color)) } }
            }
        }
    }
}

fn health(view: &PageView, color: Color) -> Markup {
    match &view.card(color).trouble {
        _ if view.round.checked.is_none() => html! { span.skipped { "not checked yet" } },
        None => html! { span.good { "✓ healthy" } },
        Some(trouble) => html! { span.bad { "✗ not healthy" } span.why { (trouble) } },
    }
}

fn traffic(view: &PageView, color: Color) -> Markup {
    let share = view.round.traffic.share(color);
    html! {
        @match view.active {
            Some(active) if active == color => { strong { "all" } }
            Some(_) => { "none" }
            None => { "not known" }
        }
        @if let Some(share) = share { span.why { (format!("{:.0} % of the last 30 s", share * 100.0)) } }
    }
}

fn fit(view: &PageView, color: Color) -> Markup {
    match view.card(color).fit {
        Some(true) => html! { span.good { "✓ yes" } },
        Some(false) => html! { span.open { "– no" } },
        None => html! { span.skipped { "not known" } },
    }
}

/// An arrow to the color that has the traffic. It lies on its back where the cards lie one below the other.
fn arrow(active: Option<Color>) -> Markup {
    let to = active.map_or("nowhere", Color::name);
    html! {
        div class={ "arrow to-" (to) } {
            svg viewBox="0 0 64 64" aria-hidden="true" focusable="false" {
                circle.hub cx="54" cy="32" r="7" {}
                @if active.is_some() { path.shaft d="M48 32H8M22 18L8 32L22 46" {} }
            }
            span.words {
                @match active {
                    Some(active) => { "all traffic to " (active) }
                    None => { "not known" }
                }
            }
        }
    }
}

fn router(view: &PageView) -> Markup {
    html! {
        @if let Some(trouble) = &view.round.router_trouble {
            p.bad { "✗ The router does not answer: " (trouble) }
        } @else if let Some(in_flight) = view.round.in_flight {
            p.hint {
                "The router " (view.round.router) " works on "
                strong { (in_flight) @if in_flight == 1 { " request" } @else { " requests" } } " now, of both colors."
            }
        }
    }
}
