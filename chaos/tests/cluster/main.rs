//! ImageSwap on a real Kubernetes.
fn main() {}
