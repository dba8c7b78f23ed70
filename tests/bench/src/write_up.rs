//! The figures in words and tables, for the terminal and for the document.

use crate::{
    face::{self, Face},
    generator::{self, Figure, Generator},
    goals,
    machine::{self, Machine},
    models::{self, Case, Comparison},
    overload::{self, Overload, Phase},
    paced,
    rig::Color,
    serving::{self, Route, Serving},
    statistics::{median, range},
    switching::{self, Account, Accounts, Load, Seen},
    table::Table,
};

/// Switching and the router: where the figures come from, and the figures.
pub(crate) fn switching(machine: &Machine, switching: &[Accounts], serving: &Serving) -> String {
    let switching: Vec<String> = switching.iter().map(under_load).collect();
    format!(
        "\
## Switching

{machine}

{clients} clients, each on a keep-alive connection of its own, send real sentences to one router and
never send a request twice. v1 and v2 take turns. Times are milliseconds: the median of the
switches, and the worst one in parentheses.

{switching}

## Serving through the router

wrk with 2 threads and {connections} connections, {rounds} rounds of {seconds} s, the median of the rounds;
`{sentence}`.

{serving}

{NOTES}",
        machine = about(machine),
        clients = switching::CONNECTIONS,
        switching = switching.join("\n\n"),
        connections = serving::CONNECTIONS,
        rounds = serving::ROUNDS,
        seconds = serving::SECONDS,
        sentence = serving::SENTENCE,
        serving = serving_table(serving).render(),
    )
}

/// The model server and its peers: where the figures come from, and the figures.
pub(crate) fn models(machine: &Machine, face: &Face, comparisons: &[Comparison]) -> String {
    let [bare, own] = face.per_second();
    let mut http = Table::new(&["", "requests/s", "÷ bare handler"]);
    http.row(vec![
        "axum handler".to_owned(),
        rate(bare),
        "1.00".to_owned(),
    ]);
    let share = format!("{:.2}", own / bare);
    http.row(vec!["model-server".to_owned(), rate(own), share]);
    let tables: Vec<String> = comparisons.iter().map(of_model).collect();
    format!(
        "\
## Model servers

{machine}

All servers of a model take turns, and are stopped (SIGSTOP) while it is not their turn: wrk posts 512
different texts over so many connections, {rounds} rounds of {seconds} s each, {warm_up} s of load before each; the
median of the rounds. Two threads of wrk are on the same cores. Ratios are to the best peer of the same
table. A start is the median of {starts}, after one that found the files on the disk.

### Goals

{goals}

### HTTP alone, {connections} connections

{http}

{tables}

{MODEL_NOTES}",
        machine = about(machine),
        goals = goals::table(face, comparisons).render(),
        connections = face::CONNECTIONS,
        http = http.render(),
        rounds = models::ROUNDS,
        seconds = models::SECONDS,
        warm_up = models::WARM_UP_SECONDS,
        starts = models::STARTS,
        tables = tables.join("\n\n"),
    )
}

/// Too many requests: where the figures come from, and the figures.
pub(crate) fn overload(machine: &Machine, overload: &Overload) -> String {
    let mut table = Table::new(&[
        "",
        "asked/s",
        "answered/s",
        "p50 ms",
        "p99 ms",
        "other answers",
    ]);
    let rows: [(&str, &Phase); 3] = [
        ("before", &overload.calm),
        ("meanwhile", &overload.meanwhile),
        ("the first second afterwards", &overload.first_second),
    ];
    for (name, phase) in rows {
        let others = phase.others.iter();
        let others: Vec<String> = others
            .map(|(other, count)| format!("{} × {other}", grouped(*count as f64)))
            .collect();
        table.row(vec![
            name.to_owned(),
            rate(phase.asked),
            rate(phase.answered),
            format!("{:.1}", phase.p50),
            format!("{:.1}", phase.p99),
            if others.is_empty() {
                "none".to_owned()
            } else {
                others.join(", ")
            },
        ]);
    }
    format!(
        "\
## Overload

{machine}

The second release on onnxruntime, with room for {queue} waiting texts, on one half of the cores; the
clients have the other. Before and afterwards {clients}
clients ask as fast as they are answered; meanwhile, for {seconds} s, requests come {factor} times as
fast. Times are those of the requests that got a prediction.

{table}",
        machine = about(machine),
        queue = overload::QUEUE,
        clients = overload::CALM_CLIENTS,
        seconds = overload::OVERLOAD.as_secs(),
        factor = overload::FACTOR,
        table = table.render(),
    )
}

