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
    let hooks: Vec<_> = configuration
        .hooks
        .iter()
        .filter_map(|hook| {
            let live = hook.bundle();
            let is_right = live.holds(&wanted) && !live.has_rubbish();
            let more = || wanted.clone().and(&eyes.kept(live.without(&wanted), LEFT));
            (!is_right).then(|| Hook {
                bundle: more().pem().into_bytes(),
                ..hook.clone()
            })
        })
        .collect();
    if hooks.is_empty() {
        return None;
    }
    Some(Plan {
        reason: reason(&hooks),
        step: Step::Trust(Write::Bundles {
            version: configuration.version.clone(),
            hooks,
        }),
    })
}

fn reason(hooks: &[Hook]) -> String {
    let names: Vec<_> = hooks
        .iter()
        .map(|hook| match &hook.manager {
            Some(manager) => format!("{} (last written by {manager})", hook.name),
            // Nobody owns a field that was removed.
            None if hook.bundle.is_empty() => format!("{} (it is empty)", hook.name),
            None => hook.name.clone(),
        })
        .collect();
    format!("the caBundle does not trust ca.crt in {}", names.join(", "))
}
