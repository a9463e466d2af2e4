//! Compares a ClawHub cluster with nginx and Distribution in one run.

fn main() {}
