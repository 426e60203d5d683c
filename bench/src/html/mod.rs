//! Reports as one HTML file which needs nothing else: no script, no font, no image, no network.
//!
//! `run.rs`, `compare.rs` and `tables.rs` say what is shown; `plot.rs` and `bars.rs` draw it over `scale.rs`;
//! `page.rs` is the frame around it. A report is a JSON value whose fields may be missing or null: what is
//! missing is left out. Text which came from elsewhere is escaped by maud, which writes the charts' SVG too.
//!
//! Why the charts are not from plotters, although it is only three small crates and seconds of building: it
//! writes colours and sizes into every element and no classes, so that a style sheet for dark pages or print
//! could only match colour by colour; it has no `title` elements, which show the exact figures under the mouse
//! without a script; it rounds to whole pixels, and a logarithmic axis gets one label a decade. What is drawn
//! here is little enough to be placed by hand.

mod bars;
mod compare;
mod field;
mod format;
mod page;
mod plot;
mod run;
mod scale;
mod tables;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// The report of one load, `torc-bench run`.
pub fn run_report(report: &Value) -> String {
    run::page(report).into_string()
}

/// The report of a comparison of servers, `torc-bench compare`.
pub fn compare_report(report: &Value) -> String {
    compare::page(report).into_string()
}
