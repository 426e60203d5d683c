//! How far the loading of all shards is: figures that the shards add to, and what is shown of them, a bar on a terminal and
//! elsewhere a line of the log now and then.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use torc_engine::machine::LoadingFacts;
use tracing::info;

use crate::limits::{LOAD_BAR_INTERVAL, LOAD_LOG_INTERVAL};

/// The figures. Nothing is ordered by the counts, hence Relaxed.
pub struct Progress {
    began: Instant,
    started_s: u64,
    total_bytes: u64,
    loaded_bytes: AtomicU64,
    keys: AtomicU64,
    /// All shards are ready. One flag for all: who was answered by one shard is not told by another one to wait.
    serving: AtomicBool,
}

impl Progress {
    /// Of shards that have so many bytes to load together.
    pub fn new(total_bytes: u64) -> Progress {
        Progress {
            began: Instant::now(),
            started_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            total_bytes,
            loaded_bytes: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            serving: AtomicBool::new(false),
        }
    }

    /// A shard has loaded so many bytes more, and has as many keys now where it had others before.
    pub fn add(&self, bytes: u64, keys_before: u64, keys: u64) {
        self.loaded_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.keys.fetch_add(keys.wrapping_sub(keys_before), Ordering::Relaxed);
    }

    /// Clients are to be served: all shards have everything.
    pub fn serve(&self) {
        self.serving.store(true, Ordering::Release);
    }

    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn loaded_bytes(&self) -> u64 {
        self.loaded_bytes.load(Ordering::Relaxed).min(self.total_bytes)
    }

    fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// What INFO says; None when clients are served.
    pub fn facts(&self) -> Option<LoadingFacts> {
        let loaded_bytes = self.loaded_bytes();
        let rest = (self.total_bytes - loaded_bytes) as f64 / loaded_bytes.max(1) as f64;
        (!self.is_serving()).then(|| LoadingFacts {
            started_s: self.started_s,
            total_bytes: self.total_bytes,
            loaded_bytes,
            // Before anything is known Redis says a second, too.
            eta_s: if loaded_bytes == 0 { 1 } else { (self.elapsed().as_secs_f64() * rest) as u64 },
        })
    }
}

/// Shows the figures while somebody waits for them.
pub struct Display {
    bar: Option<ProgressBar>,
    said: Instant,
    said_bytes: u64,
}

impl Display {
    pub fn new(progress: &Progress) -> Display {
        let bar = io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("loading {bar:40} {percent}%  {binary_bytes_per_sec}  {msg}, {eta} left");
            ProgressBar::new(progress.total_bytes).with_style(style.expect("a sound template"))
        });
        Display { bar, said: Instant::now(), said_bytes: 0 }
    }

    /// How long to wait before [`Display::show`].
    pub fn interval(&self) -> Duration {
        if self.bar.is_some() { LOAD_BAR_INTERVAL } else { LOAD_LOG_INTERVAL }
    }

    /// Shows how far it is, if that is due.
    pub fn show(&mut self, progress: &Progress) {
        let (bytes, keys) = (progress.loaded_bytes(), progress.keys());
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{keys} keys"));
            return;
        }
        let since = self.said.elapsed();
        if since < LOAD_LOG_INTERVAL {
            return;
        }
        let percent = bytes as f64 * 100.0 / progress.total_bytes.max(1) as f64;
        let rate = (bytes - self.said_bytes) as f64 / since.as_secs_f64() / (1 << 20) as f64;
        info!("loading: {percent:.0} %, {keys} keys, {rate:.0} MiB/s");
        (self.said, self.said_bytes) = (Instant::now(), bytes);
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_until_clients_are_served() {
        let progress = Progress::new(1000);
        assert_eq!(progress.facts().map(|facts| (facts.loaded_bytes, facts.eta_s)), Some((0, 1)));
        progress.add(400, 0, 70);
        progress.add(100, 0, 30);
        progress.add(100, 70, 60);
        assert_eq!((progress.loaded_bytes(), progress.keys()), (600, 90));
        let facts = progress.facts().expect("nobody serves");
        assert_eq!((facts.total_bytes, facts.loaded_bytes), (1000, 600));
        progress.serve();
        assert_eq!(progress.facts(), None);
        // More than there was to be is not shown.
        progress.add(1000, 0, 0);
        assert_eq!(progress.loaded_bytes(), 1000);
    }
}
