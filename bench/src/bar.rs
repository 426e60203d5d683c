//! The bar that says on a terminal how far something is.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Goes away when it is dropped. Nothing is drawn where standard error is no terminal.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// Of something that takes `length` steps, unless `prefix` is nothing.
    pub fn new(prefix: Option<&str>, length: u64) -> Bar {
        let shown = prefix.filter(|_| std::io::stderr().is_terminal());
        Bar(shown.map(|prefix| {
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3} % {msg}");
            bar.set_style(style.expect("the template is right").progress_chars("=> "));
            bar.set_prefix(prefix.to_string());
            bar
        }))
    }

    pub fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// The position alone; the bar itself bounds how often it is drawn.
    pub fn set(&self, position: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(position);
        }
    }

    pub fn set_with(&self, position: u64, message: String) {
        if let Some(bar) = &self.0 {
            bar.set_position(position);
            bar.set_message(message);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
