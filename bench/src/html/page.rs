//! The frame of a report, and the parts which both kinds share.

use super::field;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

const STYLE: &str = include_str!("style.css");
/// The page is complete in itself. Should an escape ever be missed, the browser still loads and runs nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

pub fn page(title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { h1 { (title) } (content) } }
        }
    }
}

pub fn figure(title: &str, note: &str, legend: &Markup, chart: &Markup) -> Markup {
    html! {
        figure {
            figcaption { b { (title) } @if !note.is_empty() { span { (note) } } }
            (legend)
            div class="scroll" { (chart) }
        }
    }
}

/// Names and values; those without a value are left out, and so is a table without any.
pub fn facts(rows: &[(&str, Option<String>)]) -> Markup {
    let mut known = rows.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).peekable();
    html! {
        @if known.peek().is_some() {
            table class="facts" { tbody { @for (name, value) in known { tr { th { (name) } td { (value) } } } } }
        }
    }
}

pub fn section(title: &str, content: Markup) -> Markup {
    html! { @if !content.0.is_empty() { section { h2 { (title) } (content) } } }
}

pub fn command_line(value: &Value) -> Markup {
    html! { @if let Some(text) = field::text(value) { pre { code { (text) } } } }
}

pub fn machine(machine: &Value) -> Markup {
    let virtual_machine = if machine["virtual_machine"] == true { ", in a virtual machine" } else { "" };
    let rows = [
        ("CPU", field::text(&machine["cpu"])),
        ("Cores", field::text(&machine["cores"]).map(|cores| format!("{cores}{virtual_machine}"))),
        ("Memory", field::text(&machine["memory_gib"]).map(|gib| format!("{gib} GiB"))),
        ("Kernel", field::text(&machine["kernel"]).map(|kernel| format!("Linux {kernel}"))),
        ("Load average before", field::text(&machine["load_average"])),
        ("Date", field::text(&machine["date"])),
    ];
    section("Machine", facts(&rows))
}
