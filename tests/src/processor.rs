//! Processor time, which other programs on a machine change less than time on the wall.

/// Nanoseconds that all threads but the first have worked: those of a software driver. Nothing where
/// the system does not tell or the driver has no such threads.
#[must_use]
pub fn driver_nanoseconds() -> Option<f64> {
    let first = std::process::id().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let others = tasks.filter(|task| task.file_name().to_str() != Some(&first));
    let mut sum = None;
    for task in others {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let time = text.split_whitespace().next()?.parse::<f64>().ok()?;
        sum = Some(sum.unwrap_or(0.0) + time);
    }
    sum
}
