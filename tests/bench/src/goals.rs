//! What the model server is to reach beside its peers, and what of it was reached.

use crate::{
    contender::{FASTAPI, ONNXRUNTIME, RTEN},
    face::Face,
    models::{Case, Comparison, Model, Row, Weight},
    table::Table,
    texts::Mix,
};

/// A ratio that is to be reached by one or both of this server's engines.
struct Goal {
    what: String,
    wanted: Wanted,
    /// With ONNX Runtime, and with rten.
    reached: [f64; 2],
}

/// How far a ratio has to go; for each engine, where it has to.
#[derive(Clone, Copy)]
enum Wanted {
    AtLeast([Option<f64>; 2]),
    AtMost(f64),
}

/// The goals in a table, each with what was reached.
pub(crate) fn table(face: &Face, comparisons: &[Comparison]) -> Table {
    let mut table = Table::new(&["", "wanted", ONNXRUNTIME.name, RTEN.name]);
    for goal in goals(face, comparisons) {
        let cells = [0, 1].map(|engine| goal.cell(engine));
        table.row([vec![goal.what.clone(), goal.bound()], cells.to_vec()].concat());
    }
    table
}

impl Goal {
    fn bound(&self) -> String {
        match self.wanted {
            Wanted::AtMost(most) => format!("≤ {most:.2}"),
            Wanted::AtLeast([Some(first), Some(second)]) if second < first => {
                format!("≥ {first:.2}; rten ≥ {second:.2}")
            }
            Wanted::AtLeast(least) => {
                let least = least.into_iter().flatten().next();
                format!("≥ {:.2}", least.unwrap_or(f64::NAN))
            }
        }
    }

    fn cell(&self, engine: usize) -> String {
        let reached = self.reached[engine];
        let met = match self.wanted {
            Wanted::AtMost(most) => Some(reached <= most),
            Wanted::AtLeast(least) => least[engine].map(|least| reached >= least),
        };
        let told = match met {
            Some(true) => ", reached",
            Some(false) => ", **missed**",
            None if reached.is_nan() => return String::new(),
            None => "",
        };
        format!("{reached:.2}{told}")
    }
}

fn goals(face: &Face, comparisons: &[Comparison]) -> Vec<Goal> {
    let of = |model| comparisons.iter().find(|it| it.model == model);
    let mut goals = Vec::new();
    if let Some(small) = of(Model::Small) {
        small_model(small, &mut goals);
    }
    if let Some(large) = of(Model::MiniLm) {
        large_model(large, &mut goals);
    }
    if let Some(case) = of(Model::MiniLmInt8).and_then(|it| case(it, Mix::Twenty, 32)) {
        quantized_model(case, &mut goals);
    }
    let [bare, own] = face.per_second();
    goals.push(Goal {
        what: "HTTP alone: requests/s ÷ a bare axum handler's".to_owned(),
        wanted: Wanted::AtLeast([None, Some(0.8)]),
        reached: [f64::NAN, own / bare],
    });
    goals
}

fn small_model(comparison: &Comparison, goals: &mut Vec<Goal>) {
    let Some(case) = case(comparison, Mix::Twenty, 128) else {
        return;
    };
    let name = "v1, 128 connections";
    goals.push(throughput(
        name,
        case,
        case.best_peer(),
        "the best peer's",
        [Some(4.0); 2],
    ));
    let fastapi = case
        .rows
        .iter()
        .find(|row| row.contender.name == FASTAPI.name);
    let fastapi = fastapi.map_or(f64::NAN, Row::per_second);
    goals.push(throughput(
        name,
        case,
        fastapi,
        "FastAPI's (1 worker)",
        [Some(20.0); 2],
    ));
    goals.push(time(
        name,
        case,
        "p99",
        Row::p99,
        best(case).map_or(f64::NAN, Row::p99),
        "the best peer's",
    ));
}

