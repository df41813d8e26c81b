//! The metrics registry. Every name begins with `imageswap_`; durations are in seconds.
//!
//! `docs/metrics.md` lists them all, and a test compares it with the catalogue that is kept here:
//! what a registry renders lacks the metrics whose labels have had no value yet.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// From what a small review costs to where kube-apiserver gives up.
const BUCKETS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5,
    10.0,
];

/// Of so many managers of the caBundle each is counted by itself.
const MANAGERS: usize = 10;

/// Who overwrote a caBundle where no manager owns the field.
const NOBODY: &str = "nobody";

/// What every name begins with.
const PREFIX: &str = "imageswap";

/// A metric as a scraper sees it, whether it has a value yet or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exported {
    /// With its prefix.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels, in the order of the code.
    pub labels: Vec<String>,
}

/// A counter for each value of its labels. The first few that are counted are found without the hash and the
/// lock that prometheus takes; the others are counted all the same.
#[derive(Debug)]
pub struct Family<const LABELS: usize> {
    all: IntCounterVec,
    first: [OnceLock<([String; LABELS], IntCounter)>; FIRST],
}

/// Most reviews are alike: new Pods that are swapped by one kind of rule or two.
const FIRST: usize = 8;

/// All metrics of the process. A clone counts into the same, and is cheap: every review takes some.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<All>);

/// One field for each metric.
#[derive(Debug)]
pub struct All {
    registry: Registry,
    catalogue: Arc<[Exported]>,
    /// Reviews decided, by `operation` and `outcome`.
    pub reviews: Family<2>,
    /// From the arrival of a review's head to its answer, whatever the answer.
    pub review_duration: Histogram,
    /// Images seen in reviews, by `rule`: the kind that decided, `invalid` or `none`.
    pub images: Family<1>,
    /// Bodies that were no review, by `reason`.
    pub bad_requests: IntCounterVec,
    /// Answers to reviews, by HTTP `code`.
    pub responses: Family<1>,
    /// Reviews turned away with 429 because too much was under way.
    pub shed: IntCounter,
    /// Reviews answered 503 because they were not decided in time.
    pub deadline_exceeded: IntCounter,
    /// Panics caught while answering.
    pub panics: IntCounter,
    /// Connections that have a place.
    pub connections: IntGauge,
    /// Connections that were accepted and have no place yet.
    pub connections_waiting: IntGauge,
    /// Connections accepted.
    pub accepted: IntCounter,
    /// Connections that ended, by `reason`.
    pub closed: IntCounterVec,
    /// TLS handshakes, by `result`.
    pub handshakes: IntCounterVec,
    /// Peers refused for their certificate, by `reason`: `missing`, `untrusted` or `name`.
    pub clients_refused: IntCounterVec,
    /// Reads of the CA of clients, by `result`.
    pub client_ca_loads: IntCounterVec,
    /// 1 while what is in that file can't be used.
    pub client_ca_refused: IntGauge,
    /// Reads of the map file, by `result`.
    pub maps_loads: IntCounterVec,
    /// Rules in the map file in use.
    pub maps_rules: IntGauge,
    /// Lines of the map file in use that are in error and skipped.
    pub maps_lines_in_error: IntGauge,
    /// When the map file in use was read, in seconds since 1970.
    pub maps_loaded: IntGauge,
    /// 1 for the `hash` of the map file in use.
    pub maps_info: IntGaugeVec,
    /// 1 while the map file can't be used: it was refused, or there is none yet.
    pub maps_refused: IntGauge,
    /// When a certificate ends, in seconds since 1970: `leaf`, `ca`, `next`, which is staged, or `client_ca`.
    pub not_after: IntGaugeVec,
    /// 1 if the live caBundle was seen to believe the leaf that is served.
    pub trusted: IntGauge,
    /// New Secrets or files looked at, by `result`: `ok` is served now, `failed` can't be.
    pub reloads: IntCounterVec,
    /// 1 while the Secret or the files that were seen last can't be served.
    pub refused: IntGauge,
    /// 1 if files that somebody brings are served, and no Secret of ours.
    pub from_files: IntGauge,
    /// 1 if this replica leads.
    pub leader: IntGauge,
    /// Steps of the rotation taken by this replica, by `step` and `result`.
    pub rotation_steps: IntCounterVec,
    /// 1 for the `step` that this replica found to be next when it last led.
    pub rotation_step: IntGaugeVec,
    /// Times that a caBundle which had been right was found changed, and written again, by the
    /// `manager` of the field who did; see [`Metrics::repaired`].
    pub bundle_repairs: IntCounterVec,
    /// Calls of the Kubernetes API that failed, by `object`.
    pub cluster_errors: IntCounterVec,
    /// Tasks that panicked and were started again, by `task`.
    pub restarts: IntCounterVec,
    /// Servers that were killed in this container before this one.
    pub worker_restarts: IntCounter,
}

