//! One load thread: an io_uring event loop over its connections.
//!
//! A turn: take all completions; check the replies in place in the provided buffers; for each batch that
//! is answered patch the next one and send it at once with send(2); wait. Receiving is multishot, so a
//! turn costs one `io_uring_enter` however many connections are ready. Sends are plain calls because in the
//! floor they measured equal to queued ones, and here they start the server earlier and give each batch its own time stamp. What
//! the socket does not take at once is queued on the ring, so no connection holds up another.

use super::pace::Schedule;
use super::series::Interval;
use super::{
    Order, PHASE_ABORT, PHASE_MEASURE, PHASE_STOP, PHASE_WARMUP, Plan, Shared, Stop, Target, ThreadUsage, target_of,
};
use crate::client::Client;
use crate::error::Error;
use crate::random::{KeySource, Random};
use crate::ring::{self, BUFFER_GROUP, BufferRing};
use crate::system;
use crate::workload::Batch;
use hdrhistogram::Histogram;
use io_uring::{IoUring, cqueue, opcode, types};
use socket2::Socket;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// user_data is `operation << 32 | slot`. Slots are never reused here, so they need no generation.
const OPERATION_RECEIVE: u64 = 0;
const OPERATION_SEND: u64 = 1;
const OPERATION_TICK: u64 = 2;

/// How often a thread with nothing to do looks at the phase and at the age of its batches.
const TICK: types::Timespec = types::Timespec::new().nsec(50_000_000);
/// A sleeping thread is woken late by so much, so an open loop looks at the clock for the last part of a wait.
const WAKE_LATE_NS: u64 = 100_000;
const SECOND_NS: u64 = 1_000_000_000;

pub struct Report {
    pub latency_ns: Histogram<u64>,
    pub series: Vec<Interval>,
    pub refused: BTreeMap<String, u64>,
    pub behind: u64,
    pub unanswered: u64,
    pub usage: ThreadUsage,
}

/// 1 ns to 60 s, three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are valid")
}

/// Runs thread number `thread` of the plan until it is told to stop or has sent its share.
pub fn run(plan: &Plan, thread: usize, shared: &Shared) -> Result<Report, Error> {
    let worker = Worker::start(plan, thread, shared);
    shared.start.wait();
    shared.start.wait();
    let report = worker.and_then(Worker::run);
    shared.failed.fetch_or(report.is_err(), Ordering::Relaxed);
    report
}

struct Worker<'a> {
    // The ring comes first so that it is gone before the memory it refers to.
    ring: IoUring,
    buffers: BufferRing,
    connections: Vec<Connection>,
    plan: &'a Plan,
    shared: &'a Shared,
    thread: usize,
    keys: KeySource,
    choice: Random,
    /// Requests which may still be sent.
    budget: u64,
    /// Connections whose batch is not answered yet.
    busy: usize,
    epoch: Instant,
    /// Of an open loop: when requests are due, and the connections without a batch.
    schedule: Option<Schedule>,
    idle: VecDeque<usize>,
    spun_ns: u64,
    requests: u64,
    misses: u64,
    refused: BTreeMap<String, u64>,
    refused_count: u64,
    /// Those of them that are in an interval.
    refused_noted: u64,
    behind: u64,
    unanswered: u64,
    /// Of the current second, and of all before it.
    interval_ns: Histogram<u64>,
    latency_ns: Histogram<u64>,
    series: Vec<Interval>,
}

struct Connection {
    stream: Socket,
    target: Target,
    batch: Batch,
    sent_at_ns: u64,
    /// When it last sent a reply, or was sent a batch.
    heard_at_ns: u64,
    /// Of an open loop: when each request of the batch was due.
    due_ns: Vec<u64>,
    /// The beginning of a reply whose end has not arrived, and the bytes it needs before another look.
    carry: Vec<u8>,
    need: usize,
}