fn large_model(comparison: &Comparison, goals: &mut Vec<Goal>) {
    if let Some(case) = case(comparison, Mix::Twenty, 1) {
        let name = "MiniLM fp32, 1 connection";
        goals.push(throughput(
            name,
            case,
            case.best_peer(),
            "the best peer's",
            [Some(1.15), None],
        ));
        for (quantile, figure) in [("p50", Row::p50 as fn(&Row) -> f64), ("p99", Row::p99)] {
            let least = case.peers().map(figure).fold(f64::NAN, f64::min);
            goals.push(time(
                name,
                case,
                quantile,
                figure,
                least,
                "the lowest of any peer",
            ));
        }
    }
    for connections in [32, 128] {
        let Some(case) = case(comparison, Mix::Twenty, connections) else {
            continue;
        };
        let name = format!("MiniLM fp32, {connections} connections");
        let wanted = [Some(1.2), Some(1.05)];
        goals.push(throughput(
            &name,
            case,
            case.best_peer(),
            "the best peer's",
            wanted,
        ));
        goals.push(time(
            &name,
            case,
            "p99",
            Row::p99,
            best(case).map_or(f64::NAN, Row::p99),
            "the best peer's",
        ));
        goals.push(Goal {
            what: format!("{name}: requests/s ÷ the engine's alone"),
            wanted: Wanted::AtLeast([Some(0.95); 2]),
            reached: both(case, |row| {
                row.per_second() / case.limit_of(&row.contender).unwrap_or(f64::NAN)
            }),
        });
    }
    if let Some(case) = case(comparison, Mix::Mixed, 32) {
        let name = "MiniLM fp32, 32 connections, mixed lengths";
        goals.push(throughput(
            name,
            case,
            case.best_peer(),
            "the best peer's",
            [Some(1.35), None],
        ));
    }
    let weight = |figure: fn(&Weight) -> f64, what: &str| {
        let least = comparison.weights.iter().filter(|it| it.contender.is_peer);
        let least = least.map(figure).fold(f64::NAN, f64::min);
        let own = |name| {
            let own = comparison
                .weights
                .iter()
                .find(|it| it.contender.name == name);
            own.map_or(f64::NAN, figure) / least
        };
        Goal {
            what: format!("MiniLM fp32: {what}"),
            wanted: Wanted::AtMost(1.0),
            reached: [own(ONNXRUNTIME.name), own(RTEN.name)],
        }
    };
    goals.push(weight(|it| it.memory, "memory ÷ the leanest peer's"));
    goals.push(weight(|it| it.started_in, "start ÷ the fastest peer's"));
}

fn quantized_model(case: &Case, goals: &mut Vec<Goal>) {
    let name = "MiniLM int8, 32 connections";
    for (is_tuned, whose, wanted) in [
        (false, "the best peer's as documented", 2.0),
        (true, "the best tuned peer's", 1.2),
    ] {
        let peers = case
            .peers()
            .filter(|row| row.contender.is_tuned == is_tuned);
        let best = peers.map(Row::per_second).fold(f64::NAN, f64::max);
        goals.push(throughput(name, case, best, whose, [Some(wanted), None]));
    }
}

fn case(comparison: &Comparison, mix: Mix, connections: usize) -> Option<&Case> {
    let mut cases = comparison.cases.iter();
    cases.find(|case| case.mix == mix && case.connections == connections)
}

/// The peer with the most requests a second.
fn best(case: &Case) -> Option<&Row> {
    case.peers()
        .max_by(|left, right| left.per_second().total_cmp(&right.per_second()))
}

fn throughput(name: &str, case: &Case, peer: f64, whose: &str, wanted: [Option<f64>; 2]) -> Goal {
    Goal {
        what: format!("{name}: requests/s ÷ {whose}"),
        wanted: Wanted::AtLeast(wanted),
        reached: both(case, |row| row.per_second() / peer),
    }
}

fn time(
    name: &str,
    case: &Case,
    quantile: &str,
    figure: fn(&Row) -> f64,
    peer: f64,
    whose: &str,
) -> Goal {
    Goal {
        what: format!("{name}: {quantile} ÷ {whose}"),
        wanted: Wanted::AtMost(1.0),
        reached: both(case, |row| figure(row) / peer),
    }
}

/// A figure of this server with ONNX Runtime, and with rten.
fn both(case: &Case, figure: impl Fn(&Row) -> f64) -> [f64; 2] {
    [ONNXRUNTIME.name, RTEN.name].map(|name| {
        let row = case.rows.iter().find(|row| row.contender.name == name);
        row.map_or(f64::NAN, &figure)
    })
}