impl Metrics {
    /// A registry with all metrics at zero.
    ///
    /// # Errors
    /// Two metrics have one name, which no input can bring about.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let new = New {
            registry: &registry,
            catalogue: RefCell::default(),
        };
        let info = new.gauges("build_info", "1 for the version that runs", "version")?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let started = new.gauge(
            "process_start_time_seconds",
            "When the process started, since 1970",
        )?;
        started.set(since_1970());
        let metrics = All {
            reviews: new.family("reviews_total", "Reviews decided", ["operation", "outcome"])?,
            review_duration: new.histogram(
                "review_duration_seconds",
                "From the arrival of a review's head to its answer",
            )?,
            images: new.family("images_total", "Images seen in reviews", ["rule"])?,
            bad_requests: new.counters(
                "bad_requests_total",
                "Bodies that were no AdmissionReview",
                &["reason"],
            )?,
            responses: new.family("responses_total", "Answers to reviews", ["code"])?,
            shed: new.counter("shed_total", "Reviews turned away with 429")?,
            deadline_exceeded: new.counter(
                "deadline_exceeded_total",
                "Reviews answered 503 because they were not decided in time",
            )?,
            panics: new.counter("panics_total", "Panics caught while answering")?,
            connections: new.gauge("connections", "Connections that have a place")?,
            connections_waiting: new
                .gauge("connections_waiting", "Connections that wait for a place")?,
            accepted: new.counter("connections_accepted_total", "Connections accepted")?,
            closed: new.counters(
                "connections_closed_total",
                "Connections that ended",
                &["reason"],
            )?,
            handshakes: new.counters("tls_handshakes_total", "TLS handshakes", &["result"])?,
            clients_refused: new.counters(
                "clients_refused_total",
                "Peers refused for their certificate",
                &["reason"],
            )?,
            client_ca_loads: new.counters(
                "client_ca_loads_total",
                "Reads of the file that --client-ca names",
                &["result"],
            )?,
            client_ca_refused: new.gauge(
                "client_ca_refused",
                "1 while the file that --client-ca names can't be used",
            )?,
            maps_loads: new.counters("maps_loads_total", "Reads of the map file", &["result"])?,
            maps_rules: new.gauge(
                "maps_rules",
                "Rules in the map file in use; 0 if none of them could ever apply",
            )?,
            maps_lines_in_error: new.gauge(
                "maps_lines_in_error",
                "Lines of the map file in use that are in error and skipped",
            )?,
            maps_loaded: new.gauge(
                "maps_loaded_timestamp_seconds",
                "When the map file in use was read",
            )?,
            maps_info: new.gauges("maps_info", "1 for the hash of the map file in use", "hash")?,
            maps_refused: new.gauge(
                "maps_refused",
                "1 while the map file can't be used: it was refused, or there is none yet",
            )?,
            not_after: new.gauges(
                "certificate_not_after_timestamp_seconds",
                "When a certificate ends",
                "certificate",
            )?,
            trusted: new.gauge(
                "certificate_trusted",
                "1 if the live caBundle was seen to believe the leaf that is served",
            )?,
            reloads: new.counters(
                "certificate_reloads_total",
                "New Secrets or files looked at: ok is served now, failed can't be",
                &["result"],
            )?,
            refused: new.gauge(
                "certificate_refused",
                "1 while the Secret or the files that were seen last can't be served",
            )?,
            from_files: new.gauge(
                "certificate_from_files",
                "1 if the certificate is brought in files, and no Secret is looked at",
            )?,
            leader: new.gauge("leader", "1 if this replica leads")?,
            rotation_steps: new.counters(
                "rotation_steps_total",
                "Steps of the rotation taken by this replica",
                &["step", "result"],
            )?,
            rotation_step: new.gauges(
                "rotation_step_info",
                "1 for the step that this replica found to be next when it last led",
                "step",
            )?,
            bundle_repairs: new.counters(
                "ca_bundle_repairs_total",
                "Times that a caBundle which had been right was found changed, and written again",
                &["manager"],
            )?,
            cluster_errors: new.counters(
                "cluster_errors_total",
                "Calls of the Kubernetes API that failed",
                &["object"],
            )?,
            restarts: new.counters(
                "task_restarts_total",
                "Tasks that panicked and were started again",
                &["task"],
            )?,
            worker_restarts: new.counter(
                "worker_restarts_total",
                "Times that the server was killed and the keeper started another",
            )?,
            catalogue: new.catalogue.take().into(),
            registry,
        };
        // A counter that is there from the start shows its first increase.
        for result in ["ok", "failed"] {
            metrics.maps_loads.with_label_values(&[result]);
            metrics.reloads.with_label_values(&[result]);
        }
        for code in ["200", "429", "500", "503"] {
            metrics.responses.add([code], 0);
        }
        for result in ["ok", "failed", "late", "evicted"] {
            metrics.handshakes.with_label_values(&[result]);
        }
        metrics.bundle_repairs.with_label_values(&[NOBODY]);
        Ok(Self(Arc::new(metrics)))
    }

    /// Every metric, by its name.
    pub fn catalogue(&self) -> &[Exported] {
        &self.catalogue
    }

    /// Counts that a caBundle was written again which a manager of fields had overwritten, if one owns
    /// it. Whoever may write there could call itself anything: of the first few each has a series.
    pub fn repaired(&self, manager: Option<&str>) {
        let manager = manager.unwrap_or(NOBODY);
        let families = self.bundle_repairs.collect();
        let mut labels = families
            .iter()
            .flat_map(|family| family.get_metric())
            .flat_map(|metric| metric.get_label());
        let is_known = labels.clone().any(|label| label.value() == manager);
        let manager = match labels.nth(MANAGERS - 1) {
            Some(_) if !is_known => "another",
            _ => manager,
        };
        self.bundle_repairs.with_label_values(&[manager]).inc();
    }

    /// All of it in Prometheus' text format.
    ///
    /// # Errors
    /// A metric can't be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl<const LABELS: usize> Family<LABELS> {
    /// Counts so many with these values of the labels.
    pub fn add(&self, labels: [&str; LABELS], count: u64) {
        let child = || {
            (
                labels.map(str::to_owned),
                self.all.with_label_values(&labels),
            )
        };
        for place in &self.first {
            let (first, counter) = place.get_or_init(child);
            if *first == labels {
                return counter.inc_by(count);
            }
        }
        self.all.with_label_values(&labels).inc_by(count);
    }
}

