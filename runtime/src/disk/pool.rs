//! The thread of the disk: it owns the data directory, does there whatever blocks, and has the next segment of each shard's log
//! ready before the shard needs it.
//!
//! A segment comes to a shard only when its name and its size are durable, so what the shard acknowledges is never in a file
//! that a crash can lose. Where each write is synced it is full of zeros too, or of what a segment that is not needed any more
//! held, because to overwrite blocks costs a third less then than to write into blocks that the file system only knows as
//! allocated; elsewhere it is taken as it is ([`LogDriver::set_filling`](super::log::LogDriver::set_filling)). Zeros are written at a
//! slow rate, a piece of each shard's file in turn, for nobody waits for them. When the shard has used half of what it has
//! they are written as fast as the disk takes them, and when it needs the file now it gets it as it is: allocated, the rest
//! to be filled by the log itself.
//!
//! Blocks are allocated when a file is begun, one segment ahead, so that is where a full disk shows. Then the snapshot that is
//! kept beside the one that counts goes first; if that does not help the shard is told, and the file tried again each
//! second.
//!
//! [`Pool`] is the state and knows no clock and no thread; [`start`] makes the thread, which has a low priority, and no core
//! that has a shard if there is another.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use torc_engine::log::manifest::Manifest;
use tracing::warn;

use super::directory::{Directory, Filling, PoolSize, Segment};
use super::error::DiskError;
use super::files::Disk;
use super::names::SegmentId;
use crate::limits::{SEGMENT_BYTES_MIN, SEGMENT_FILL_CHUNK, SEGMENT_FILL_RATE, SEGMENT_RETRY};
use crate::place;

/// The nice value of the thread.
const NICE: i32 = 10;

/// How soon a shard needs its next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    Calm,
    Soon,
    Now,
}

/// What the thread is asked to do.
enum Order<D: Disk> {
    Open(Opening),
    Prepare {
        id: SegmentId,
        bytes: u64,
    },
    Hurry {
        shard: u16,
        haste: Haste,
    },
    /// `taken`: the last segment that the shard has got. What was made since is not needed.
    Cancel {
        shard: u16,
        taken: Option<SegmentId>,
    },
    Call(Job<D>),
    Stop,
}

/// How the logs of a process begin to count.
pub struct Opening {
    pub manifest: Manifest,
    /// Where logs ended before: what is behind these offsets is cut off.
    pub ends: Vec<(SegmentId, u64)>,
}

/// What is done to the directory on the thread.
type Job<D> = Box<dyn FnOnce(&mut Directory<D>) + Send>;

/// What a shard is told of the segment that it asked for.
struct Told<F> {
    id: SegmentId,
    result: Result<Segment<F>, Arc<DiskError>>,
}

/// How a shard's next segment stands.
#[derive(Debug)]
pub enum Space {
    /// It is there.
    Ready,
    Preparing,
    /// It could not be made, for now: the disk is full, or fails. It is tried again.
    Full(Arc<DiskError>),
}

/// One shard's way to the thread. Nothing here waits.
pub struct Lane<D: Disk> {
    shard: u16,
    orders: Sender<Order<D>>,
    told: Receiver<Told<D::File>>,
    haste: Haste,
    space: Space,
    /// Asked for, and not taken.
    wanted: Option<SegmentId>,
    ready: Option<Segment<D::File>>,
    /// The last one.
    taken: Option<SegmentId>,
}

impl<D: Disk> Lane<D> {
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Asks for a segment of the shard, one at a time.
    pub fn prepare(&mut self, generation: u64, number: u64, bytes: u64) {
        assert!(self.wanted.is_none(), "the segment before has been taken");
        let id = SegmentId { shard: self.shard, generation, number };
        (self.haste, self.space, self.wanted) = (Haste::Calm, Space::Preparing, Some(id));
        self.send(Order::Prepare { id, bytes });
    }

    /// Says that the segment asked for is needed sooner.
    pub fn hurry(&mut self, haste: Haste) {
        if haste > self.haste && !matches!(self.space(), Space::Ready) {
            self.haste = haste;
            self.send(Order::Hurry { shard: self.shard, haste });
        }
    }

    /// How the segment asked for stands.
    pub fn space(&mut self) -> &Space {
        while let Ok(told) = self.told.try_recv() {
            self.hear(told);
        }
        &self.space
    }

