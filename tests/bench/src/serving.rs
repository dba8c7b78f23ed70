//! What a router costs while nothing is switched.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;

use crate::{
    machine::Machine,
    progress,
    rig::{Color, Rig},
    statistics::{median, range},
    wrk::{Bodies, Sample},
};

pub(crate) const ROUNDS: usize = 3;
pub(crate) const SECONDS: u64 = 5;
pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const SENTENCE: &str = r#"{"text":"The plot was not good at all."}"#;
/// Before the first round, so that nothing is measured cold.
const WARM_UP_SECONDS: u64 = 1;
/// Workers from before a reload still answer for a moment.
const SETTLED: Duration = Duration::from_millis(300);

/// How requests get to the model server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    /// Without a router.
    Direct,
    /// Through an nginx that has one upstream and tests no flags.
    PlainRouter,
    /// Through this project's router.
    Router,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::PlainRouter, Self::Router];

    fn address(self, rig: &Rig, color: Color) -> SocketAddr {
        match self {
            Self::Direct => color.server(rig.stack.ports()),
            Self::PlainRouter => rig.plain_router.address(),
            Self::Router => rig.stack.router(),
        }
    }
}

/// The figures of one color by one route.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) color: Color,
    pub(crate) route: Route,
    samples: Vec<Sample>,
}

impl Figures {
    /// Requests a second, the median of the rounds.
    pub(crate) fn per_second(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.per_second))
    }

    /// Requests a second in the slowest and in the fastest round.
    pub(crate) fn per_second_range(&self) -> (f64, f64) {
        range(self.samples.iter().map(|sample| sample.per_second))
    }

    /// Milliseconds that half of the requests took at most, the median of the rounds.
    pub(crate) fn p50(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p50))
    }

    /// Milliseconds that 99 % of the requests took at most, the median of the rounds.
    pub(crate) fn p99(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p99))
    }

    /// Requests that failed, in all rounds.
    pub(crate) fn failed(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failed).sum()
    }
}

/// The figures of both colors by every route.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) figures: Vec<Figures>,
}

impl Serving {
    fn new() -> Self {
        let every_route = |color| {
            Route::ALL.map(|route| Figures {
                color,
                route,
                samples: Vec::new(),
            })
        };
        Self {
            figures: Color::BOTH.into_iter().flat_map(every_route).collect(),
        }
    }

    /// Requests a second by `route`, as a share of those without a router.
    pub(crate) fn share_of_direct(&self, color: Color, route: Route) -> f64 {
        let per_second = |route| {
            let figures = self
                .figures
                .iter()
                .find(|figures| (figures.color, figures.route) == (color, route));
            figures.map_or(f64::NAN, Figures::per_second)
        };
        per_second(route) / per_second(Route::Direct)
    }

    /// Figures of failed requests say nothing about serving.
    pub(crate) fn require_no_failure(&self) -> anyhow::Result<()> {
        let failed: u64 = self.figures.iter().map(Figures::failed).sum();
        anyhow::ensure!(failed == 0, "{failed} of wrk's requests failed");
        Ok(())
    }
}

/// Measures every color by every route, in rounds, each of which begins with another route.
pub(crate) async fn measure(rig: &Rig, machine: &mut Machine) -> anyhow::Result<Serving> {
    let bodies = Bodies::write(&rig.stack.path("predict.lua"), &[SENTENCE.to_owned()])?;
    let mut serving = Serving::new();
    warm_up(rig, &bodies).await?;
    for round in 0..ROUNDS {
        for color in Color::BOTH {
            progress(&format!(
                "serving {}, round {} of {ROUNDS}",
                color.version(),
                round + 1
            ));
            point_both_at(rig, color).await?;
            let mut routes = Route::ALL;
            routes.rotate_left(round % Route::ALL.len());
            for route in routes {
                let sample = load(&bodies, route.address(rig, color), SECONDS).await?;
                let figures = serving
                    .figures
                    .iter_mut()
                    .find(|figures| (figures.color, figures.route) == (color, route));
                figures
                    .context("every color has every route")?
                    .samples
                    .push(sample);
            }
            machine.look_for_others().await?;
        }
    }
    Ok(serving)
}

async fn warm_up(rig: &Rig, bodies: &Bodies) -> anyhow::Result<()> {
    for color in Color::BOTH {
        point_both_at(rig, color).await?;
        for route in Route::ALL {
            load(bodies, route.address(rig, color), WARM_UP_SECONDS).await?;
        }
    }
    Ok(())
}

async fn point_both_at(rig: &Rig, color: Color) -> anyhow::Result<()> {
    rig.switch_by_deployer(color).await?;
    rig.plain_router.switch(color).await?;
    tokio::time::sleep(SETTLED).await;
    Ok(())
}

async fn load(bodies: &Bodies, target: SocketAddr, seconds: u64) -> anyhow::Result<Sample> {
    bodies.post(target, "/predict", CONNECTIONS, seconds).await
}
