//! The actions that are possible now, as forms.

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    monitor::page::{
        form::MAX_REASON,
        possible::Possible,
        view::{PageView, Viewer},
    },
    report::page::{moment, short_digest},
};

pub(super) fn actions(view: &PageView, viewer: Viewer<'_>) -> Markup {
    html! {
        h2 { "Actions" }
        @match Possible::of(view) {
            Err(reason) => { p.hint { "Nothing can be done here now: " (reason.trim_end_matches('.')) "." } }
            Ok(possible) => {
                @if viewer.may_act {
                    div.actions { @for action in &possible { (form(action)) } }
                } @else {
                    p.hint {
                        "You may see, and not act: your key has the role “see”. Possible now: "
                        @for (place, action) in possible.iter().enumerate() {
                            @if place > 0 { ", " }
                            (labels_of(action).title)
                        }
                        "."
                    }
                }
            }
        }
    }
}

/// The texts of an action.
struct ActionLabels {
    /// The name of the action in addresses.
    action: &'static str,
    /// Distinguishes the elements of this form from those of others.
    key: &'static str,
    title: String,
    /// What will happen.
    sentence: String,
    is_grave: bool,
}

/// The texts of an action. The function is long, because it has an arm for each action.
fn labels_of(action: &Possible) -> ActionLabels {
    let labels = |action, key, title: &str, sentence, is_grave| ActionLabels {
        action,
        key,
        title: title.to_owned(),
        sentence,
        is_grave,
    };
    match action {
        Possible::Approve { before, .. } => {
            let sentence = if *before == Phase::Promoted {
                "The candidate is promoted when its bake ends well."
            } else {
                "All traffic moves to the candidate."
            };
            labels("approve", "approve", "Approve", sentence.to_owned(), false)
        }
        Possible::Reject { is_switched, .. } => {
            let sentence = if *is_switched {
                "All traffic goes back to the previous release, and the candidate is stopped."
            } else {
                "The candidate is refused and stopped. Clients notice nothing."
            };
            labels("reject", "reject", "Reject", sentence.to_owned(), true)
        }
        Possible::Abort { .. } => labels(
            "abort",
            "abort",
            "Abort the deployment",
            "The candidate is refused and stopped. Clients notice nothing.".to_owned(),
            true,
        ),
        Possible::Promote { .. } => labels(
            "promote",
            "promote",
            "Promote now",
            "The bake ends early, and the candidate is promoted, unless it is failing.".to_owned(),
            false,
        ),
        Possible::RollBackCandidate { to, .. } => labels(
            "rollback",
            "rollback",
            "Roll back",
            format!(
                "All traffic goes back to {to} at once, the deployment ends, and the candidate is stopped."
            ),
            true,
        ),
        Possible::RollBack { from, to, version } => labels(
            "rollback",
            "rollback",
            "Roll back",
            format!(
                "All traffic moves from {from} to {to}, which serves {version}. The monitor starts nothing. The answer says what a shell must still do."
            ),
            true,
        ),
        Possible::StandIn { color, fit: true } => labels(
            "stand-in",
            "stand-in",
            &format!("Let {color} stand in"),
            format!("The router repeats requests on {color} that the active color fails."),
            false,
        ),
        Possible::StandIn { color, fit: false } => labels(
            "stand-in",
            "stand-in",
            &format!("Do not let {color} stand in"),
            format!(
                "The router sends {color} no request any more, also if the active color fails, and there is nothing to roll back to."
            ),
            true,
        ),
    }
}

fn form(action: &Possible) -> Markup {
    let ActionLabels {
        action: name,
        key,
        title,
        sentence,
        is_grave,
    } = labels_of(action);
    html! {
        details.action id={ "action-" (key) } .grave[is_grave] open[name == "approve"] {
            summary { (title) }
            form method="post" action={ "/actions/" (name) } {
                p { (sentence) }
                (fields(action, key))
                label for={ (key) "-reason" } { "Reason" }
                input type="text" id={ (key) "-reason" } name="reason" required maxlength=(MAX_REASON) autocomplete="off";
                button type="submit" .grave[is_grave] { (title) }
            }
        }
    }
}

/// The fields of an action besides the reason.
fn fields(action: &Possible, key: &str) -> Markup {
    let hidden = |name: &str, value: &str| {
        html! { input type="hidden" name=(name) value=(value); }
    };
    html! {
        @match action {
            Possible::Approve { deployment, evidence, before, expires } => {
                (hidden("deployment", deployment))
                (hidden("evidence", evidence))
                p.hint {
                    "Before the phase " (before) ", until " (moment(*expires)) " UTC. You approve the evidence "
                    (short_digest(evidence)) ", as it is shown below."
                }
            }
            Possible::Reject { deployment, .. }
            | Possible::Abort { deployment }
            | Possible::Promote { deployment }
            | Possible::RollBackCandidate { deployment, .. } => (hidden("deployment", deployment)),
            Possible::RollBack { from, .. } => {
                label for={ (key) "-release" } { "Type " code { (from) } ", the release that loses the traffic" }
                input type="text" id={ (key) "-release" } name="release" required autocomplete="off" autocapitalize="off" spellcheck="false";
            }
            Possible::StandIn { color, fit } => {
                (hidden("color", color.name()))
                (hidden("fit", if *fit { "true" } else { "false" }))
            }
        }
    }
}
