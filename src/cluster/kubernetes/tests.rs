//! Against a small Kubernetes API in this process.
