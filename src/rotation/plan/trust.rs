//! A caBundle that lacks something of `ca.crt`. What else it holds stays.

use super::{Eyes, LEFT, Plan, Step};
use crate::rotation::state::{Hook, Secret};
use crate::rotation::write::Write;

pub(super) fn plan(eyes: &Eyes<'_>, secret: &Secret) -> Option<Plan> {
    let configuration = eyes.observed.configuration.as_ref()?;
    let wanted = secret.bundle();
    if !eyes.policy.writes_bundles {
        return None;
    }
    let lacking = configuration.hooks.iter().filter(|hook| {
        let live = hook.bundle();
        !live.holds(&wanted) || live.has_rubbish()
    });
    let (names, hooks): (Vec<_>, Vec<_>) = lacking
        .map(|hook| {
            let others = hook.bundle().without(&wanted);
            let bundle = wanted.clone().and(&eyes.kept(others, LEFT)).pem();
            let mended = Hook {
                bundle: bundle.into_bytes(),
                ..hook.clone()
            };
            (named(hook), mended)
        })
        .unzip();
    if hooks.is_empty() {
        return None;
    }
    Some(Plan {
        reason: format!("the caBundle does not trust ca.crt in {}", names.join(", ")),
        step: Step::Trust(Write::Bundles {
            version: configuration.version.clone(),
            hooks,
        }),
    })
}

/// A webhook, and who wrote what is wrong in it.
fn named(hook: &Hook) -> String {
    match &hook.manager {
        Some(manager) => format!("{} (last written by {manager})", hook.name),
        // Nobody owns a field that was removed.
        None if hook.bundle.is_empty() => format!("{} (it is empty)", hook.name),
        None => hook.name.clone(),
    }
}