/// The section about the deployer's load generator.
pub(crate) fn generator(machine: &Machine, generator: &Generator) -> String {
    let [first, second] = paced::STALLS;
    format!(
        "\
## The deployer's load generator

{machine}

{connections} connections in turns with another tool on the same server, {rounds} rounds of {seconds} s; the median
of the rounds.

### Goals

{goals}

### As fast as it can: the model server, v1, beside wrk

{fast}

Server and client share the cores, so that a client that takes less for itself leaves the server more, and
latencies follow from that: {connections} connections wait for {connections} ÷ (requests/s) in the mean, whoever
asks. They are no goal for that reason. wrk corrects its latencies for coordinated omission, and the deployer's
are corrected likewise here. Uncorrected, they keep that law: requests/s times their mean is {waiting:.1}
connections.

### Closed loop: a server that waits, beside oha

{closed}

The server waits for {least:.0} ms, and for an exponentially distributed time of {beyond:.0} ms in the mean
beyond that, which leaves the cores free: both clients should see the same. Neither corrects anything here. The
server's own are by its own clock while the deployer asked.

### Open loop: {rate} requests/s, a server that stalls, beside oha

{open}

The same server, which begins with no request from {first_from:.1} to {first_to:.1} s and from {second_from:.1} to
{second_to:.1} s: more are due by then than there are connections. A latency counts from when the request was due.",
        machine = about(machine),
        connections = generator::CONNECTIONS,
        rounds = generator::ROUNDS,
        seconds = generator::SECONDS,
        goals = generator_goals(generator).render(),
        fast = beside(&generator.fast).render(),
        waiting = generator.fast.waiting(),
        closed = beside(&generator.closed).render(),
        least = paced::LEAST * 1e3,
        beyond = paced::BEYOND * 1e3,
        rate = grouped(generator::RATE),
        open = beside(&generator.open).render(),
        first_from = first[0],
        first_to = first[1],
        second_from = second[0],
        second_to = second[1],
    )
}

fn generator_goals(generator: &Generator) -> Table {
    let mut table = Table::new(&["", "wanted", "measured"]);
    for goal in generator.goals() {
        let wanted = if goal.most.is_finite() {
            format!("{:.2}–{:.2}", goal.least, goal.most)
        } else {
            format!("≥ {:.2}", goal.least)
        };
        let told = if goal.is_reached() {
            "reached"
        } else {
            "**missed**"
        };
        table.row(vec![
            goal.what,
            wanted,
            format!("{:.3}, {told}", goal.measured),
        ]);
    }
    table
}

/// A load by the deployer beside the same one by another tool, and what the server told where it did.
fn beside(target: &generator::Target) -> Table {
    let own = target.own();
    let ratio = format!("deployer ÷ {}", target.peer);
    let mut header = vec!["", target.peer, "deployer", &ratio];
    header.extend(own.map(|_| "the server's own"));
    let mut table = Table::new(&header);
    let mut row = |name: &str, figure: Figure, digits: usize, own: Option<String>| {
        let mut cells = vec![name.to_owned()];
        cells.extend(target.both(figure).map(|value| match digits {
            0 => grouped(value),
            digits => format!("{value:.digits$}"),
        }));
        cells.push(format!("{:.2}", target.ratio(figure)));
        cells.extend(own);
        table.row(cells);
    };
    let told_nothing = own.map(|_| String::new());
    row("requests/s", |sample| sample.per_second, 0, told_nothing);
    for (at, (name, figure)) in generator::PERCENTILES.into_iter().enumerate() {
        let told = own.map(|own| format!("{:.1}", own[at]));
        row(&format!("{name}, ms"), figure, 1, told);
    }
    table
}

