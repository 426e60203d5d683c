//! Hit ratios of the marks, driven by a hand over a plain table, against exact LRU and S3-FIFO as published, on traces
//! made from a seed.
//!
//! The short form runs with the other tests. The long one prints a table of figures:
//!
//!     cargo test --release -p torc-engine eviction::simulation -- --ignored --nocapture

use std::collections::VecDeque;

use super::*;

const NOWHERE: u32 = u32::MAX;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ranks with probability proportional to 1 / rank^exponent (Vose's alias method).
struct Zipf {
    stay: Vec<f64>,
    other: Vec<u32>,
}

impl Zipf {
    fn new(keys: usize, exponent: f64) -> Zipf {
        let weights: Vec<f64> = (1..=keys).map(|rank| (rank as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        let mut stay: Vec<f64> = weights.iter().map(|weight| weight * keys as f64 / sum).collect();
        let mut other = vec![0; keys];
        let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..keys).partition(|&at| stay[at] < 1.0);
        while let (Some(&below), Some(&above)) = (low.last(), high.last()) {
            low.pop();
            other[below] = above as u32;
            stay[above] -= 1.0 - stay[below];
            if stay[above] < 1.0 {
                high.pop();
                low.push(above);
            }
        }
        low.into_iter().chain(high).for_each(|at| stay[at] = 1.0);
        Zipf { stay, other }
    }

    fn next(&self, random: &mut Random) -> usize {
        let at = random.below(self.stay.len());
        if random.unit() < self.stay[at] { at } else { self.other[at] as usize }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trace {
    /// Zipf with this exponent, in hundredths.
    Zipf(u32),
    /// Zipf 0.99, and from time to time a run over keys that nobody asks for otherwise.
    Scans,
    /// Round and round over a few more keys than fit.
    Loop,
    /// Zipf 0.99, and now and then the most popular keys are replaced.
    Shifting,
    /// The same in smaller steps, more often: a hundredth of all keys after a twentieth as many requests as there are keys.
    Drifting,
}

/// Keys that are asked for, one after another, and how many different ones there may be.
pub fn trace(kind: Trace, keys: usize, capacity: usize, requests: usize) -> (Vec<u32>, usize) {
    let mut random = Random::new(7);
    let mut asked = Vec::with_capacity(requests);
    let mut most = keys;
    match kind {
        Trace::Zipf(exponent) => {
            let zipf = Zipf::new(keys, f64::from(exponent) / 100.0);
            asked.extend((0..requests).map(|_| zipf.next(&mut random) as u32));
        }
        Trace::Scans => {
            let zipf = Zipf::new(keys, 0.99);
            let (mut scanned, run) = (0, capacity / 2);
            most = keys * 3;
            while asked.len() < requests {
                // A third of the requests belong to scans.
                asked.extend((0..2 * run).map(|_| zipf.next(&mut random) as u32));
                asked.extend((scanned..scanned + run).map(|key| (keys + key % (2 * keys)) as u32));
                scanned += run;
            }
        }
        Trace::Loop => {
            let round = (capacity + capacity / 10).max(2);
            most = most.max(round);
            asked.extend((0..requests).map(|at| (at % round) as u32));
        }
        Trace::Shifting => {
            let zipf = Zipf::new(keys, 0.99);
            // Twenty times the first fiftieth of all ranks go to other keys at once.
            asked.extend((0..requests).map(|at| {
                let shift = at / (requests / 20).max(1) * (keys / 50);
                ((zipf.next(&mut random) + shift) % keys) as u32
            }));
        }
        Trace::Drifting => {
            let zipf = Zipf::new(keys, 0.99);
            asked.extend((0..requests).map(|at| {
                let shift = at / (keys / 20) * (keys / 100);
                ((zipf.next(&mut random) + shift) % keys) as u32
            }));
        }
    }
    (asked, most)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Percent of requests that found their key, after the first third.
    pub hit_ratio: f64,
    pub slots_per_eviction: f64,
    pub state_bytes: usize,
}

/// Counts hits after the first third of a trace, which fills the cache.
struct Score {
    from: usize,
    at: usize,
    hits: usize,
}

impl Score {
    fn new(requests: usize) -> Score {
        Score { from: requests / 3, at: 0, hits: 0 }
    }

    fn note(&mut self, hit: bool) {
        self.hits += (hit && self.at >= self.from) as usize;
        self.at += 1;
    }

    fn percent(&self) -> f64 {
        self.hits as f64 * 100.0 / (self.at - self.from) as f64
    }
}

/// A table in which keys lie in the order of their hashes, more or less, and a hand that goes round.
pub struct Hand {
    pub marks: Marks,
    /// Key and mark.
    pub slots: Vec<(u32, u8)>,
    pub places: Vec<u32>,
    pub len: usize,
    hand: usize,
    sweep: Option<usize>,
    pub now: Millis,
    random: Random,
    looked_at: usize,
    evictions: usize,
}

impl Hand {
    pub fn new(policy: Policy, keys: usize, capacity: usize) -> Hand {
        Hand {
            marks: Marks::new(policy, LfuSettings::default()),
            slots: vec![(NOWHERE, 0); capacity * 5 / 4 + 2],
            places: vec![NOWHERE; keys],
            len: 0,
            hand: 0,
            sweep: None,
            now: Millis(1_000_000),
            random: Random::new(3),
            looked_at: 0,
            evictions: 0,
        }
    }

    /// Keys that are there, with their marks.
    pub fn keys(&self) -> impl Iterator<Item = &(u32, u8)> {
        self.slots.iter().filter(|slot| slot.0 != NOWHERE)
    }

    fn hash(key: u32) -> u64 {
        mix(u64::from(key) + 1)
    }

    pub fn get(&mut self, key: u32) -> bool {
        let Some(slot) = self.slots.get_mut(self.places[key as usize] as usize) else { return false };
        slot.1 = self.marks.hit(slot.1, Self::hash(key), || self.random.next());
        true
    }

    pub fn insert(&mut self, key: u32) {
        let mut at = (((Self::hash(key) >> 32) * self.slots.len() as u64) >> 32) as usize;
        while self.slots[at].0 != NOWHERE {
            at = (at + 1) % self.slots.len();
        }
        self.slots[at] = (key, self.marks.insert(Self::hash(key), self.now));
        self.places[key as usize] = at as u32;
        self.len += 1;
    }

    pub fn remove(&mut self, key: u32) -> bool {
        let Some(slot) = self.slots.get_mut(self.places[key as usize] as usize) else { return false };
        self.marks.remove(slot.1);
        slot.0 = NOWHERE;
        self.places[key as usize] = NOWHERE;
        self.len -= 1;
        true
    }

    /// Evicts one key. The hand looks at no more slots than a few passes have.
    pub fn evict(&mut self) {
        self.marks.aim();
        for step in 1.. {
            assert!(step < self.slots.len() * 10, "no victim in ten passes");
            if step % self.slots.len() == 0 {
                self.marks.aim();
            }
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let (key, mark) = self.slots[at];
            if key == NOWHERE {
                continue;
            }
            self.looked_at += 1;
            if self.marks.wanted().expect("there are keys")[mark as usize].get() == KEEP {
                continue;
            }
            match self.marks.judge(mark) {
                Judgement::Keep => {}
                Judgement::Remark(mark) => self.slots[at].1 = mark,
                Judgement::Evict => {
                    self.marks.evicted(mark, || Self::hash(key));
                    self.slots[at].0 = NOWHERE;
                    self.places[key as usize] = NOWHERE;
                    self.len -= 1;
                    self.evictions += 1;
                    return;
                }
            }
        }
    }

    /// Goes on with a sweep, if one is due or under way.
    pub fn sweep(&mut self, slots: usize) {
        if self.sweep.is_none() && self.marks.wants_sweep() {
            self.marks.sweep_begins();
            self.sweep = Some(0);
        }
        let Some(from) = self.sweep else { return };
        let to = from.saturating_add(slots).min(self.slots.len());
        for slot in self.slots[from..to].iter_mut().filter(|slot| slot.0 != NOWHERE) {
            slot.1 = self.marks.tidy(slot.1);
        }
        self.sweep = (to < self.slots.len()).then_some(to);
    }

    pub fn tick(&mut self, ms: u64) {
        self.now.0 += ms;
        self.marks.tick(self.now);
    }
}

/// Deletes and expirations mixed into a trace: every so many requests a key, asked for lately, is removed.
fn run_hand(policy: Policy, asked: &[u32], keys: usize, capacity: usize, removes: bool) -> Outcome {
    let mut hand = Hand::new(policy, keys, capacity);
    let mut score = Score::new(asked.len());
    for (at, &key) in asked.iter().enumerate() {
        let hit = hand.get(key);
        score.note(hit);
        if !hit {
            if hand.len >= capacity {
                hand.evict();
            }
            hand.insert(key);
        }
        if removes && at % 10 == 9 {
            hand.remove(asked[at - mix(at as u64) as usize % at.min(capacity)]);
        }
        // 100,000 requests a second.
        if at % 10_000 == 0 {
            hand.tick(100);
        }
        hand.sweep(4);
    }
    Outcome {
        hit_ratio: score.percent(),
        slots_per_eviction: hand.looked_at as f64 / hand.evictions.max(1) as f64,
        state_bytes: hand.marks.memory_bytes(),
    }
}

/// LRU by the book: a list through all keys.
fn run_lru(asked: &[u32], keys: usize, capacity: usize, removes: bool) -> f64 {
    // The last place is the head: its next is the newest, its previous the oldest.
    let mut next = vec![NOWHERE; keys + 1];
    let mut previous = vec![NOWHERE; keys + 1];
    (next[keys], previous[keys]) = (keys as u32, keys as u32);
    let mut score = Score::new(asked.len());
    let mut len = 0;
    fn unlink(next: &mut [u32], previous: &mut [u32], key: u32) {
        let (after, before) = (next[key as usize], previous[key as usize]);
        next[before as usize] = after;
        previous[after as usize] = before;
        next[key as usize] = NOWHERE;
    }
    for (at, &key) in asked.iter().enumerate() {
        let hit = next[key as usize] != NOWHERE;
        score.note(hit);
        if hit {
            unlink(&mut next, &mut previous, key);
        } else if len == capacity {
            let oldest = previous[keys];
            unlink(&mut next, &mut previous, oldest);
        } else {
            len += 1;
        }
        let newest = next[keys];
        (next[key as usize], previous[key as usize]) = (newest, keys as u32);
        (next[keys], previous[newest as usize]) = (key, key);
        if removes && at % 10 == 9 {
            let removed = asked[at - mix(at as u64) as usize % at.min(capacity)];
            if next[removed as usize] != NOWHERE {
                unlink(&mut next, &mut previous, removed);
                len -= 1;
            }
        }
    }
    score.percent()
}

/// S3-FIFO as in the paper, with exact queues and an exact ghost.
fn run_s3fifo(asked: &[u32], keys: usize, capacity: usize) -> f64 {
    let small_max = (capacity / 10).max(1);
    let ghost_max = capacity - small_max;
    let (mut small, mut main) = (VecDeque::new(), VecDeque::new());
    let mut ghost: VecDeque<(u32, u32)> = VecDeque::new();
    // Reads of a key that is there, 255 if it is not; when it became a ghost, 0 if it is none.
    let (mut reads, mut ghost_at) = (vec![u8::MAX; keys], vec![0u32; keys]);
    let mut score = Score::new(asked.len());
    let (mut evicted, mut clock) = (false, 0);
    for &key in asked {
        let hit = reads[key as usize] != u8::MAX;
        score.note(hit);
        if hit {
            reads[key as usize] = (reads[key as usize] + 1).min(3);
            continue;
        }
        let remembered = std::mem::take(&mut ghost_at[key as usize]) != 0;
        while small.len() + main.len() >= capacity {
            evicted = true;
            if main.len() > capacity - small_max || small.is_empty() {
                let victim: u32 = main.pop_front().expect("not empty");
                match reads[victim as usize] {
                    0 => reads[victim as usize] = u8::MAX,
                    _ => {
                        reads[victim as usize] -= 1;
                        main.push_back(victim);
                    }
                }
            } else {
                let victim: u32 = small.pop_front().expect("not empty");
                if reads[victim as usize] >= 2 {
                    reads[victim as usize] = 0;
                    main.push_back(victim);
                } else {
                    reads[victim as usize] = u8::MAX;
                    clock += 1;
                    ghost_at[victim as usize] = clock;
                    ghost.push_back((victim, clock));
                    if ghost.len() > ghost_max
                        && let Some((old, at)) = ghost.pop_front()
                        && ghost_at[old as usize] == at
                    {
                        ghost_at[old as usize] = 0;
                    }
                }
            }
        }
        reads[key as usize] = 0;
        let filled = !evicted && small.len() >= small_max;
        if remembered || filled { main.push_back(key) } else { small.push_back(key) }
    }
    score.percent()
}

const TRACES: [Trace; 6] =
    [Trace::Zipf(70), Trace::Zipf(99), Trace::Scans, Trace::Loop, Trace::Shifting, Trace::Drifting];

/// The promises, at a size that a debug build can run: S3-FIFO is above LRU, and no more than a point below where the most
/// popular keys are replaced all at once.
#[test]
fn hit_ratios_are_those_promised() {
    const KEYS: usize = 10_000;
    for kind in TRACES {
        for capacity in [200, 1000] {
            for removes in [false, true] {
                let (asked, most) = trace(kind, KEYS, capacity, 60_000);
                let lru = run_lru(&asked, most, capacity, removes);
                let our_lru = run_hand(Policy::AllKeysLru, &asked, most, capacity, removes);
                let our_s3fifo = run_hand(Policy::AllKeysS3Fifo, &asked, most, capacity, removes);
                let name = format!("{kind:?} {capacity} {removes}: {lru:.2} {our_lru:?} {our_s3fifo:?}");
                // In a small loop any choice but the oldest is better.
                let above_max = if kind == Trace::Loop { 100.0 } else { 0.5 };
                assert!((-0.5..above_max).contains(&(our_lru.hit_ratio - lru)), "{name}");
                let shifts = matches!(kind, Trace::Shifting | Trace::Drifting);
                assert!(our_s3fifo.hit_ratio >= lru - if shifts { 1.0 } else { 0.0 }, "{name}");
                assert!(our_lru.slots_per_eviction < 50.0 && our_s3fifo.slots_per_eviction < 100.0, "{name}");
                if !removes {
                    let s3fifo = run_s3fifo(&asked, most, capacity);
                    assert!(our_s3fifo.hit_ratio > s3fifo - 1.0, "{name} {s3fifo:.2}");
                }
                if (kind, capacity, removes) == (Trace::Zipf(99), 200, false) {
                    assert!(our_s3fifo.hit_ratio > lru + 5.0, "{name}");
                }
            }
        }
    }
}

/// Prints the figures behind the constants of this module.
#[test]
#[ignore = "takes minutes, in a release build"]
fn table_of_hit_ratios() {
    const KEYS: usize = 1_000_000;
    println!(
        "trace cache | exact LRU, allkeys-lru | S3-FIFO, allkeys-s3fifo | allkeys-lfu | slots per victim: lru s3fifo lfu"
    );
    for kind in TRACES {
        for capacity in [300, KEYS / 1000, KEYS / 100, KEYS / 10] {
            // With deletions only the middle.
            for removes in if capacity == KEYS / 100 { &[false, true][..] } else { &[false] } {
                let removes = *removes;
                let (asked, most) = trace(kind, KEYS, capacity, (capacity * 50).clamp(2_000_000, 5_000_000));
                let lru = run_lru(&asked, most, capacity, removes);
                let s3fifo = run_s3fifo(&asked, most, capacity);
                let [our_lru, our_s3fifo, lfu] = [Policy::AllKeysLru, Policy::AllKeysS3Fifo, Policy::AllKeysLfu]
                    .map(|policy| run_hand(policy, &asked, most, capacity, removes));
                println!(
                    "{:10} {capacity:6}{} | {lru:5.2} {:5.2} | {s3fifo:5.2} {:5.2} | {:5.2} | {:4.0} {:4.0} {:4.0} | {} bytes",
                    format!("{kind:?}"),
                    if removes { " del" } else { "    " },
                    our_lru.hit_ratio,
                    our_s3fifo.hit_ratio,
                    lfu.hit_ratio,
                    our_lru.slots_per_eviction,
                    our_s3fifo.slots_per_eviction,
                    lfu.slots_per_eviction,
                    our_s3fifo.state_bytes,
                );
            }
        }
    }
}