    /// The segment asked for, if it is there.
    pub fn take(&mut self) -> Option<Segment<D::File>> {
        self.space();
        let segment = self.ready.take()?;
        (self.wanted, self.taken) = (None, Some(segment.id));
        Some(segment)
    }

    /// Bytes of the segment asked for, if it is there.
    pub fn ready_bytes(&mut self) -> Option<u64> {
        self.space();
        self.ready.as_ref().map(|segment| segment.bytes)
    }

    /// Gives up the segment asked for.
    pub fn cancel(&mut self) {
        (self.wanted, self.ready, self.space) = (None, None, Space::Preparing);
        self.send(Order::Cancel { shard: self.shard, taken: self.taken });
    }

    /// Waits until the segment asked for is there, or cannot be made for now. Not for a shard that serves.
    pub fn wait(&mut self) -> Result<(), Arc<DiskError>> {
        assert!(self.wanted.is_some(), "a segment was asked for");
        loop {
            match mem::replace(&mut self.space, Space::Preparing) {
                Space::Ready => {
                    self.space = Space::Ready;
                    return Ok(());
                }
                Space::Full(error) => {
                    self.space = Space::Full(error.clone());
                    return Err(error);
                }
                Space::Preparing => {}
            }
            let Ok(told) = self.told.recv() else { unreachable!("the thread outlives the shards") };
            self.hear(told);
        }
    }

    fn hear(&mut self, told: Told<D::File>) {
        // What was told of a segment that was given up meanwhile is nothing to this one.
        if Some(told.id) != self.wanted {
            return;
        }
        self.space = match told.result {
            Ok(segment) => {
                self.ready = Some(segment);
                Space::Ready
            }
            Err(error) => Space::Full(error),
        };
    }

    fn send(&self, order: Order<D>) {
        // The thread ends after the shards.
        let _ = self.orders.send(order);
    }
}

/// The way to the thread for all but segments.
pub struct DiskThread<D: Disk> {
    orders: Sender<Order<D>>,
    thread: JoinHandle<()>,
}

/// As [`DiskThread`], to be given away.
pub struct DiskCaller<D: Disk>(Sender<Order<D>>);

impl<D: Disk> Clone for DiskCaller<D> {
    fn clone(&self) -> DiskCaller<D> {
        DiskCaller(self.0.clone())
    }
}

impl<D: Disk> DiskCaller<D> {
    /// Has something done to the directory, after what was asked before; does not wait.
    pub fn call(&self, work: impl FnOnce(&mut Directory<D>) + Send + 'static) {
        // The thread ends after all that call.
        let _ = self.0.send(Order::Call(Box::new(work)));
    }
}

impl<D: Disk> DiskThread<D> {
    /// From now on no shard gets its first segment before all of them are there and the manifest that claims them counts. To
    /// be called before any is asked for.
    pub fn open(&self, opening: Opening) {
        // The thread ends when it is told to.
        let _ = self.orders.send(Order::Open(opening));
    }

    pub fn caller(&self) -> DiskCaller<D> {
        DiskCaller(self.orders.clone())
    }

    /// Does what was asked before, and ends. False: the thread has panicked.
    pub fn stop(self) -> bool {
        let _ = self.orders.send(Order::Stop);
        self.thread.join().is_ok()
    }
}

/// Starts the thread and gives a lane per shard. `wake` is called with the number of a shard when there is something for it in
/// its lane.
pub fn start<D: Disk>(
    directory: Directory<D>,
    size: PoolSize,
    shard_cores: &[usize],
    wake: impl Fn(u16) + Send + 'static,
) -> io::Result<(DiskThread<D>, Vec<Lane<D>>)> {
    let (orders, received) = mpsc::channel();
    let (mut pool, lanes) = Pool::new(directory, size, shard_cores.len(), &orders, wake)?;
    let cores = shard_cores.to_vec();
    let thread = thread::Builder::new().name("torc-disk".into()).spawn(move || {
        place::keep_off(&cores);
        // If it is not allowed it has the priority of the others.
        let _ = rustix::process::setpriority_process(None, NICE);
        serve(&mut pool, &received);
    })?;
    Ok((DiskThread { orders, thread }, lanes))
}

