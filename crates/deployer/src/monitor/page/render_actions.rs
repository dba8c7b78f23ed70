//! The actions that are possible now, as forms.

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    monitor::page::{
        possible::Possible,
        view::{PageView, Viewer},
    },
    report::page::{moment, short_digest},
};

/// The longest reason that a form accepts, in characters.
const MAX_REASON: u32 = 500;

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
                            (words_of(action).title)
                        }
                        "."
                    }
                }
            }
        }
    }
}

/// How an action reads.
struct Words {
    /// The name of the action in addresses.
    action: &'static str,
    /// Distinguishes the elements of this form from those of others.
    key: &'static str,
    title: String,
    /// What will happen.
    sentence: String,
    is_grave: bool,
}

/// The words of an action. The function is long, because it has an arm for each action.
fn words_of(action: &Possible) -> Words {
    let words = |action, key, title: &str, sentence, is_grave| Words {
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
            words("approve", "approve", "Approve", sentence.to_owned(), false)
        }
        Possible::Reject { is_switched, .. } => {
            let sentence = if *is_switched {
                "All traffic goes back to the previous release, and the candidate is stopped."
            } else {
                "The candidate is refused and stopped. Clients notice nothing."
            };
            words("reject", "reject", "Reject", sentence.to_owned(), true)
        }
        Possible::Abort { .. } => words(
            "abort",
            "abort",
            "Abort the deployment",
            "The candidate is refused and stopped. Clients notice nothing.".to_owned(),
            true,
        ),
        Possible::Promote { .. } => words(
            "promote",
            "promote",
            "Promote now",
            "The bake ends early, and the candidate is promoted if nothing speaks against it so far.".to_owned(),
            false,
        ),
        Possible::RollBackCandidate { to, .. } => words(
            "rollback",
            "rollback",
            "Roll back",
            format!("All traffic goes back to {to} at once, the deployment ends, and the candidate is stopped."),
            true,
        ),
        Possible::RollBack { from, to, version } => words(
            "rollback",
            "rollback",
            "Roll back",
            format!(
                "All traffic moves from {from} to {to}, which serves {version}. The monitor starts nothing. The answer says what a shell must still do."
            ),
            true,
        ),
        Possible::StandIn { color, fit: true } => words(
            "stand-in",
            "stand-in",
            &format!("Let {color} stand in"),
            format!("The router repeats requests on {color} that the active color fails."),
            false,
        ),
        Possible::StandIn { color, fit: false } => words(
            "stand-in",
            "stand-in",
            &format!("Do not let {color} stand in"),
            format!("The router sends {color} no request any more, also if the active color fails, and there is nothing to roll back to."),
            true,
        ),
    }
}

fn form(action: &Possible) -> Markup {
    let Words {
        action: name,
        key,
        title,
        sentence,
        is_grave,
    } = words_of(action);
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