fn of_model(comparison: &Comparison) -> String {
    let mut parts: Vec<String> = comparison
        .cases
        .iter()
        .map(|case| {
            format!(
                "### {}, texts of {}, {} connection{}\n\n{}\n\nThe engines alone, tokenizing and \
                 forward passes with no server around them: onnxruntime {} texts/s, rten {}.",
                comparison.model.name(),
                case.mix.name(),
                case.connections,
                if case.connections == 1 { "" } else { "s" },
                case_table(case).render(),
                rate(case.limits[0]),
                rate(case.limits[1]),
            )
        })
        .collect();
    let mut table = Table::new(&["", "start to first answer, s", "memory after all loads, MB"]);
    for weight in &comparison.weights {
        table.row(vec![
            weight.contender.name.to_owned(),
            format!("{:.2}", weight.started_in),
            format!("{:.0}", weight.memory),
        ]);
    }
    parts.push(format!(
        "### {}: start and memory\n\n{}",
        comparison.model.name(),
        table.render()
    ));
    parts.join("\n\n")
}

fn case_table(case: &Case) -> Table {
    let mut table = Table::new(&[
        "",
        "requests/s",
        "÷ best peer",
        "÷ engine alone",
        "p50 ms",
        "p99 ms",
        "failed",
    ]);
    for row in &case.rows {
        let limit = case.limit_of(&row.contender);
        table.row(vec![
            row.contender.name.to_owned(),
            rate(row.per_second()),
            format!("{:.2}", row.per_second() / case.best_peer()),
            limit.map_or(String::new(), |limit| {
                format!("{:.2}", row.per_second() / limit)
            }),
            format!("{:.2}", row.p50()),
            format!("{:.2}", row.p99()),
            row.failed().to_string(),
        ]);
    }
    table
}

/// A rate, with a digit behind the point where it is small.
fn rate(per_second: f64) -> String {
    if per_second < 1000.0 {
        format!("{per_second:.1}")
    } else {
        grouped(per_second)
    }
}

fn about(machine: &Machine) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let quiet = if machine.was_quiet() {
        "the machine was quiet"
    } else {
        "**the machine was not quiet: something else was at work, and the figures suffer from it**"
    };
    let others = || machine.used_by_others.iter().copied();
    let lines = [
        format!("- Date: {}", machine.date),
        format!(
            "- Processor: {}, {} cores",
            machine.processor, machine.cores
        ),
        format!("- Kernel: Linux {}", machine.kernel),
        format!("- Router: {}", machine.nginx),
        format!("- Build profile: {}", machine::profile()),
        format!("- Load averages before: {}", machine.load),
        format!(
            "- Cores used by others before, between and after the rounds: {} in the median, {} at \
             worst; {quiet}",
            percent(median(others())),
            percent(range(others()).1),
        ),
    ];
    lines.join("\n")
}