impl Deref for Metrics {
    type Target = All;

    fn deref(&self) -> &All {
        &self.0
    }
}

/// Shows how many there are of something.
pub fn set_count(gauge: &IntGauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// In whole seconds.
fn since_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Makes, registers and lists in one step.
struct New<'r> {
    registry: &'r Registry,
    catalogue: RefCell<Vec<Exported>>,
}

impl New<'_> {
    fn registered<M: Collector + Clone + 'static>(
        &self,
        kind: &'static str,
        metric: M,
    ) -> Result<M, prometheus::Error> {
        let listed = metric.desc().into_iter().map(|desc| Exported {
            // The registry adds its prefix when it renders.
            name: format!("{PREFIX}_{}", desc.fq_name),
            kind,
            labels: desc.variable_labels.clone(),
        });
        self.catalogue.borrow_mut().extend(listed);
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.registered("counter", IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.registered(
            "counter",
            IntCounterVec::new(Opts::new(name, help), labels)?,
        )
    }

    fn family<const LABELS: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; LABELS],
    ) -> Result<Family<LABELS>, prometheus::Error> {
        Ok(Family {
            all: self.counters(name, help, &labels)?,
            first: [const { OnceLock::new() }; FIRST],
        })
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.registered("gauge", IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.registered("gauge", IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered("histogram", Histogram::with_opts(opts)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_their_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.reviews.add(["CREATE", "swapped"], 1);
        let text = metrics.render().unwrap();
        assert!(
            text.contains("imageswap_reviews_total{operation=\"CREATE\",outcome=\"swapped\"} 1")
        );
        assert!(
            text.lines()
                .all(|line| line.starts_with('#') || line.starts_with("imageswap_"))
        );
    }

    #[test]
    fn of_many_labels_each_is_counted() {
        let metrics = Metrics::new().unwrap();
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        for (count, rule) in (1..).zip(all) {
            metrics.images.add([rule], count);
            metrics.images.add(["c"], 10);
        }
        let text = metrics.render().unwrap();
        for (count, rule) in (1..).zip(all) {
            let count = if rule == "c" { 103 } else { count };
            let line = format!("imageswap_images_total{{rule=\"{rule}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn of_managers_only_a_few_have_a_series_of_their_own() {
        let metrics = Metrics::new().unwrap();
        metrics.repaired(None);
        for round in 0..2 {
            for name in 0..MANAGERS + 5 {
                metrics.repaired(Some(&format!("tool-{name}")));
            }
            let count = |manager: &str| metrics.bundle_repairs.with_label_values(&[manager]).get();
            let all = [count("nobody"), count("tool-8"), count("another")];
            assert_eq!(all, [1, round + 1, 6 * (round + 1)]);
        }
        assert_eq!(
            metrics.bundle_repairs.collect()[0].get_metric().len(),
            MANAGERS + 1
        );
    }
}
