//! A chart with two axes, into which lines and areas are drawn.

use super::scale::Scale;
use maud::{Markup, html};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;
/// More places than these to point at are of no use on a screen, and make the file large.
const MAX_BANDS: usize = 600;

/// Where the axes run, for the scales; y grows downwards.
pub const ACROSS: (f64, f64) = (LEFT, WIDTH - RIGHT);
pub const UP: (f64, f64) = (HEIGHT - BOTTOM, TOP);

pub struct Axis {
    pub scale: Scale,
    pub name: &'static str,
    pub label: fn(f64) -> String,
}

pub struct Plot {
    /// For those who cannot see it.
    pub description: &'static str,
    pub x: Axis,
    pub y: Axis,
}

/// A line of `lines`; its class decides about colour and dashes.
pub struct Line {
    pub name: &'static str,
    pub class: &'static str,
    /// Sorted by x. Where there is no y, the line has a gap.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A pixel position; a tenth of a pixel is fine enough.
pub fn pixel(position: f64) -> String {
    let text = format!("{position:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}

impl Plot {
    /// The whole chart around what was drawn.
    pub fn draw(&self, content: &Markup) -> Markup {
        let (left, right) = ACROSS;
        let (bottom, top) = UP;
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) xmlns="http://www.w3.org/2000/svg" role="img"
                aria-label=(self.description) {
                @for &tick in &self.y.scale.ticks {
                    @let y = self.y.scale.at(tick);
                    line class="grid" x1=(pixel(left)) x2=(pixel(right)) y1=(pixel(y)) y2=(pixel(y)) {}
                    text x=(pixel(left - 6.0)) y=(pixel(y + 4.0)) text-anchor="end" { ((self.y.label)(tick)) }
                }
                @for &tick in &self.x.scale.ticks {
                    @let x = self.x.scale.at(tick);
                    line class="grid" x1=(pixel(x)) x2=(pixel(x)) y1=(pixel(top)) y2=(pixel(bottom + 4.0)) {}
                    text x=(pixel(x)) y=(pixel(bottom + 18.0)) text-anchor="middle" { ((self.x.label)(tick)) }
                }
                line class="axis" x1=(pixel(left)) x2=(pixel(right)) y1=(pixel(bottom)) y2=(pixel(bottom)) {}
                text class="name" x="2" y="14" { (self.y.name) }
                text class="name" x=(pixel(right)) y=(pixel(HEIGHT - 8.0)) text-anchor="end" { (self.x.name) }
                (content)
            }
        }
    }

    pub fn lines(&self, lines: &[Line]) -> Markup {
        html! {
            @for line in lines {
                @for run in line.points.split(|point| point.1.is_none()) {
                    @let places: Vec<(String, String)> = run
                        .iter()
                        .filter_map(|&(x, y)| Some((pixel(self.x.scale.at(x)), pixel(self.y.scale.at(y?)))))
                        .collect();
                    @match places.as_slice() {
                        [] => {}
                        [(x, y)] => circle class=(format!("dot {}", line.class)) cx=(x) cy=(y) r="3" {},
                        places => polyline class=(format!("line {}", line.class))
                            points=(places.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")) {},
                    }
                }
            }
        }
    }

    /// Invisible bands around the given x, sorted, which show their text under the mouse.
    pub fn bands(&self, texts: &[(f64, String)]) -> Markup {
        let stride = texts.len().div_ceil(MAX_BANDS).max(1);
        let places: Vec<(f64, &str)> =
            texts.iter().step_by(stride).map(|(x, text)| (self.x.scale.at(*x), text.as_str())).collect();
        let edge = |i: usize| match i {
            0 => ACROSS.0,
            i if i == places.len() => ACROSS.1,
            i => (places[i - 1].0 + places[i].0) / 2.0,
        };
        html! {
            @for (i, (_, text)) in places.iter().enumerate().filter(|&(i, _)| edge(i + 1) > edge(i)) {
                rect class="band" x=(pixel(edge(i))) width=(pixel(edge(i + 1) - edge(i)))
                    y=(pixel(UP.1)) height=(pixel(UP.0 - UP.1)) { title { (text) } }
            }
        }
    }

    /// A dashed line across at `value`.
    pub fn level(&self, value: f64, name: &str) -> Markup {
        let y = self.y.scale.at(value);
        html! {
            line class="level" x1=(pixel(ACROSS.0)) x2=(pixel(ACROSS.1)) y1=(pixel(y)) y2=(pixel(y)) {}
            text class="name halo" x=(pixel(ACROSS.1 - 4.0)) y=(pixel(y - 5.0)) text-anchor="end" { (name) }
        }
    }

    /// Dashed lines upwards, each with its name in a row of its own and no higher, so that neighbours do not
    /// collide. Sorted by x.
    pub fn marks(&self, marks: &[(f64, String)]) -> Markup {
        html! {
            @for (row, (value, name)) in marks.iter().enumerate() {
                @let x = self.x.scale.at(*value);
                @let (anchor, text_x) = if x > WIDTH * 0.7 { ("end", x - 5.0) } else { ("start", x + 5.0) };
                @let top = UP.1 + 16.0 * row as f64;
                line class="level" x1=(pixel(x)) x2=(pixel(x)) y1=(pixel(top)) y2=(pixel(UP.0)) {}
                text class="name halo" x=(pixel(text_x)) y=(pixel(top + 12.0))
                    text-anchor=(anchor) { (name) }
            }
        }
    }

    /// Columns from the bottom: from x to x, how high, and their text. What is not 0 stays visible.
    pub fn columns(&self, columns: &[(f64, f64, f64, String)]) -> Markup {
        html! {
            @for (low, high, value, text) in columns {
                @let (x, end) = (self.x.scale.at(*low), self.x.scale.at(*high));
                @let height = (UP.0 - self.y.scale.at(*value)).max(1.5);
                rect class="column" x=(pixel(x)) width=(pixel((end - x - 0.5).max(0.5)))
                    y=(pixel(UP.0 - height)) height=(pixel(height)) { title { (text) } }
            }
        }
    }

    /// Signs at the foot of the chart that something went wrong at these x.
    pub fn alarms(&self, alarms: &[(f64, String)]) -> Markup {
        html! {
            @for (value, text) in alarms {
                @let (x, y) = (self.x.scale.at(*value), UP.0);
                path class="alarm" d=(format!("M{} {}l5 9h-10z", pixel(x), pixel(y - 9.0))) { title { (text) } }
            }
        }
    }
}

/// What the lines are; HTML, because its text wraps on a small screen.
pub fn legend(lines: &[Line]) -> Markup {
    html! {
        div class="legend" {
            @for line in lines {
                span {
                    svg class="key" viewBox="0 0 26 10" xmlns="http://www.w3.org/2000/svg" aria-hidden="true" {
                        line class=(format!("line {}", line.class)) x1="0" x2="26" y1="5" y2="5" {}
                    }
                    (line.name)
                }
            }
        }
    }
}
