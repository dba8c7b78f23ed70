//! The two colors as cards, and the arrow to the one that has the traffic.

use maud::{Markup, html};

use crate::{
    color::Color, monitor::page::view::PageView, ports::RouterStatus, report::page::short_digest,
};

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
    let round = &view.round;
    html! {
        @if let [_, ..] = &round.routers[..] {
            (routers(&round.routers))
        } @else if let Some(trouble) = &round.router_trouble {
            p.bad { "✗ The router does not answer: " (trouble) }
        } @else if let Some(in_flight) = round.in_flight {
            p.hint {
                "The router " (round.router) " works on "
                strong { (in_flight) @if in_flight == 1 { " request" } @else { " requests" } } " now, of both colors."
            }
        }
    }
}

/// A line for each of several routers.
fn routers(routers: &[RouterStatus]) -> Markup {
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |it| it.to_string());
    html! {
        table.routers {
            caption.hidden { "Routers" }
            thead { tr {
                th scope="col" { "Router" }
                th scope="col" { "State" }
                th scope="col" { "Traffic to" }
                th scope="col" { "Requests now" }
                th scope="col" { "Generation" }
            } }
            tbody {
                @for router in routers {
                    tr {
                        th scope="row" { (router.name) }
                        td {
                            @match &router.problem {
                                None => span.good { "✓ open" },
                                Some(problem) => { span.bad { "✗ " (problem) } }
                            }
                        }
                        td { (router.active.map_or("not known", Color::name)) }
                        td { (number(router.in_flight)) }
                        td { (number(router.generation)) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_with_a_problem_says_so_beside_the_others() {
        let router = |name: &str, problem: Option<&str>| RouterStatus {
            name: name.to_owned(),
            generation: problem.is_none().then_some(7),
            open: problem.is_none().then_some(true),
            active: problem.is_none().then_some(Color::Green),
            in_flight: problem.is_none().then_some(3),
            problem: problem.map(str::to_owned),
        };
        let page = routers(&[router("r1", None), router("r2", Some("its agent <down>"))]);
        let page = page.into_string();
        let row = |name: &str| {
            let row = page.split("<tr>").find(|row| row.contains(name));
            row.unwrap_or_default().to_owned()
        };
        assert!(
            row("r1").contains("✓ open") && row("r1").contains("green"),
            "{page}"
        );
        assert!(row("r2").contains("✗ its agent &lt;down&gt;"), "{page}");
        assert!(row("r2").contains("not known"), "{page}");
    }
}
