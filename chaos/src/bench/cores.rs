//! Which core runs what, and what of the machine makes two cores less than two.

use std::fs;
use std::path::Path;

use anyhow::bail;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Which core runs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
    /// The two are threads of one core, so that each takes from the other.
    are_siblings: bool,
}

impl Cores {
    /// The first that we may use for the server, and for the client the last that shares no core with it.
    ///
    /// # Errors
    /// There are not two.
    pub(super) fn choose() -> anyhow::Result<Self> {
        let ours = sched_getaffinity(None)?;
        let ours: Vec<_> = (0..CpuSet::MAX_CPU)
            .filter(|core| ours.is_set(*core))
            .collect();
        let siblings = ours.first().map(|server| siblings(*server));
        Self::of(&ours, &siblings.unwrap_or_default())
    }

    /// Of these, in their order; `siblings` are the threads of the first one's core.
    fn of(ours: &[usize], siblings: &[usize]) -> anyhow::Result<Self> {
        let [server, others @ ..] = ours else {
            bail!("this process may use no core");
        };
        let Some(last) = others.last() else {
            bail!(
                "a server and its client need a core each, and this process may use one: let it have two, by \
                 `taskset` or by the container's cpuset"
            );
        };
        let apart = others.iter().rfind(|core| !siblings.contains(core));
        Ok(Self {
            server: *server,
            client: *apart.unwrap_or(last),
            are_siblings: apart.is_none(),
        })
    }

    /// What must stand beside the machine's name, for its figures are not those of two whole cores.
    pub(super) fn caveats(self) -> Vec<String> {
        let siblings = self
            .are_siblings
            .then(|| "server and client on two threads of one core".to_owned());
        let share = share().filter(|share| *share < 2.0);
        let share = share.map(|share| format!("of which a control group allows {share:.2}"));
        siblings.into_iter().chain(share).collect()
    }
}

/// The threads of a core's core, itself among them; none where the kernel does not tell.
fn siblings(core: usize) -> Vec<usize> {
    let file = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    numbers(&fs::read_to_string(file).unwrap_or_default())
}

/// Of a list as the kernel writes it: `0,4` or `0-1`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<usize>().ok()?..=to.parse().ok()?)
    };
    let parts = list.trim().split(',');
    parts.filter_map(range).flatten().collect()
}

/// How many processors' time our control groups (v2) allow; `None` where there is no limit.
fn share() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let ours = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // The limit of one above counts as well.
    let above = Path::new("/sys/fs/cgroup").join(ours);
    let limits = above.ancestors().filter_map(|group| {
        let limit = fs::read_to_string(group.join("cpu.max")).ok()?;
        quota(&limit)
    });
    limits.min_by(f64::total_cmp)
}

/// Of `cpu.max`: microseconds in each period of so many, or `max`.
fn quota(limit: &str) -> Option<f64> {
    let (quota, period) = limit.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    Some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_client_share_no_core_where_there_is_another() {
        for (ours, siblings, expected) in [
            (&[0, 1][..], "0\n", Some((0, 1, false))),
            (&[0, 1], "", Some((0, 1, false))),
            (&[0, 1], "0-1\n", Some((0, 1, true))),
            (&[0, 1, 2, 3], "0-1\n", Some((0, 3, false))),
            (&[0, 1, 2, 3], "0,3\n", Some((0, 2, false))),
            (&[1, 5], "1,5\n", Some((1, 5, true))),
            (&[2], "2\n", None),
            (&[], "", None),
        ] {
            let chosen = Cores::of(ours, &numbers(siblings)).ok();
            let chosen = chosen.map(|cores| (cores.server, cores.client, cores.are_siblings));
            assert_eq!(chosen, expected, "{ours:?} {siblings:?}");
        }
    }

    #[test]
    fn what_a_control_group_allows() {
        for (limit, expected) in [
            ("max 100000\n", None),
            ("150000 100000\n", Some(1.5)),
            ("400000 100000\n", Some(4.0)),
            ("", None),
        ] {
            assert_eq!(quota(limit), expected, "{limit:?}");
        }
    }
}
