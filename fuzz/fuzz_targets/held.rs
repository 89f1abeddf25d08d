//! What a target must not keep.

/// Runs a body, after which this process must have as many descriptors as before.
pub fn nothing_held(body: impl FnOnce()) {
    let before = descriptors();
    body();
    assert_eq!(descriptors(), before, "descriptors were left open");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count()
}