fn serve<D: Disk, W: Fn(u16)>(pool: &mut Pool<D, W>, orders: &Receiver<Order<D>>) {
    let start = Instant::now();
    loop {
        let order = match pool.step(start.elapsed()) {
            Some(at) => orders.recv_timeout(at.saturating_sub(start.elapsed())),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match order {
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(order) => pool.handle(order),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The thread's state, and the shards' ends.
type PoolWithLanes<D, W> = (Pool<D, W>, Vec<Lane<D>>);

/// What the thread knows.
struct Pool<D: Disk, W> {
    directory: Directory<D>,
    size: PoolSize,
    lanes: Vec<Work<D>>,
    wake: W,
    zeros: MmapMut,
    /// Which lane's file was filled last.
    last: usize,
    /// When files that nobody needs soon are filled further.
    fill_at: Duration,
    opening: Option<Opening>,
    /// First segments that wait for the manifest, with their lanes, and when that is tried again after a failure.
    made: Vec<(usize, Segment<D::File>)>,
    open_at: Option<Duration>,
}

/// What is done for one shard.
struct Work<D: Disk> {
    told: Sender<Told<D::File>>,
    wanted: Option<Wanted<D::File>>,
    /// The last segment that it was given.
    given: Option<SegmentId>,
}

struct Wanted<F> {
    id: SegmentId,
    bytes: u64,
    haste: Haste,
    file: Option<Filling<F>>,
    /// When it is tried again after a failure.
    retry_at: Option<Duration>,
}

impl<D: Disk, W: Fn(u16)> Pool<D, W> {
    fn new(
        directory: Directory<D>,
        size: PoolSize,
        shards: usize,
        orders: &Sender<Order<D>>,
        wake: W,
    ) -> io::Result<PoolWithLanes<D, W>> {
        let (mut works, mut lanes) = (Vec::new(), Vec::new());
        for shard in 0..shards {
            let (sender, told) = mpsc::channel();
            works.push(Work { told: sender, wanted: None, given: None });
            let shard = u16::try_from(shard).expect("shards are numbered with 16 bits");
            lanes.push(Lane {
                shard,
                orders: orders.clone(),
                told,
                haste: Haste::Calm,
                space: Space::Preparing,
                wanted: None,
                ready: None,
                taken: None,
            });
        }
        // Of the system's own memory, for it must be aligned.
        let zeros = MmapMut::map_anon(SEGMENT_FILL_CHUNK)?;
        let pool = Pool {
            directory,
            size,
            lanes: works,
            wake,
            zeros,
            last: 0,
            fill_at: Duration::ZERO,
            opening: None,
            made: Vec::new(),
            open_at: None,
        };
        Ok((pool, lanes))
    }

    fn handle(&mut self, order: Order<D>) {
        match order {
            Order::Open(opening) => self.opening = Some(opening),
            Order::Prepare { id, bytes } => {
                let wanted = Wanted { id, bytes, haste: Haste::Calm, file: None, retry_at: None };
                let before = self.lanes[id.shard as usize].wanted.replace(wanted);
                assert!(before.is_none(), "a shard asks for one segment at a time");
            }
            Order::Hurry { shard, haste } => {
                if let Some(wanted) = &mut self.lanes[shard as usize].wanted {
                    wanted.haste = haste;
                }
            }
            Order::Cancel { shard, taken } => {
                let work = &mut self.lanes[shard as usize];
                let file = work.wanted.take().and_then(|wanted| wanted.file);
                file.into_iter().for_each(|file| self.directory.abandon_segment(file));
                let unused = work.given.filter(|&given| Some(given) != taken);
                self.made.retain(|(lane, _)| *lane != shard as usize);
                if let Some(Err(error)) = unused.map(|id| self.directory.discard(id, self.size)) {
                    tracing::warn!("a segment that is not needed stays: {error}");
                }
            }
            Order::Call(work) => work(&mut self.directory),
            Order::Stop => {}
        }
    }

    /// Does one piece of what is to be done. Gives when to call again at the latest; None: when there is an order.
    fn step(&mut self, now: Duration) -> Option<Duration> {
        // The most urgent, and of those the one after the last.
        let count = self.lanes.len();
        let due = |wanted: &Wanted<D::File>| wanted.retry_at.is_none_or(|at| at <= now);
        let next = (1..=count)
            .map(|offset| (self.last + offset) % count)
            .filter_map(|lane| {
                self.lanes[lane].wanted.as_ref().filter(|wanted| due(wanted)).map(|wanted| (lane, wanted))
            })
            // The first of the greatest.
            .reduce(|best, other| if other.1.haste > best.1.haste { other } else { best });
        let Some((lane, wanted)) = next else {
            if self.opening.is_some() && self.made.len() == count && self.open_at.is_none_or(|at| at <= now) {
                self.open(now);
                return Some(now);
            }
            return self.lanes.iter().filter_map(|lane| lane.wanted.as_ref()?.retry_at).chain(self.open_at).min();
        };
        let fills_in_time = wanted.file.is_some() && wanted.haste == Haste::Calm;
        if fills_in_time && self.fill_at > now {
            return Some(self.fill_at);
        }
        self.last = lane;
        let mut wanted = self.lanes[lane].wanted.take().expect("it was just looked at");
        match self.advance(&mut wanted) {
            Ok(None) => {
                if fills_in_time {
                    let piece = Duration::from_nanos(SEGMENT_FILL_CHUNK as u64 * 1_000_000_000 / SEGMENT_FILL_RATE);
                    self.fill_at = now + piece;
                }
                self.lanes[lane].wanted = Some(wanted);
            }
            Ok(Some(segment)) => {
                self.lanes[lane].given = Some(segment.id);
                if self.opening.is_some() {
                    self.made.push((lane, segment));
                    return Some(now);
                }
                self.tell(lane, Told { id: segment.id, result: Ok(segment) });
            }
            Err(error) => {
                (wanted.file, wanted.retry_at) = (None, Some(now + SEGMENT_RETRY));
                let id = wanted.id;
                self.lanes[lane].wanted = Some(wanted);
                match self.opening {
                    Some(_) => self.tell_all(error),
                    None => self.tell(lane, Told { id, result: Err(Arc::new(error)) }),
                }
            }
        }
        Some(now)
    }

    /// Makes the manifest count that claims the first segments, and gives these out.
    fn open(&mut self, now: Duration) {
        self.open_at = None;
        let Some(opening) = self.opening.take() else { return };
        // A save may have made a later one count, which claims them too.
        let is_claimed =
            self.directory.manifest().is_some_and(|current| current.generation >= opening.manifest.generation);
        let switched = if is_claimed { Ok(0) } else { self.directory.switch(opening.manifest.clone()) };
        if let Err(error) = switched {
            (self.opening, self.open_at) = (Some(opening), Some(now + SEGMENT_RETRY));
            let is_full = error.is_full();
            self.tell_all(error);
            if is_full {
                self.make_smaller(now);
            }
            return;
        }
        for (lane, segment) in mem::take(&mut self.made) {
            self.tell(lane, Told { id: segment.id, result: Ok(segment) });
        }
        // Nobody waits for this, and what fails is tried again at the next start.
        let ends = opening.ends.iter();
        let cut: Result<(), DiskError> =
            ends.into_iter().try_for_each(|&(id, end)| self.directory.cut_segment(id, end));
        if let Err(error) = self.directory.recycle(self.size, true).and(cut) {
            warn!("what is not needed any more stays: {error}");
        }
    }

    /// The first segments have taken what the manifest needs: they are made anew, as small as they may be.
    fn make_smaller(&mut self, now: Duration) {
        let nothing_kept = PoolSize { files: 0, ..self.size };
        for (lane, segment) in mem::take(&mut self.made) {
            let id = segment.id;
            if segment.bytes <= SEGMENT_BYTES_MIN || self.directory.discard(id, nothing_kept).is_err() {
                self.made.push((lane, segment));
                continue;
            }
            let retry_at = Some(now + SEGMENT_RETRY);
            let wanted = Wanted { id, bytes: SEGMENT_BYTES_MIN, haste: Haste::Calm, file: None, retry_at };
            (self.lanes[lane].wanted, self.lanes[lane].given) = (Some(wanted), None);
        }
    }

    /// Tells every shard that waits for its first segment why there is none yet.
    fn tell_all(&self, error: DiskError) {
        let error = Arc::new(error);
        for lane in 0..self.lanes.len() {
            let wanted = self.lanes[lane].wanted.as_ref().map(|wanted| wanted.id);
            let made = self.made.iter().find(|(of, _)| *of == lane).map(|(_, segment)| segment.id);
            if let Some(id) = wanted.or(made) {
                self.tell(lane, Told { id, result: Err(error.clone()) });
            }
        }
    }

    /// The next step for a segment; gives it when it is done.
    fn advance(&mut self, wanted: &mut Wanted<D::File>) -> Result<Option<Segment<D::File>>, DiskError> {
        let mut file = match wanted.file.take() {
            Some(file) => file,
            None => {
                wanted.retry_at = None;
                wanted.file = Some(self.begin(wanted.id, wanted.bytes)?);
                return Ok(None);
            }
        };
        if wanted.haste < Haste::Now && !file.is_full() {
            if let Err(error) = self.directory.fill(&mut file, &self.zeros) {
                self.directory.abandon_segment(file);
                return Err(error);
            }
            wanted.file = Some(file);
            return Ok(None);
        }
        self.directory.finish_segment(file).map(Some)
    }

    fn begin(&mut self, id: SegmentId, bytes: u64) -> Result<Filling<D::File>, DiskError> {
        match self.directory.begin_segment(id, bytes) {
            Err(error) if error.is_full() => {
                // What is kept for bad times only gives way.
                let recycled = self.directory.recycle(self.size, false);
                let begun = match recycled {
                    Ok(removed) if removed > 0 => self.directory.begin_segment(id, bytes),
                    _ => Err(error),
                };
                // A log may begin with less.
                match begun {
                    Err(error) if error.is_full() && self.opening.is_some() && bytes > SEGMENT_BYTES_MIN => {
                        self.directory.begin_segment(id, SEGMENT_BYTES_MIN).map_err(|_| error)
                    }
                    begun => begun,
                }
            }
            result => result,
        }
    }

    fn tell(&self, lane: usize, told: Told<D::File>) {
        // A shard that is gone needs nothing.
        if self.lanes[lane].told.send(told).is_ok() {
            (self.wake)(lane as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use torc_engine::log::Lsn;
    use torc_engine::log::manifest::ShardManifest;

    use super::*;
    use crate::disk::directory::Access;
    use crate::disk::sim::{Plan, Sim};

    const SEGMENT: u64 = 3 * SEGMENT_FILL_CHUNK as u64;
    const SIZE: PoolSize = PoolSize { segment_bytes: SEGMENT, files: 4 };

    /// A pool without its thread, and its lanes.
    struct World {
        sim: Sim,
        pool: Pool<Sim, Box<dyn Fn(u16)>>,
        orders: Receiver<Order<Sim>>,
        lanes: Vec<Lane<Sim>>,
        woken: Arc<AtomicU32>,
        now: Duration,
    }

    fn world(shards: usize) -> World {
        let sim = Sim::new(1);
        let directory = Directory::open(sim.clone(), Path::new("/data"), Access::Serve).unwrap();
        let (sender, orders) = mpsc::channel();
        let woken = Arc::new(AtomicU32::new(0));
        let counter = woken.clone();
        let wake: Box<dyn Fn(u16)> = Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let (pool, lanes) = Pool::new(directory, SIZE, shards, &sender, wake).unwrap();
        World { sim, pool, orders, lanes, woken, now: Duration::ZERO }
    }

    impl World {
        /// Until nothing is to be done, or something fails.
        fn run(&mut self) {
            for _ in 0..1000 {
                while let Ok(order) = self.orders.try_recv() {
                    self.pool.handle(order);
                }
                match self.pool.step(self.now) {
                    None => return,
                    Some(at) if at >= self.now + SEGMENT_RETRY => return,
                    Some(at) => self.now = at,
                }
            }
            panic!("it never rests");
        }
    }

    #[test]
    fn segments_are_filled_at_their_rate_and_in_turn() {
        let mut world = world(2);
        world.lanes[0].prepare(1, 1, SEGMENT);
        world.lanes[1].prepare(1, 1, SEGMENT);
        world.run();
        assert_eq!(world.woken.load(Ordering::Relaxed), 2);
        // Six pieces, and no wait before the first nor after the last.
        let piece = Duration::from_nanos(SEGMENT_FILL_CHUNK as u64 * 1_000_000_000 / SEGMENT_FILL_RATE);
        assert!(world.now >= piece * 5 && world.now <= piece * 7, "{:?}", world.now);
        for lane in &mut world.lanes {
            let segment = lane.take().unwrap();
            assert_eq!(segment.path, Path::new(&format!("/data/wal-1-{}-000001.log", segment.id.shard)));
            assert!(lane.take().is_none());
        }
        // Durable, in every crash that comes later.
        for seed in 0..10 {
            let left = world.sim.crashed(seed);
            for shard in 0..2 {
                assert_eq!(left.get(&format!("/data/wal-1-{shard}-000001.log")).unwrap().len() as u64, SEGMENT);
            }
        }
    }

    #[test]
    fn haste_ends_the_waiting_and_then_the_filling() {
        let mut world = world(1);
        let calls = |world: &World| world.sim.calls();
        world.lanes[0].prepare(1, 1, SEGMENT);
        world.lanes[0].hurry(Haste::Soon);
        let before = calls(&world);
        world.run();
        let filled = calls(&world) - before;
        assert_eq!(world.now, Duration::ZERO);
        assert!(world.lanes[0].take().is_some());

        world.lanes[0].prepare(1, 2, SEGMENT);
        world.lanes[0].hurry(Haste::Now);
        let before = calls(&world);
        world.run();
        assert_eq!(filled - (calls(&world) - before), 3, "the three pieces are not written");
        assert!(world.lanes[0].take().is_some());
        assert_eq!(world.sim.crashed(3).get("/data/wal-1-0-000002.log").unwrap().len() as u64, SEGMENT);
    }

    #[test]
    fn discarded_segments_are_used_again_without_filling() {
        let mut world = world(1);
        world.lanes[0].prepare(1, 1, SEGMENT);
        world.run();
        world.lanes[0].cancel();
        world.run();
        assert!(world.sim.paths().contains(&"/data/pool/1.free".into()));
        let now = world.now;
        world.lanes[0].prepare(1, 2, SEGMENT);
        world.run();
        assert_eq!(world.now, now);
        assert!(world.lanes[0].take().is_some());
        assert!(!world.sim.paths().contains(&"/data/pool/1.free".into()));
        // And one that is given up before it is done.
        world.lanes[0].prepare(1, 3, SEGMENT);
        while let Ok(order) = world.orders.try_recv() {
            world.pool.handle(order);
        }
        world.pool.step(world.now);
        world.lanes[0].cancel();
        world.run();
        assert!(!world.sim.paths().iter().any(|path| path.contains("filling") || path.contains("000003")));
    }

    #[test]
    fn segment_that_is_done_when_it_was_given_up_is_not_taken_for_the_next() {
        let mut world = world(1);
        world.lanes[0].prepare(1, 1, SEGMENT);
        world.run();
        let first = world.lanes[0].take().unwrap();
        world.lanes[0].prepare(1, 2, SEGMENT);
        world.pool.handle(world.orders.try_recv().unwrap());
        world.lanes[0].cancel();
        // The thread does not know of that yet.
        while world.pool.step(world.now).is_some_and(|at| at < world.now + SEGMENT_RETRY) {
            world.now += Duration::from_millis(100);
        }
        assert!(world.sim.paths().contains(&"/data/wal-1-0-000002.log".into()));
        world.lanes[0].prepare(1, 9, SEGMENT);
        world.run();
        assert_eq!(world.lanes[0].take().unwrap().id.number, 9);
        assert!(!world.sim.paths().contains(&"/data/wal-1-0-000002.log".into()));
        // What the shard has got stays.
        assert!(world.sim.get(first.path.to_str().unwrap()).is_some());
    }

    #[test]
    fn full_disk_is_told_and_left_behind_when_there_is_space() {
        let mut world = world(1);
        world.lanes[0].prepare(1, 1, SEGMENT);
        world.sim.plan(Plan::Full { from: 1 });
        world.run();
        let Space::Full(error) = world.lanes[0].space() else { panic!() };
        let text = error.to_string();
        assert!(text.contains("/data/pool/0.filling: No space left") && text.contains("free some space"), "{text}");
        world.sim.plan(Plan::Nothing);
        world.now += SEGMENT_RETRY;
        world.run();
        assert!(matches!(world.lanes[0].space(), Space::Ready));
        assert!(world.lanes[0].take().is_some());
    }

    /// Two shards whose logs begin.
    fn opening() -> World {
        let mut world = world(2);
        let shard = ShardManifest { snapshot: None, base_lsn: Lsn(0), first_generation: 1, first_segment: 1 };
        let (number, generation, last_txid, wall_ms) = (0, 1, 0, 1);
        let manifest = Manifest { number, database: [7; 16], generation, last_txid, wall_ms, shards: vec![shard; 2] };
        world.pool.handle(Order::Open(Opening { manifest, ends: Vec::new() }));
        for lane in &mut world.lanes {
            lane.prepare(1, 1, SEGMENT);
        }
        world
    }

    fn are_taken(world: &mut World) -> usize {
        world.lanes.iter_mut().filter_map(Lane::take).count()
    }

    #[test]
    fn first_segments_are_given_out_when_the_manifest_counts() {
        let mut given_out = 0;
        for at in 1..60 {
            let mut world = opening();
            world.sim.plan(Plan::Crash { at });
            for _ in 0..50 {
                world.now += Duration::from_millis(50);
                while let Ok(order) = world.orders.try_recv() {
                    world.pool.handle(order);
                }
                world.pool.step(world.now);
            }
            let taken = are_taken(&mut world);
            let left = Directory::open(world.sim.crashed(at), Path::new("/data"), Access::Inspect).unwrap();
            match taken {
                0 => {}
                2 => assert_eq!(left.log_of(0).len() + left.log_of(1).len(), 2),
                _ => panic!("{taken} of two"),
            }
            given_out += taken / 2;
        }
        assert!((1..50).contains(&given_out), "{given_out}");
    }

    #[test]
    fn log_begins_with_less_or_later_where_there_is_no_space() {
        // Space for nothing: at the first call that needs some, and at each later one, until there is some.
        for from in 1.. {
            let mut world = opening();
            world.sim.plan(Plan::Full { from });
            world.run();
            if !world.sim.has_failed() {
                break;
            }
            for lane in &mut world.lanes {
                let Space::Full(error) = lane.space() else { panic!("call {from}") };
                assert!(error.is_full() && error.to_string().contains("/data"), "{error}");
                assert!(lane.take().is_none());
            }
            world.sim.plan(Plan::Nothing);
            for _ in 0..2 {
                world.now += SEGMENT_RETRY;
                world.run();
            }
            assert_eq!(are_taken(&mut world), 2, "call {from}");
            let names = world.sim.paths();
            assert_eq!(names.iter().filter(|name| name.contains("MANIFEST")).count(), 1, "{names:?}");
            let left = Directory::open(world.sim.crashed(from), Path::new("/data"), Access::Inspect).unwrap();
            assert_eq!((left.log_of(0).len(), left.log_of(1).len()), (1, 1));
        }

        // Space for a little.
        let mut world = opening();
        world.sim.set_largest(SEGMENT - 1);
        world.run();
        for lane in &mut world.lanes {
            assert_eq!(lane.ready_bytes(), Some(SEGMENT_BYTES_MIN));
        }
        assert_eq!(are_taken(&mut world), 2);
        // Only the first may be shorter than it was asked for.
        world.lanes[0].prepare(1, 2, SEGMENT);
        world.run();
        let Space::Full(error) = world.lanes[0].space() else { panic!() };
        let text = error.to_string();
        assert!(
            text.contains(&format!(": {SEGMENT} bytes are needed, and ")) && text.contains("free in /data"),
            "{text}"
        );
    }

    #[test]
    fn failure_of_every_call_is_told_and_tried_again() {
        for errno in [libc::EIO, libc::ENOSPC] {
            for at in 1.. {
                let mut world = world(1);
                world.sim.plan(Plan::Fail { at, errno });
                world.lanes[0].prepare(1, 1, SEGMENT);
                world.run();
                if !world.sim.has_failed() {
                    assert!(at > 5);
                    break;
                }
                let Space::Full(error) = world.lanes[0].space() else { panic!("call {at}") };
                let text = error.to_string();
                assert!(text.contains("/data") && text.contains(&format!("os error {errno}")), "{text}");
                world.now += SEGMENT_RETRY;
                world.run();
                assert!(world.lanes[0].take().is_some(), "call {at}");
                for seed in 0..5 {
                    let left = world.sim.crashed(seed);
                    assert_eq!(left.get("/data/wal-1-0-000001.log").unwrap().len() as u64, SEGMENT, "call {at}");
                }
            }
        }
    }

    #[test]
    fn thread_prepares_calls_and_stops() {
        let path = std::env::temp_dir().join(format!("torc-pool-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let directory = Directory::open(crate::disk::Host, &path, Access::Serve).unwrap();
        let (thread, mut lanes) = start(directory, SIZE, &[0], |_| ()).unwrap();
        lanes[0].prepare(1, 1, SEGMENT);
        lanes[0].wait().unwrap();
        let segment = lanes[0].take().unwrap();
        assert_eq!(segment.file.metadata().unwrap().len(), SEGMENT);
        let (sender, answer) = mpsc::channel();
        thread.caller().call(move |directory| sender.send(directory.next_generation()).unwrap());
        assert_eq!(answer.recv(), Ok(2));
        assert!(thread.stop());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
