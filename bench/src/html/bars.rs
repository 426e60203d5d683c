//! Horizontal bars with the range of the rounds, one panel of them for each pipeline. Each panel has its own
//! scale from 0: over a common one the bars of long pipelines would be too short to compare.

use super::field::Spread;
use super::plot::pixel;
use super::scale::Scale;
use maud::{Markup, html};

const WIDTH: f64 = 536.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 192.0;
const HEADING: f64 = 26.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
const AXIS: f64 = 30.0;
const NAME_CHARACTERS: usize = 14;

pub struct Bar {
    pub name: String,
    pub colour: usize,
    pub spread: Spread,
    /// After the value: a ratio, a warning.
    pub note: String,
    pub hint: String,
}

pub struct Panel {
    pub heading: String,
    pub bars: Vec<Bar>,
    /// The floor: its name and where its line is.
    pub floor: Option<(String, f64)>,
}

pub struct Labels {
    pub description: String,
    pub value: fn(f64) -> String,
    pub tick: fn(f64) -> String,
}

pub fn chart(labels: &Labels, panels: &[Panel]) -> Markup {
    let height: f64 = panels.iter().map(Panel::height).sum();
    let mut top = 0.0;
    let content: Vec<Markup> = panels
        .iter()
        .map(|panel| {
            let drawn = panel.draw(labels, top);
            top += panel.height();
            drawn
        })
        .collect();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", pixel(height))) xmlns="http://www.w3.org/2000/svg" role="img"
            aria-label=(labels.description) { @for panel in &content { (panel) } }
    }
}

impl Panel {
    fn height(&self) -> f64 {
        HEADING + ROW * self.bars.len() as f64 + AXIS
    }

    fn draw(&self, labels: &Labels, top: f64) -> Markup {
        let highest = self.bars.iter().map(|bar| bar.spread.high).chain(self.floor.iter().map(|floor| floor.1));
        let scale = Scale::linear(highest.fold(0.0, f64::max), (LEFT, WIDTH - RIGHT));
        let first = top + HEADING;
        let bottom = first + ROW * self.bars.len() as f64;
        html! {
            text class="heading" x="2" y=(pixel(top + 17.0)) { (self.heading) }
            @for &tick in &scale.ticks {
                @let x = scale.at(tick);
                line class="grid" x1=(pixel(x)) x2=(pixel(x)) y1=(pixel(first)) y2=(pixel(bottom)) {}
                text class="small" x=(pixel(x)) y=(pixel(bottom + 13.0)) text-anchor="middle" { ((labels.tick)(tick)) }
            }
            @for (i, bar) in self.bars.iter().enumerate() {
                (bar.draw(labels, &scale, first + ROW * i as f64))
            }
            @if let Some((name, value)) = &self.floor {
                @let x = scale.at(*value);
                @let (anchor, text_x) = if x > WIDTH * 0.45 { ("end", x + 4.0) } else { ("start", x - 4.0) };
                line class="floor" x1=(pixel(x)) x2=(pixel(x)) y1=(pixel(first - 4.0)) y2=(pixel(bottom)) {}
                text class="floor-name" x=(pixel(text_x)) y=(pixel(first - 8.0)) text-anchor=(anchor) { (name) }
            }
        }
    }
}

impl Bar {
    fn draw(&self, labels: &Labels, scale: &Scale, top: f64) -> Markup {
        let middle = top + ROW / 2.0;
        let [start, low, median, high] =
            [0.0, self.spread.low, self.spread.median, self.spread.high].map(|value| scale.at(value));
        let whisker = format!(
            "M{low} {up}v8M{low} {middle}H{high}M{high} {up}v8",
            low = pixel(low),
            high = pixel(high),
            up = pixel(middle - 4.0),
            middle = pixel(middle)
        );
        html! {
            g {
                title { (self.hint) }
                text x=(pixel(LEFT - 8.0)) y=(pixel(middle + 4.0)) text-anchor="end" { (shortened(&self.name)) }
                rect class=(format!("bar colour-{}", self.colour)) x=(pixel(start)) width=(pixel((median - start).max(0.5)))
                    y=(pixel(middle - BAR / 2.0)) height=(pixel(BAR)) {}
                path class="whisker" d=(whisker) {}
                text x=(pixel(WIDTH - RIGHT + 78.0)) y=(pixel(middle + 4.0)) text-anchor="end" {
                    ((labels.value)(self.spread.median))
                }
                text class="note" x=(pixel(WIDTH - RIGHT + 86.0)) y=(pixel(middle + 4.0)) { (self.note) }
            }
        }
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARACTERS {
        return name.to_string();
    }
    name.chars().take(NAME_CHARACTERS - 1).chain(['\u{2026}']).collect()
}
