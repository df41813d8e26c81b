//! Rotation: one pair, shared by all replicas, and a caBundle that trusts it.
//!
//! A leader observes (`state`), decides one step (`plan`: pure, the policy in words), applies it
//! with a precondition (`write`) and observes again (`driver`). Every replica decides by the same
//! state what to serve (`replica`, pure). Both measure how long a CA has been published (`belief`)
//! on a clock that is handed to them (`clock`). The Secret is the journal: whoever leads next
//! carries on from it. `source` says where a pair comes from, and `rivals` how patient to be with whoever
//! else writes the caBundle.

pub mod belief;
pub mod clock;
pub mod driver;
pub mod plan;
pub mod replica;
mod rivals;
pub mod source;
pub mod state;
pub mod write;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
