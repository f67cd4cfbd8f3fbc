//! What a user sees when we made the mistake: an internal error and how to report it.

use std::io::Write;
use std::panic::PanicHookInfo;

/// The exit code of an internal error.
pub(crate) const EXIT: u8 = 101;

/// Replaces the panic message by a report and ends the process with [`EXIT`], whichever thread it was.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        // Nothing is left to do when standard error is closed.
        drop(std::io::stderr().write_all(report(&describe(info)).as_bytes()));
        std::process::exit(i32::from(EXIT));
    }));
}

/// The report of an internal error.
pub(crate) fn report(what: &str) -> String {
    let verb = std::env::args().nth(1).unwrap_or_default();
    format!(
        "internal error: {what}\n\n\
         This is a mistake in gatewright, not in your file. Please report it with this text and,\n\
         if you can, the .gate file: {}/issues\n\
         gatewright {} {verb}, {} {}\n",
        env!("CARGO_PKG_REPOSITORY"),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

fn describe(info: &PanicHookInfo) -> String {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    match info.location() {
        Some(place) => format!("{message} ({}:{})", place.file(), place.line()),
        None => message.to_owned(),
    }
}
