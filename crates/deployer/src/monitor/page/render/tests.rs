use std::{env, fs, path::Path};

use jiff::Timestamp;
use serde_json::Value;

use super::*;
use crate::{
    color::Color,
    deployment::phase::Phase,
    evidence::verdict::Conclusion,
    monitor::page::samples::{self, Situation},
    state::approval::ApprovalDecision,
};

const ACTING: Viewer<'static> = Viewer {
    name: "ada",
    may_act: true,
};
const SEEING: Viewer<'static> = Viewer {
    name: "bob",
    may_act: false,
};

fn rendered(situation: Situation, viewer: Viewer<'_>) -> String {
    let view = samples::view(situation);
    page(&view, viewer, &HistoryFilter::default(), None).into_string()
}

/// All pages, each with its name.
fn all_pages() -> Vec<(String, String)> {
    let mut pages = vec![
        (
            "sign-in".to_owned(),
            sign_in(Some("the key is not known")).into_string(),
        ),
        (
            "message".to_owned(),
            message("Not found", "There is no such report.", Some(ACTING)).into_string(),
        ),
    ];
    for situation in Situation::ALL {
        for viewer in [ACTING, SEEING] {
            let name = format!("{situation:?}-{}", viewer.name).to_lowercase();
            pages.push((name, rendered(situation, viewer)));
        }
    }
    let records = [Situation::Refused, Situation::Promoted].map(|it| samples::record(it).unwrap());
    let [left, right] = &records;
    pages.push((
        "deployment".to_owned(),
        deployment(right, SEEING).into_string(),
    ));
    pages.push((
        "compare".to_owned(),
        compare(left, right, SEEING).into_string(),
    ));
    pages
}

#[test]
fn page_samples_have_no_inline_style_or_script() {
    for (name, html) in all_pages() {
        for forbidden in [" style=", "<style", "<script>", " onclick=", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden} in {name}");
        }
        // A browser ignores the second one.
        let mut tags = html.split('<').map(|rest| rest.split('>').next().unwrap());
        let twice = tags.find(|tag| tag.matches(" class=\"").count() > 1);
        assert_eq!(twice, None, "{name}");
        if let Some(directory) = env::var_os("PAGE_SAMPLES") {
            let directory = Path::new(&directory);
            // The files lie beside their style.
            let html = html
                .replace("/page.css", "page.css")
                .replace("/page.js", "page.js");
            fs::write(directory.join(format!("live-{name}.html")), html).unwrap();
            fs::write(directory.join("page.css"), STYLE).unwrap();
        }
    }
}

/// The start tags of this element in the page, without their brackets.
fn tags<'a>(html: &'a str, element: &str) -> Vec<&'a str> {
    let begin = format!("<{element}");
    let tags = html.split(begin.as_str()).skip(1);
    let tags = tags.filter(|rest| rest.starts_with([' ', '>']));
    tags.map(|rest| rest.split_once('>').unwrap().0).collect()
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[test]
fn each_field_of_each_page_has_a_label() {
    for (name, html) in all_pages() {
        let labels: Vec<&str> = tags(&html, "label")
            .into_iter()
            .filter_map(|tag| attribute(tag, "for"))
            .collect();
        for field in [tags(&html, "input"), tags(&html, "select")].concat() {
            match attribute(field, "type") {
                Some("hidden") => {}
                // Its label surrounds it.
                Some("checkbox") => assert!(
                    html.contains(&format!("<label class=\"more\"><input{field}>")),
                    "{field} in {name}"
                ),
                _ => {
                    let id = attribute(field, "id").unwrap();
                    assert!(labels.contains(&id), "{field} in {name}");
                }
            }
        }
    }
}

#[test]
fn headings_are_in_order_and_identifiers_are_unique() {
    for (name, html) in all_pages() {
        let levels = html
            .split("<h")
            .skip(1)
            .filter_map(|rest| rest[..1].parse::<u32>().ok());
        let mut before = 0;
        let mut titles = 0;
        for level in levels {
            assert!(level <= before + 1, "h{level} after h{before} in {name}");
            before = level;
            titles += u32::from(level == 1);
        }
        assert_eq!(titles, 1, "{name}");
        let mut ids: Vec<&str> = html
            .split(" id=\"")
            .skip(1)
            .map(|rest| rest.split_once('"').unwrap().0)
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{name}");
    }
}

#[test]
fn hostile_texts_are_escaped_everywhere() {
    const HOSTILE: &str = "\"><script>alert('x')</script>";

    let mut record = serde_json::to_value(samples::record(Situation::Promoted).unwrap()).unwrap();
    poison(&mut record, HOSTILE);
    let record: Record = serde_json::from_value(record).unwrap();
    let mut view = samples::view(Situation::Promoted);
    view.round.model = HOSTILE.to_owned();
    view.round.router = HOSTILE.to_owned();
    view.round.interrupted = Some(HOSTILE.to_owned());
    for card in &mut view.round.colors {
        card.version = Some(HOSTILE.to_owned());
        card.digest = Some(HOSTILE.to_owned());
        card.trouble = Some(HOSTILE.to_owned());
    }
    let mut history = (*view.round.history).clone();
    for entry in &mut history.entries {
        for text in [&mut entry.version, &mut entry.reason, &mut entry.id] {
            *text = Some(HOSTILE.to_owned());
        }
        entry.by = HOSTILE.to_owned();
    }
    view.round.history = history.into();
    view.deployment = Some(record.clone().into());
    let viewer = Viewer {
        name: HOSTILE,
        may_act: true,
    };
    let filter = HistoryFilter {
        action: HOSTILE.to_owned(),
        version: HOSTILE.to_owned(),
    };
    let pages = [
        page(&view, viewer, &HistoryFilter::default(), Some(HOSTILE)),
        page(&view, viewer, &filter, None),
        deployment(&record, viewer),
        compare(&record, &record, viewer),
        sign_in(Some(HOSTILE)),
        message(HOSTILE, HOSTILE, Some(viewer)),
    ];
    for page in pages.map(maud::PreEscaped::into_string) {
        assert!(page.contains("&lt;script&gt;alert"), "{page}");
        assert!(!page.contains("<script>"), "{page}");
    }
}

