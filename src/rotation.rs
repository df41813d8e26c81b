//! Rotation: one pair, shared by all replicas, and a caBundle that trusts it.
//!
//! A leader observes (`state`), decides one step (`plan`: pure, the policy in words), applies it
//! with a precondition and observes again (`driver`). Every replica decides by the same state what
//! to serve (`replica`, pure). The Secret is the journal: whoever leads next carries on from it.

mod brought;
pub mod driver;
pub mod plan;
pub mod replica;
pub mod source;
pub mod state;

#[cfg(test)]
mod tests;
