//! Pods created through kube-apiserver as fast as it answers, each a dry run and each looked at.
//!
//! The loop is closed: each client creates the next Pod when the last is answered. It runs as a
//! process of its own in the cluster's network.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::load::{self, Outcome, client, create};

/// Not counted: connections are made, and kube-apiserver opens its own to the webhook.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What is created, where, and what must become of it.
    pub pods: load::Plan,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    /// Pods a second.
    pub rate: f64,
    /// How many, the warm-up's with them.
    pub pods: usize,
    /// The median, in milliseconds.
    pub p50: f64,
    /// What 99 of 100 took at most.
    pub p99: f64,
}

/// Creates Pods in the cluster of a kubeconfig whose network this process is in.
///
/// # Errors
/// One is refused, or has another image than the plan says.
pub fn run(plan: &Plan, kubeconfig: &Path) -> anyhow::Result<Created> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(pods(plan, kubeconfig))
}

async fn pods(plan: &Plan, kubeconfig: &Path) -> anyhow::Result<Created> {
    let pods = Arc::new(plan.pods.clone());
    let begin = Instant::now() + WARM_UP;
    let end = begin + plan.time;
    let mut tasks = JoinSet::new();
    for n in 0..plan.pods.clients {
        let client = client(kubeconfig, None, false).await?;
        let (pods, mut number) = (pods.clone(), u32::try_from(n << 20)?);
        tasks.spawn(async move {
            let (mut latencies, mut warmed) = (Vec::new(), 0);
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return anyhow::Ok((latencies, warmed));
                }
                match create(client.clone(), &pods, number).await? {
                    Outcome::Swapped => {}
                    Outcome::Unswapped(image) => bail!("a Pod got the image {image:?}"),
                    Outcome::Failed(why) => bail!("a Pod failed: {why}"),
                }
                number += 1;
                match asked < begin {
                    true => warmed += 1,
                    false => latencies.push(asked.elapsed()),
                }
            }
        });
    }
    let (mut all, mut warmed) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (latencies, early) = done.context("a client panicked")??;
        all.extend(latencies);
        warmed += early;
    }
    all.sort_unstable();
    let share = |hundredths: usize| {
        let at = (all.len() * hundredths).div_ceil(100).saturating_sub(1);
        load::milliseconds(all.get(at).copied().unwrap_or_default())
    };
    Ok(Created {
        rate: all.len() as f64 / begin.elapsed().as_secs_f64(),
        pods: all.len() + warmed,
        p50: share(50),
        p99: share(99),
    })
}