/// Replaces all texts that are neither times nor names of kinds.
fn poison(value: &mut Value, hostile: &str) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| poison(field, hostile)),
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, hostile)),
        Value::String(_) if !is_time_or_kind(value) => *value = hostile.into(),
        _ => {}
    }
}

fn is_time_or_kind(value: &Value) -> bool {
    fn is<T: serde::de::DeserializeOwned>(value: &Value) -> bool {
        serde_json::from_value::<T>(value.clone()).is_ok()
    }
    is::<Timestamp>(value)
        || is::<Phase>(value)
        || is::<Color>(value)
        || is::<Conclusion>(value)
        || is::<ApprovalDecision>(value)
}

#[test]
fn only_possible_actions_have_a_form() {
    for (situation, expected) in [
        (Situation::Empty, &["stand-in"][..]),
        (Situation::Testing, &["abort"]),
        (
            Situation::WaitingBeforeSwitch,
            &["approve", "reject", "abort"],
        ),
        (Situation::Baking, &["promote", "rollback"]),
        (Situation::Promoted, &["rollback", "stand-in"]),
        (Situation::Refused, &[]),
        (Situation::Interrupted, &[]),
    ] {
        let page = rendered(situation, ACTING);
        let forms: Vec<&str> = tags(&page, "form")
            .into_iter()
            .filter_map(|tag| attribute(tag, "action")?.strip_prefix("/actions/"))
            .collect();
        assert_eq!(forms, expected, "{situation:?}");
        assert_eq!(
            page.contains("Nothing can be done here now"),
            expected.is_empty(),
            "{situation:?}"
        );
        let reasons = page.matches("name=\"reason\" required").count();
        assert_eq!(reasons, expected.len(), "{situation:?}");
    }
}

#[test]
fn approval_is_bound_to_the_evidence_that_is_shown() {
    let page = rendered(Situation::WaitingBeforeSwitch, ACTING);
    let record = samples::record(Situation::WaitingBeforeSwitch).unwrap();
    let evidence = &record.approvals[0].evidence;
    assert!(
        page.contains(&format!("name=\"evidence\" value=\"{evidence}\"")),
        "{page}"
    );
    assert!(
        page.contains(&format!("name=\"deployment\" value=\"{}\"", record.plan.id)),
        "{page}"
    );
}

#[test]
fn rollback_outside_of_a_deployment_wants_the_release_typed() {
    let page = rendered(Situation::Promoted, ACTING);
    assert!(page.contains("Type <code>v2.4.0</code>"), "{page}");
    assert!(page.contains("name=\"release\" required"), "{page}");
    let page = rendered(Situation::Baking, ACTING);
    assert!(!page.contains("name=\"release\""), "{page}");
}

#[test]
fn viewer_who_may_only_see_is_told_so_and_sees_no_form() {
    for situation in Situation::ALL {
        let page = rendered(situation, SEEING);
        assert!(!page.contains("action=\"/actions/"), "{situation:?}");
        let told = page.contains("your key has the role “see”");
        assert!(
            told || page.contains("Nothing can be done here now"),
            "{situation:?}"
        );
    }
}

#[test]
fn history_shows_lines_that_match_the_filter() {
    let view = samples::view(Situation::Promoted);
    let rows = |action: &str, version: &str| {
        let filter = HistoryFilter {
            action: action.to_owned(),
            version: version.to_owned(),
        };
        let page = page(&view, SEEING, &filter, None).into_string();
        assert_eq!(
            page.contains("id=\"history\" data-keep"),
            !filter.is_empty(),
            "{page}"
        );
        page.matches("<td class=\"when\">").count()
    };
    assert_eq!(rows("", ""), 5);
    assert_eq!(rows("promoted", ""), 2);
    assert_eq!(rows("rolled_back", ""), 1);
    assert_eq!(rows("", "v2.3"), 3);
    assert_eq!(rows("promoted", "v2.3"), 1);
    assert_eq!(rows("promoted", "v9"), 0);
}

#[test]
fn comparison_has_verdicts_and_figures_of_both() {
    let records = [Situation::Refused, Situation::Promoted].map(|it| samples::record(it).unwrap());
    let page = compare(&records[0], &records[1], SEEING).into_string();
    let row = |name: &str| {
        let (_, row) = page
            .split_once(&format!("<th scope=\"row\">{name}</th>"))
            .unwrap();
        row.split_once("</tr>").unwrap().0
    };
    assert!(
        row("End").contains("refused") && row("End").contains("promoted"),
        "{}",
        row("End")
    );
    assert!(
        row("agreement").contains("<strong>fail</strong>"),
        "{}",
        row("agreement")
    );
    assert!(row("bake").contains("did not run"), "{}", row("bake"));
    assert!(
        row("error rate high").contains("0.6 %"),
        "{}",
        row("error rate high")
    );
    assert!(
        row("p99 ratio limit").contains("1.50 times"),
        "{}",
        row("p99 ratio limit")
    );
}
