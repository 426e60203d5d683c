//! The queue keeps order and loses nothing, and a parked consumer is always woken: under loom for every schedule of a
//! small case, and with real threads for many items.

use super::{Parking, queue};

/// What a parked thread waits for: like a completion in its ring, a wake-up stays until it is taken.
#[cfg(loom)]
type Bell = super::Arc<loom::sync::Notify>;

/// Every schedule with up to three preemptions of two items through one place, with a consumer that parks when it finds
/// nothing. A lost wake-up shows as a deadlock, a lost or doubled item as a wrong number, an unsynchronized slot as loom's own error.
#[cfg(loom)]
#[test]
fn mesh_model_no_loss_and_no_lost_wakeup() {
    use super::Arc;
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let parking = Arc::new(Parking::default());
        let bell: Bell = Arc::new(loom::sync::Notify::new());
        let (mut producer, mut consumer) = queue::<Box<usize>>(1);
        let sleeper = {
            let (parking, bell) = (parking.clone(), bell.clone());
            loom::thread::spawn(move || {
                let mut expected = 0;
                while expected < 2 {
                    match consumer.pop() {
                        Some(item) => {
                            assert_eq!(*item, expected);
                            expected += 1;
                        }
                        None => {
                            parking.announce();
                            if consumer.is_empty() {
                                bell.wait();
                            }
                            parking.retract();
                        }
                    }
                }
            })
        };
        for item in 0..2 {
            let mut item = Box::new(item);
            while let Err(back) = producer.push(item) {
                item = back;
                loom::thread::yield_now();
            }
            if parking.claim() {
                bell.notify();
            }
        }
        sleeper.join().unwrap();
    });
}

/// Two senders, each with its own queue, and one sleeper: one wake-up may stand for both.
#[cfg(loom)]
#[test]
fn mesh_model_two_senders_wake_one_sleeper() {
    use super::Arc;
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let parking = Arc::new(Parking::default());
        let bell: Bell = Arc::new(loom::sync::Notify::new());
        let (mut first, mut from_first) = queue::<usize>(1);
        let (mut second, mut from_second) = queue::<usize>(1);
        let sleeper = {
            let (parking, bell) = (parking.clone(), bell.clone());
            loom::thread::spawn(move || {
                let mut received = 0;
                while received < 2 {
                    let items = [from_first.pop(), from_second.pop()];
                    received += items.iter().flatten().count();
                    if received < 2 && items.iter().all(Option::is_none) {
                        parking.announce();
                        if from_first.is_empty() && from_second.is_empty() {
                            bell.wait();
                        }
                        parking.retract();
                    }
                }
            })
        };
        let sender = {
            let (parking, bell) = (parking.clone(), bell.clone());
            loom::thread::spawn(move || {
                first.push(1).unwrap();
                if parking.claim() {
                    bell.notify();
                }
            })
        };
        second.push(2).unwrap();
        if parking.claim() {
            bell.notify();
        }
        sender.join().unwrap();
        sleeper.join().unwrap();
    });
}

#[cfg(not(loom))]
mod threads {
    use super::super::{Arc, mesh};
    use super::*;
    use std::thread;
    use torc_engine::id::ShardId;

    #[test]
    fn mesh_queue_is_bounded_and_keeps_order() {
        let (mut producer, mut consumer) = queue(4);
        assert!(consumer.is_empty());
        for round in 0..10 {
            for item in 0..4 {
                assert_eq!(producer.push(round * 4 + item), Ok(()));
            }
            assert!(!producer.has_room());
            assert_eq!(producer.push(99), Err(99));
            for item in 0..4 {
                assert_eq!(consumer.pop(), Some(round * 4 + item));
            }
            assert_eq!(consumer.pop(), None);
        }
    }

    #[test]
    fn mesh_queue_drops_what_was_not_taken() {
        let item = Arc::new(());
        let (mut producer, consumer) = queue(4);
        for _ in 0..3 {
            producer.push(item.clone()).unwrap();
        }
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn mesh_stress_with_parking() {
        const ITEMS: usize = 200_000;
        let parking = Arc::new(Parking::default());
        let (mut producer, mut consumer) = queue(64);
        let sleeper = {
            let parking = parking.clone();
            thread::spawn(move || {
                let mut expected = 0;
                while expected < ITEMS {
                    match consumer.pop() {
                        Some(item) => {
                            assert_eq!(item, expected);
                            expected += 1;
                        }
                        None => {
                            parking.announce();
                            if consumer.is_empty() {
                                thread::park();
                            }
                            parking.retract();
                        }
                    }
                }
            })
        };
        for item in 0..ITEMS {
            while producer.push(item).is_err() {
                thread::yield_now();
            }
            if parking.claim() {
                sleeper.thread().unpark();
            }
        }
        sleeper.join().unwrap();
    }

    #[test]
    fn mesh_port_wakes_only_the_parked() {
        let mut ports = mesh::<u32>(3, 4);
        let (one, two) = (ShardId(1), ShardId(2));
        assert!(ports[1].announce_park());
        ports[0].push(one, 7).unwrap();
        ports[0].push(one, 8).unwrap();
        ports[0].push(two, 9).unwrap();
        assert_eq!(ports[0].poll_wake(), Some(one), "parked");
        assert_eq!(ports[0].poll_wake(), None, "2 is awake, 1 was claimed");
        assert!(!ports[1].announce_park(), "there is something to do");
        assert_eq!(ports[1].pop(ShardId(0)), Some(7));
        assert_eq!(ports[1].pop(ShardId(0)), Some(8));
        assert_eq!(ports[1].pop(ShardId(0)), None);
        assert!(ports[1].announce_park());
        assert_eq!(ports[0].push(ShardId(0), 1), Err(1), "never to oneself");
    }
}