impl<'a> Worker<'a> {
    fn start(plan: &'a Plan, thread: usize, shared: &'a Shared) -> Result<Worker<'a>, Error> {
        if !plan.cpus.is_empty() {
            let cpu = plan.cpus[thread % plan.cpus.len()];
            system::pin_thread(&[cpu]).map_err(Error::io(format!("pin a load thread to cpu {cpu}")))?;
        }
        let mut connections = Vec::new();
        for i in (thread..plan.connections).step_by(plan.threads) {
            let target = plan.targets[target_of(i, plan.threads, plan.targets.len())].clone();
            let stream = Client::connect(&target.address, plan.timeout, &plan.greeting)?.stream;
            let batch = Batch::new(&plan.workload, plan.pipeline);
            let (due_ns, carry) = (Vec::new(), Vec::new());
            connections.push(Connection {
                stream,
                target,
                batch,
                sent_at_ns: 0,
                heard_at_ns: 0,
                due_ns,
                carry,
                need: 0,
            });
        }
        let count = connections.len().next_power_of_two();
        let ring = ring::new_ring((count as u32).clamp(64, 4096)).map_err(Error::io("set up io_uring"))?;
        let batch_bytes = plan.workload.reply_bytes_max() * plan.pipeline;
        let buffer_bytes = batch_bytes.next_power_of_two().clamp(4096, 65_536);
        let buffers = BufferRing::register(&ring, (2 * count).clamp(64, 4096) as u16, buffer_bytes)
            .map_err(Error::io("register a buffer ring"))?;
        let (share_first, share_last) = match plan.stop {
            Stop::Requests(requests) => {
                let edge = |i: usize| requests * i as u64 / plan.threads as u64;
                (edge(thread), edge(thread + 1))
            }
            Stop::After(_) => (0, u64::MAX),
        };
        let seed = plan.seed.wrapping_add((thread as u64).wrapping_mul(0x5851_f42d_4c95_7f2d));
        let keys = match &plan.order {
            Order::Random(distribution) => KeySource::new(distribution, plan.keys, seed, thread, plan.threads),
            Order::Sequential => KeySource::Sequential { next: share_first },
        };
        let epoch = Instant::now();
        let schedule = Schedule::new(plan.pace, thread, plan.threads, 0, Random::new(seed ^ 0x0ca7));
        Ok(Worker {
            ring,
            buffers,
            connections,
            plan,
            shared,
            thread,
            keys,
            choice: Random::new(!seed),
            budget: share_last - share_first,
            busy: 0,
            epoch,
            schedule,
            idle: VecDeque::new(),
            spun_ns: 0,
            requests: 0,
            misses: 0,
            refused: BTreeMap::new(),
            refused_count: 0,
            refused_noted: 0,
            behind: 0,
            unanswered: 0,
            interval_ns: new_histogram(),
            latency_ns: new_histogram(),
            series: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Report, Error> {
        for slot in 0..self.connections.len() {
            self.receive(slot)?;
        }
        self.tick()?;
        // All threads get here together, which is when an open loop begins.
        self.epoch = Instant::now();
        for slot in 0..self.connections.len() {
            match self.schedule {
                Some(_) => self.idle.push_back(slot),
                None => self.send_next(slot)?,
            }
        }
        let mut phase = PHASE_WARMUP;
        let mut window = self.stamp();
        let mut usage = None;
        let mut completions = Vec::new();
        let mut starved = Vec::new();
        while self.busy > 0 || self.schedule.is_some() && self.budget > 0 {
            self.wait()?;
            let phase_now = self.shared.phase.load(Ordering::Relaxed);
            if phase_now != phase {
                let at = self.stamp();
                if phase_now == PHASE_MEASURE {
                    self.interval_ns.reset();
                    self.refused_noted = self.refused_count;
                    window = at;
                } else if phase_now == PHASE_STOP {
                    usage = Some(usage_between(window, at));
                    match self.schedule {
                        Some(_) => self.count_what_is_due(at.wall_ns),
                        None => self.end_interval(),
                    }
                    self.budget = 0;
                } else if phase_now == PHASE_ABORT {
                    break;
                }
                phase = phase_now;
            } else if phase == PHASE_MEASURE
                && self.now_ns().saturating_sub(window.wall_ns) >= (self.series.len() as u64 + 1) * SECOND_NS
            {
                self.end_interval();
            }
            let now_ns = self.now_ns();
            completions.extend(self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
            for (user_data, result, flags) in completions.drain(..) {
                let slot = user_data as u32 as usize;
                match user_data >> 32 {
                    OPERATION_RECEIVE => {
                        if result > 0 {
                            self.handle_data(slot, result as usize, flags, now_ns)?;
                        } else if result != -libc::ENOBUFS {
                            return Err(self.dead(slot, result));
                        }
                        if !cqueue::more(flags) {
                            starved.push(slot);
                        }
                    }
                    // A success is not reported; see `send_batch`.
                    OPERATION_SEND => return Err(self.dead(slot, result)),
                    _ => {
                        self.check_age(now_ns)?;
                        self.tick()?;
                    }
                }
            }
            self.buffers.publish();
            for slot in starved.drain(..) {
                self.receive(slot)?;
            }
            self.shared.requests[self.thread].store(self.requests, Ordering::Relaxed);
            self.shared.misses[self.thread].store(self.misses, Ordering::Relaxed);
        }
        // Of an open loop, what was due before the end belongs to the measurement, whenever it came.
        if usage.is_none() || self.schedule.is_some() {
            self.end_interval();
        }
        let usage = usage.unwrap_or_else(|| usage_between(window, self.stamp()));
        let (latency_ns, series, refused) = (self.latency_ns, self.series, self.refused);
        let (behind, unanswered) = (self.behind, self.unanswered);
        Ok(Report { latency_ns, series, refused, behind, unanswered, usage })
    }

    /// Waits for completions. In an open loop also until requests are due, which it sends.
    fn wait(&mut self) -> Result<(), Error> {
        let failed = Error::io("wait for completions");
        let Some(schedule) = &self.schedule else { return ring::submit_and_wait(&mut self.ring).map_err(failed) };
        // What nobody can take will be sent when a reply has come.
        if self.idle.is_empty() || self.budget == 0 {
            ring::submit_and_wait(&mut self.ring).map_err(failed)?;
            return self.send_due();
        }
        let (now_ns, next_ns) = (self.epoch.elapsed().as_nanos() as u64, schedule.next_ns());
        let rest_ns = next_ns.saturating_sub(now_ns);
        if rest_ns > 2 * WAKE_LATE_NS {
            let duration = Duration::from_nanos(rest_ns - WAKE_LATE_NS);
            ring::submit_and_wait_for(&mut self.ring, duration).map_err(failed)?;
        } else {
            self.ring.submit().map_err(failed)?;
            let mut now = now_ns;
            while now < next_ns && !ring::has_news(&mut self.ring) {
                std::hint::spin_loop();
                now = self.epoch.elapsed().as_nanos() as u64;
            }
            self.spun_ns += now - now_ns;
            self.ring.submit().map_err(Error::io("look for completions"))?;
        }
        self.send_due()
    }

    /// Sends what is due, to the connection that has been idle longest first. What no connection can take stays in the
    /// schedule.
    fn send_due(&mut self) -> Result<(), Error> {
        let now_ns = self.now_ns();
        while let (true, Some(schedule), Some(&slot)) = (self.budget > 0, &mut self.schedule, self.idle.front()) {
            let due_ns = &mut self.connections[slot].due_ns;
            due_ns.clear();
            // A batch of its own for each connection, as long as they reach.
            let share = schedule.due(now_ns).div_ceil(self.idle.len() as u64).clamp(1, self.plan.pipeline as u64);
            due_ns.extend(std::iter::from_fn(|| schedule.take(now_ns)).take(share.min(self.budget) as usize));
            let requests = due_ns.len();
            if requests == 0 {
                break;
            }
            if matches!(self.plan.stop, Stop::Requests(_)) {
                self.budget -= requests as u64;
            }
            self.idle.pop_front();
            self.send_batch(slot, requests)?;
        }
        Ok(())
    }

    /// At the end of an open loop: what is due and was not sent is as late as it is by now, at least.
    fn count_what_is_due(&mut self, now_ns: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        while let Some(due_ns) = schedule.take(now_ns) {
            self.behind += 1;
            self.interval_ns.saturating_record((now_ns - due_ns).max(1));
        }
        self.unanswered = self.connections.iter().map(|connection| connection.batch.outstanding() as u64).sum();
    }

    /// A second of the measurement is over, or all of it.
    fn end_interval(&mut self) {
        self.series.push(Interval::new(&self.interval_ns, self.refused_count - self.refused_noted));
        self.refused_noted = self.refused_count;
        self.latency_ns.add(&self.interval_ns).expect("histograms of one shape");
        self.interval_ns.reset();
    }

    /// Checks what arrived, and sends the next batch if that was the last reply of this one.
    fn handle_data(&mut self, slot: usize, bytes: usize, flags: u32, now_ns: u64) -> Result<(), Error> {
        let id = cqueue::buffer_select(flags).expect("a receive with data names its buffer");
        let connection = &mut self.connections[slot];
        let data = self.buffers.bytes(id, bytes);
        let workload = &self.plan.workload;
        let carried = !connection.carry.is_empty();
        let taken = if carried {
            connection.carry.extend_from_slice(data);
            if connection.carry.len() < connection.need {
                self.buffers.give_back(id);
                return Ok(());
            }
            connection.batch.take_replies(workload, &connection.carry)
        } else {
            connection.batch.take_replies(workload, data)
        };
        if let Some((expected, got)) = taken.wrong {
            return Err(Error::WrongReply { address: connection.target.address.to_string(), expected, got });
        }
        connection.need = taken.need;
        if carried {
            connection.carry.drain(..taken.bytes);
        } else {
            connection.carry.extend_from_slice(&data[taken.bytes..]);
        }
        self.buffers.give_back(id);
        if taken.replies > 0 {
            connection.heard_at_ns = now_ns;
            self.requests += taken.replies;
            self.misses += taken.misses;
            let since = |start_ns: u64| now_ns.saturating_sub(start_ns).max(1);
            if self.schedule.is_none() {
                self.interval_ns.saturating_record_n(since(connection.sent_at_ns), taken.replies);
            } else {
                let answered = connection.batch.answered();
                for &due_ns in &connection.due_ns[answered - taken.replies as usize..answered] {
                    self.interval_ns.saturating_record(since(due_ns));
                }
            }
        }
        for kind in taken.refused {
            self.refused_count += 1;
            *self.refused.entry(kind).or_default() += 1;
        }
        if connection.batch.outstanding() > 0 {
            return Ok(());
        }
        if !connection.carry.is_empty() {
            return Err(Error::WrongReply {
                address: connection.target.address.to_string(),
                expected: "no more replies than requests".to_string(),
                got: connection.carry[..connection.carry.len().min(100)].escape_ascii().to_string(),
            });
        }
        self.busy -= 1;
        if self.schedule.is_some() {
            self.idle.push_back(slot);
            return Ok(());
        }
        self.send_next(slot)
    }

    /// Sends the connection's next batch of a closed loop, as far as the budget goes.
    fn send_next(&mut self, slot: usize) -> Result<(), Error> {
        let requests = self.budget.min(self.plan.pipeline as u64);
        if matches!(self.plan.stop, Stop::Requests(_)) {
            self.budget -= requests;
        }
        self.send_batch(slot, requests as usize)
    }

    fn send_batch(&mut self, slot: usize, requests: usize) -> Result<(), Error> {
        if requests == 0 {
            return Ok(());
        }
        self.busy += 1;
        let connection = &mut self.connections[slot];
        let workload = &self.plan.workload;
        connection.batch.fill(workload, &mut self.keys, &mut self.choice, connection.target.slice, requests);
        let bytes = connection.batch.bytes(workload);
        let fd = connection.stream.as_raw_fd();
        connection.sent_at_ns = self.epoch.elapsed().as_nanos() as u64;
        connection.heard_at_ns = connection.sent_at_ns;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer and the length are those of a live slice.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
        let sent = match sent {
            0.. => sent as usize,
            _ => match io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => 0,
                error => return Err(Error::dead(&connection.target.address, error)),
            },
        };
        let rest = &bytes[sent..];
        if rest.is_empty() {
            return Ok(());
        }
        // The ring waits for room. The batch is not touched before all of its replies have arrived, which
        // is after all of it was sent. Only a failure completes.
        let entry = opcode::Send::new(types::Fd(fd), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(io_uring::squeue::Flags::SKIP_SUCCESS)
            .user_data(OPERATION_SEND << 32 | slot as u64);
        ring::push(&mut self.ring, &entry).map_err(Error::io("queue a send"))
    }

    fn receive(&mut self, slot: usize) -> Result<(), Error> {
        let fd = types::Fd(self.connections[slot].stream.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, BUFFER_GROUP).build().user_data(OPERATION_RECEIVE << 32 | slot as u64);
        ring::push(&mut self.ring, &entry).map_err(Error::io("queue a receive"))
    }

    fn tick(&mut self) -> Result<(), Error> {
        let entry = opcode::Timeout::new(&TICK).build().user_data(OPERATION_TICK << 32);
        ring::push(&mut self.ring, &entry).map_err(Error::io("queue a timeout"))
    }

    fn check_age(&self, now_ns: u64) -> Result<(), Error> {
        let limit_ns = self.plan.timeout.as_nanos() as u64;
        let late = self.connections.iter().find(|connection| {
            connection.batch.outstanding() > 0 && now_ns.saturating_sub(connection.heard_at_ns) > limit_ns
        });
        match late {
            None => Ok(()),
            Some(connection) => Err(Error::MissingReply {
                address: connection.target.address.to_string(),
                outstanding: connection.batch.outstanding(),
                waited_ms: limit_ns / 1_000_000,
            }),
        }
    }

    fn dead(&self, slot: usize, result: i32) -> Error {
        let connection = &self.connections[slot];
        let reason = match result {
            0.. => format!("closed the connection with {} replies outstanding", connection.batch.outstanding()),
            _ => io::Error::from_raw_os_error(-result).to_string(),
        };
        Error::dead(&connection.target.address, reason)
    }

    /// The thread's usage since its beginning.
    fn stamp(&self) -> ThreadUsage {
        ThreadUsage {
            requests: self.requests,
            cpu_ns: system::thread_cpu_ns(),
            wait_ns: system::thread_wait_ns(),
            wall_ns: self.now_ns(),
            spun_ns: self.spun_ns,
        }
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

fn usage_between(start: ThreadUsage, end: ThreadUsage) -> ThreadUsage {
    ThreadUsage {
        requests: end.requests - start.requests,
        cpu_ns: end.cpu_ns - start.cpu_ns,
        wait_ns: end.wait_ns - start.wait_ns,
        wall_ns: end.wall_ns - start.wall_ns,
        spun_ns: end.spun_ns - start.spun_ns,
    }
}
