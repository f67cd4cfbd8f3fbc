//! Processor time, which other programs on a machine change less than time on the wall.

/// Nanoseconds that all threads but the first have worked: those of a software driver. Nothing where
/// the system does not tell or the driver has no such threads.
#[must_use]
pub fn driver_nanoseconds() -> Option<f64> {
    let first = std::process::id().to_string();
    worked(|task| task != first)
}

/// Nanoseconds that all threads that still run have worked. Nothing where the system does not tell.
#[must_use]
pub fn nanoseconds() -> Option<f64> {
    worked(|_| true)
}

/// Nanoseconds that some of the threads have worked, told by their numbers.
fn worked(counts: impl Fn(&str) -> bool) -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let tasks = tasks.filter(|task| task.file_name().to_str().is_some_and(&counts));
    let mut sum = None;
    for task in tasks {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let time = text.split_whitespace().next()?.parse::<f64>().ok()?;
        sum = Some(sum.unwrap_or(0.0) + time);
    }
    sum
}
