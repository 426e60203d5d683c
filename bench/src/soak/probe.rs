//! The client whose latency is judged: one request at a time, at an even rate, on a connection and a thread of its own, whatever
//! the load does meanwhile. Time counts from when a request was due: one that has to wait behind a slow one is late itself.

use crate::client::Address;
use crate::error::Error;
use crate::load::new_histogram;
use crate::system;
use crate::under_test::connect;
use hdrhistogram::Histogram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Keys that the probe writes and reads in turn.
const KEYS: u64 = 256;
/// Requests that were due so long ago, and more, are left out after each was counted as late as this: else one stall would be
/// followed by a burst.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// What the probe has measured since somebody looked last.
pub struct Probe {
    latency_ns: Mutex<Histogram<u64>>,
    stop: AtomicBool,
}

impl Probe {
    pub fn new() -> Probe {
        Probe { latency_ns: Mutex::new(new_histogram()), stop: AtomicBool::new(false) }
    }

    /// Latencies since the last call.
    pub fn take(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.latency_ns.lock().expect("nobody panics with it"), new_histogram())
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Asks until it is stopped; every reply is checked.
    pub fn run(&self, address: &Address, rate: f64, cpus: &[usize]) -> Result<(), Error> {
        system::pin_thread(cpus).map_err(Error::io("pin to --load-cpus"))?;
        let mut client = connect(address)?;
        let period = Duration::from_secs_f64(1.0 / rate);
        let mut due = Instant::now();
        let mut turn = 0u64;
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let key = format!("probe:{}", turn / 2 % KEYS);
            let value = format!("{:032}", turn / 2);
            let reply = match turn.is_multiple_of(2) {
                true => client.call(&[b"SET", key.as_bytes(), value.as_bytes()])?,
                false => client.call(&[b"GET", key.as_bytes()])?,
            };
            let waited = due.elapsed();
            let wanted = if turn.is_multiple_of(2) { "+OK\r\n".to_string() } else { format!("$32\r\n{value}\r\n") };
            // A server with a bound on its memory may have evicted it.
            if reply != wanted.as_bytes() && (turn.is_multiple_of(2) || reply != b"$-1\r\n") {
                return Err(client.wrong(wanted.escape_debug().to_string(), &reply));
            }
            let nanoseconds = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            self.latency_ns.lock().expect("nobody panics with it").saturating_record(nanoseconds.max(1));
            turn += 1;
            due += period;
            due = due.max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
        }
        Ok(())
    }
}