/// A figure that is counted, by its name in the table.
type Count = (&'static str, fn(&Account) -> usize);
/// A time of each switch, by its name in the table.
type Time = (&'static str, fn(&Seen) -> Option<f64>);

const COUNTS: [Count; 4] = [
    ("switches", |account| account.switches.len()),
    ("requests", |account| account.requests),
    ("**failed requests**", Account::failed),
    (
        "answers of the old version to requests begun after the return",
        |account| account.switches.iter().map(|seen| seen.late).sum(),
    ),
];

const TIMES: [Time; 4] = [
    (
        "return of the command → the last of these requests begun",
        |seen| seen.last_late,
    ),
    ("the command takes", |seen| Some(seen.command)),
    (
        "return of the command → first answer of the new version",
        |seen| Some(seen.new_from_return),
    ),
    (
        "begin of the command → first answer of the new version",
        |seen| Some(seen.new_from_begin),
    ),
];

fn under_load(accounts: &Accounts) -> String {
    let load = match accounts.load {
        Load::Moderate => "Moderate load",
        Load::Saturating => "Saturating load",
    };
    format!(
        "### {load}: each client pauses {pause} ms after an answer\n\n{table}\n\n{failures}",
        pause = accounts.load.pause().as_millis(),
        table = switching_table(accounts).render(),
        failures = failures(accounts),
    )
}

fn switching_table(accounts: &Accounts) -> Table {
    let accounts = [&accounts.deployer, &accounts.flag, &accounts.reload];
    let mut table = Table::new(&[
        "",
        "`deployer switch`",
        "the flag alone",
        "rewrite, `nginx -s reload`",
        "reload ÷ `deployer switch`",
        "reload ÷ flag",
    ]);
    for (name, count) in COUNTS {
        let mut cells = vec![name.to_owned()];
        cells.extend(accounts.map(|account| grouped(count(account) as f64)));
        // The counts that matter are zero by the flag: there is no ratio to them.
        cells.extend([String::new(), String::new()]);
        table.row(cells);
    }
    for (name, time) in TIMES {
        table.row(times_row(name, accounts, time));
    }
    table
}

fn times_row(name: &str, accounts: [&Account; 3], time: fn(&Seen) -> Option<f64>) -> Vec<String> {
    let values =
        accounts.map(|account| -> Vec<f64> { account.switches.iter().filter_map(time).collect() });
    let [deployer, flag, reload] = values
        .each_ref()
        .map(|values| median(values.iter().copied()));
    let mut cells = vec![name.to_owned()];
    cells.extend(values.map(|values| median_and_worst(&values)));
    cells.extend([ratio(reload, deployer), ratio(reload, flag)]);
    cells
}

fn median_and_worst(values: &[f64]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    let (_, worst) = range(values.iter().copied());
    format!("{:.1} ({worst:.1})", median(values.iter().copied()))
}

/// Of times before the command's return, or of none at all, there is no ratio.
fn ratio(dividend: f64, divisor: f64) -> String {
    if dividend > 0.0 && divisor > 0.0 {
        format!("{:.2}", dividend / divisor)
    } else {
        String::new()
    }
}

fn failures(accounts: &Accounts) -> String {
    let ways = [
        ("`deployer switch`", &accounts.deployer),
        ("the flag alone", &accounts.flag),
        ("reload", &accounts.reload),
    ];
    let lines: Vec<String> = ways
        .iter()
        .flat_map(|(way, account)| {
            account
                .failures
                .iter()
                .map(move |(problem, count)| format!("- {way}: {count} × {problem}"))
        })
        .collect();
    if lines.is_empty() {
        "No request failed by any way.".to_owned()
    } else {
        format!("What failed:\n\n{}", lines.join("\n"))
    }
}

fn serving_table(serving: &Serving) -> Table {
    let mut table = Table::new(&[
        "",
        "requests/s",
        "slowest–fastest round",
        "÷ direct",
        "p50 ms",
        "p99 ms",
        "failed",
    ]);
    for figures in &serving.figures {
        let (slowest, fastest) = figures.per_second_range();
        table.row(vec![
            route_name(figures.color, figures.route),
            grouped(figures.per_second()),
            format!("{}–{}", grouped(slowest), grouped(fastest)),
            format!(
                "{:.2}",
                serving.share_of_direct(figures.color, figures.route)
            ),
            format!("{:.2}", figures.p50()),
            format!("{:.2}", figures.p99()),
            figures.failed().to_string(),
        ]);
    }
    table
}

fn route_name(color: Color, route: Route) -> String {
    let route = match route {
        Route::Direct => "direct",
        Route::PlainRouter => "through plain nginx (one upstream, no flags)",
        Route::Router => "through the router",
    };
    format!("{} {route}", color.version())
}

/// A whole number with a comma between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

const MODEL_NOTES: &str = "\
### What is compared

- Each server gets the same model files, the same texts and the same ONNX Runtime (the peers by its
  Python package); `rten` is the engine that is built into this server. The peers' code is in
  `tests/bench/peers`: one common classifier (tokenizers, numpy), and as little as each framework needs.
- MiniLM is all-MiniLM-L6-v2 with a two-class head; int8 is the same, quantized dynamically.
  `scripts/minilm/make` makes both.
- No server writes a line per request. This one has its other defaults; FastAPI runs on uvicorn with
  uvloop and httptools; MOSEC waits 1 ms for a batch to fill, which is its best; LitServe and BentoML batch up to 8.
- A dynamically quantized model takes the scale of its activations from the whole batch, so with the
  peers' batching a text's answer depends on its neighbors. This server runs such models one text at
  a time.
- HTTP alone: both parse `{\"text\":\"\"}` and refuse it in the same words. No model has a part in it;
  this server limits, names, counts and times the request as any other.
- Requests/s are those that were answered with success. The times of a server that turned some away
  (`failed`) are those of its refusals too.
- Memory is that of all processes of a server, what they share counted once. A library that other
  servers use too counts whole.
- Not measured: networks, machines with more cores, graphics cards.
- What keeps the server from goals that were missed, by its profiles, and what was tried:
  [what bounds the speed](adr/0011-what-bounds-the-speed.md).
";

const NOTES: &str = "\
### What is compared

- Both routers are the same nginx program with the same `nginx.conf`: workers, log, keep-alive and
  time-outs are equal. They stand before the same two model servers, v1 and v2.
- `deployer switch` asks the color's `/health`, sets the flag file and returns when the router has
  confirmed. The flag alone is that file, created or removed, and nothing else.
- The other way rewrites a file with one upstream (write, then rename) and runs
  `nginx -s reload`, which checks the configuration, signals the master process and returns. It
  does not wait for the new workers, and says nothing when they are there.
- No standby is allowed to step in (no `fit-*` flag is set), so nothing hides a failure.
- Plain nginx, under Serving, is the reload way's router left alone: it has one upstream and tests
  no files. The difference between the two routers is what the flags cost.

### What the figures mean

- A failed request is one whose client got no answer. nginx closes idle keep-alive connections when
  it reloads, as HTTP allows; a client that has just sent, or is just sending, then finds its
  connection gone. A client may repeat a request on its own only where it knows that nothing was
  processed or that repeating is harmless; these clients never do. Behind a proxy or a client
  library that repeats, some or all of the reload's failures would not be seen: what failed as
  \"operation was canceled\" was never even sent.
- The old version goes on answering after a reload because nginx gives the new workers 100 ms to
  start (`ngx_msleep(100)` in its `ngx_process_cycle.c`) before it tells the old ones, which hold
  the open connections, to quit.
- Answers of the old version after the command returned are no failures. They matter to whoever
  takes the command's return as the moment from which the new version answers.
- A negative time means that the new version answered a client before the command returned.
- A first answer includes the time that the model takes, so it is later when v2 comes than when v1
  does. It includes the wait for a client to ask, too: under moderate load up to the clients' pause.
- The ratios of serving are the router's share of a machine that has everything on it: the client,
  nginx and the model server compete for the same cores. The cheaper the model, the more the router
  weighs; with a model that takes milliseconds of a core it drowns in the noise, and a ratio above 1
  is noise.

### What they do not mean

- Nothing about absolute figures elsewhere: neither the network, nor a machine with more cores, nor
  other models are in them. Only figures of one run can be compared with each other.
- wrk sends the next request when the last one was answered, as fast as it can. Its times are those
  of a saturated server, mostly of waiting in line, and they leave out the requests that a client
  on a schedule would have sent meanwhile.
- No failure in so many requests is no proof that there never is one. How many requests a reload
  costs depends on how many connections happen to be in use at that moment.
- Deployments are not measured: how long proving and watching take is set in `deployer.toml`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0.0, 999.4, 1000.0, 1_234_567.0].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn there_is_no_ratio_to_a_time_before_the_return() {
        assert_eq!(ratio(3.0, 2.0), "1.50");
        assert_eq!(ratio(3.0, -2.0), "");
        assert_eq!(ratio(f64::NAN, 2.0), "");
    }
}
