//! What all tests of the command share.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The command under test.
pub(crate) fn gatewright() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
    // No test depends on what another one left.
    command.env("GATEWRIGHT_CACHE", "");
    command
}

/// Whether any adapter answers.
#[allow(clippy::print_stdout, reason = "a test says when it is skipped")]
pub(crate) fn has_device() -> bool {
    let found = !gatewright_runtime::device::Device::adapters().is_empty();
    if !found {
        println!("skipped: no adapter");
    }
    found
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must end well.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// JSON documents, one a line.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The records of a file of a run folder.
pub(crate) fn records(run: &Path, file: &str) -> Vec<Value> {
    documents(&std::fs::read_to_string(run.join(file)).unwrap())
}

/// Opens a page in Chromium, if it is here: every picture is there, and nothing sticks out.
pub(crate) fn in_a_browser(page: &Path) {
    let mut browsers = ["chromium", "chromium-browser", "google-chrome"].into_iter();
    let here = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = browsers.find(here) else {
        return;
    };
    let probe = "<script>addEventListener('load', () => {
        const whole = [...document.images].every(it => it.complete && it.naturalWidth > 0);
        const drawn = [...document.querySelectorAll('svg')].every(it => it.getBBox().width > 100);
        const inside = document.documentElement.scrollWidth <= innerWidth;
        document.title = `pictures ${whole}, plots ${drawn}, inside ${inside}`;
    })</script>";
    let probed = page.with_file_name("probed.html");
    let plain = std::fs::read_to_string(page).unwrap();
    std::fs::write(
        &probed,
        plain.replace("</body>", &format!("{probe}</body>")),
    )
    .unwrap();
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,900",
    ]);
    command.args(["--virtual-time-budget=10000", "--dump-dom"]);
    let output = command
        .arg(format!("file://{}", probed.display()))
        .output()
        .unwrap();
    let dom = text(&output.stdout);
    assert!(
        dom.contains("<title>pictures true, plots true, inside true</title>"),
        "{}",
        dom.lines()
            .find(|line| line.contains("<title>"))
            .unwrap_or(&dom)
    );
}
