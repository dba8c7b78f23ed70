//! `deployer doctor`, on each fault that it names, made for real.

use std::{fs, net::TcpListener, time::Duration};

use anyhow::ensure;
use end_to_end::{Stack, Watch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SHORT: Watch = Watch(Duration::from_secs(1));
/// Time limits that do not contradict each other although a test's watch is short.
const CONSISTENT: [&str; 2] = ["--set", "watch.duration=1m"];

type Result<T = ()> = anyhow::Result<T>;

/// What is said to be wrong, and nothing else is: topic, text and advice on two lines.
async fn wrong(stack: &Stack, more: &[&str]) -> Result<Vec<String>> {
    let run = stack
        .deployer(&[&["doctor"], &CONSISTENT[..], more].concat())
        .await?;
    let lines: Vec<&str> = run.stdout.lines().collect();
    let mut wrong = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("WRONG") {
            ensure!(lines[number + 1].contains("-> "), "without advice: {line}");
            wrong.push(format!("{line}\n{}", lines[number + 1]));
        }
    }
    ensure!(run.code == i32::from(!wrong.is_empty()), "{run:?}");
    Ok(wrong)
}

/// One thing is wrong, and this is said of it.
async fn only(stack: &Stack, more: &[&str], words: &[&str]) -> Result {
    let wrong = wrong(stack, more).await?;
    ensure!(wrong.len() == 1, "{wrong:#?}");
    for words in words {
        ensure!(wrong[0].contains(words), "{words:?} is not in {}", wrong[0]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong_with_a_stack_that_was_just_started() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let wrong = wrong(&stack, &[]).await?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_and_colors_that_do_not_run_are_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    let wrong = wrong(&stack, &[]).await?.join("\n");
    for words in [
        "blue         it does not run",
        "green        it does not run",
        "nobody listens at",
        "`deployer up` starts",
    ] {
        ensure!(wrong.contains(words), "{words:?} is not in {wrong}");
    }
    Ok(())
}

/// The last thread of a process that was killed closes its sockets a moment after it has ended.
async fn listen_on(port: u16) -> Result<TcpListener> {
    let listen = async {
        loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(10);
    Ok(tokio::time::timeout(patience, listen).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_took_is_named_with_the_process() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.signal("green", "KILL")?;
    stack.until_ended("green").await?;
    let _stranger = listen_on(stack.ports().green()).await?;
    let process = format!("(process {})", std::process::id());
    let words = ["green", "its port is taken", &process];
    only(&stack, &["--set", "probe.timeout=500ms"], &words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_color_that_ended_or_hangs_is_named_with_its_last_words() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.signal("green", "STOP")?;
    let hangs = ["green", "it runs and is not healthy", "timed out"];
    only(&stack, &["--set", "probe.timeout=500ms"], &hangs).await?;
    stack.signal("green", "CONT")?;
    stack.signal("green", "KILL")?;
    stack.until_ended("green").await?;
    only(&stack, &[], &["green", "it does not run", "its last words"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_router_does_not_see_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    fs::create_dir(stack.path("elsewhere"))?;
    let elsewhere = ["--set", "router.flags=elsewhere"];
    only(&stack, &elsewhere, &["the router does not see the flags"]).await?;

    let another = Stack::of_processes("model-server", SHORT)?;
    another.expect(0, &["up"]).await?;
    let url = format!("router.url=http://{}", another.router());
    only(&stack, &["--set", &url], &["is router.url another router?"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nginx_that_is_missing_or_would_not_start_again_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let missing = ["--set", "fleet.process.nginx=no-such-nginx"];
    only(
        &stack,
        &missing,
        &["nginx", "no-such-nginx", "install nginx"],
    )
    .await?;
    let path = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}\nno_such_directive on;\n"))?;
    only(
        &stack,
        &[],
        &["nginx", "is not in order", "no_such_directive"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let wrong = wrong(&stack, &["--set", "min_free_megabytes=1000000000"]).await?;
    ensure!(wrong.len() == 2, "{wrong:#?}");
    ensure!(wrong[0].contains("MB are needed"), "{wrong:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_that_contradict_each_other_are_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    for (setting, words) in [
        (
            "load.timeout=5m",
            "load.timeout (5m) is longer than the router waits (2m)",
        ),
        ("headroom.factor=20", "times headroom.factor (20)"),
        ("load.max_p99=30s", "can never be exceeded"),
        ("watch.duration=5s", "a release that hangs is found after"),
    ] {
        only(&stack, &["--set", setting], &["time limits", words]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_deployer_and_a_torn_line_left_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let at = [("DEPLOYER_KILL_AT", "after journal starting".as_ref())];
    let deployer = stack.start_deployer_with(&["deploy", "v2"], &at)?;
    Stack::finish(deployer, &["deploy", "v2"]).await?;
    only(
        &stack,
        &[],
        &["was interrupted; last seen starting", "`deployer recover`"],
    )
    .await?;
    stack.expect(0, &["recover"]).await?;
    // A candidate that was refused is stopped.
    stack.expect(0, &["up"]).await?;

    let at = [("DEPLOYER_KILL_AT", "after intent".as_ref())];
    let deployer = stack.start_deployer_with(&["switch", "green"], &at)?;
    Stack::finish(deployer, &["switch", "green"]).await?;
    let words = [
        "`deployer switch green` was interrupted",
        "`deployer recover`",
    ];
    only(&stack, &[], &words).await?;
    stack.expect(0, &["recover"]).await?;
    ensure!(stack.status().await?["active"] == "green");

    fs::write(stack.path("run/flags/shadow"), "")?;
    only(&stack, &[], &["shadow", "`deployer recover` ends it"]).await?;
    stack.expect(0, &["recover"]).await?;
    fs::write(stack.path("state/history.jsonl"), "{\"at\":\"2026")?;
    only(&stack, &[], &["history", "are torn"]).await?;
    fs::remove_file(stack.path("state/history.jsonl"))?;
    fs::write(stack.path("state/deployment.json"), "{")?;
    only(&stack, &[], &["is not a journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_not_there_are_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    only(
        &stack,
        &["--set", "probe.inputs=no/such.jsonl"],
        &["inputs", "no/such.jsonl"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    // A control port on a machine whose clock stands in the year 2001.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let control = format!("router.control=http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let wrong = wrong(&stack, &["--set", &control]).await?.join("\n");
    server.abort();
    ensure!(wrong.contains("clock"), "{wrong}");
    ensure!(wrong.contains("s ahead of this one"), "{wrong}");
    Ok(())
}
