//! How many calls one target has at a time, where its config says `max_concurrent`, and who waits for a place.
//!
//! The queue is short and fair: who came first is first; who waits too long, or finds the queue full, is told at once, and goes
//! to the next target of its config. A long queue would only make every answer late. Who leaves gives its place in it up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    config::resilience::Queue,
    error::{Error, Kind},
};

/// The places of every target that has a limit. They outlive the conf.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<(u64, u32), Arc<Room>>>);

#[derive(Debug)]
struct Room {
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A place at a target, until it is dropped.
#[derive(Debug)]
#[must_use = "the place is taken while this lives"]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue, likewise.
struct Waiting<'r>(&'r AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// Takes one of the `most` places of the target `id`. Err: [`Kind::Full`], as none was free in time.
    pub async fn enter(&self, id: u64, most: u32, queue: Queue) -> Result<Place, Error> {
        let room = self.of(id, most);
        if let Some(place) = room.enter() {
            return Ok(place);
        }
        let waiting = Waiting(&room.waiting);
        if room.waiting.fetch_add(1, Ordering::Relaxed) >= queue.size {
            drop(waiting);
            return Err(full("its queue is full"));
        }
        match timeout(queue.wait, Arc::clone(&room.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            // Nobody closes it: only the time ran out.
            Ok(Err(_)) | Err(_) => Err(full("none became free in time")),
        }
    }

    /// The same, if one is free.
    pub fn enter_now(&self, id: u64, most: u32) -> Option<Place> {
        self.of(id, most).enter()
    }

    fn of(&self, id: u64, most: u32) -> Arc<Room> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (id, most);
        if rooms.len() >= MAX_IDLE && !rooms.contains_key(&key) {
            rooms.retain(|(_, most), room| {
                let taken = room.places.available_permits() < size(*most);
                taken || Arc::strong_count(room) > 1
            });
        }
        let room = rooms.entry(key).or_insert_with(|| {
            Arc::new(Room {
                places: Arc::new(Semaphore::new(size(most))),
                waiting: AtomicU32::new(0),
            })
        });
        Arc::clone(room)
    }
}

impl Room {
    fn enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _permit: permit })
    }
}

fn size(most: u32) -> usize {
    usize::try_from(most)
        .unwrap_or(usize::MAX)
        .clamp(1, Semaphore::MAX_PERMITS)
}

fn full(why: &str) -> Error {
    let message = format!("The target has as many calls as it may, and {why}.");
    Error::new(Kind::Full, message)
}

/// Targets with a limit; clients' configs name some too. Beyond this, those that nobody calls are forgotten.
const MAX_IDLE: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;

    const QUEUE: Queue = Queue {
        size: 2,
        wait: Duration::from_secs(60),
    };

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => Some(ready),
            Poll::Pending => None,
        }
    }

    fn kind(entered: Option<Result<Place, Error>>) -> Kind {
        entered.unwrap().unwrap_err().kind()
    }

    #[tokio::test]
    async fn the_first_in_the_queue_is_the_first_to_enter() {
        let places = Places::default();
        let one = places.enter(1, 1, QUEUE).await.unwrap();
        let mut second = pin!(places.enter(1, 1, QUEUE));
        let mut third = pin!(places.enter(1, 1, QUEUE));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        let mut fourth = pin!(places.enter(1, 1, QUEUE));
        assert_eq!(kind(poll(fourth.as_mut())), Kind::Full);
        assert!(places.enter(2, 1, QUEUE).await.is_ok(), "another target");
        drop(one);
        assert!(poll(third.as_mut()).is_none());
        let entered = poll(second.as_mut()).unwrap().unwrap();
        assert!(poll(third.as_mut()).is_none());
        drop(entered);
        assert!(poll(third.as_mut()).unwrap().is_ok());
    }

    #[tokio::test]
    async fn who_leaves_gives_up_its_place_in_the_queue() {
        let places = Places::default();
        let _one = places.enter(1, 1, QUEUE).await.unwrap();
        for _ in 0..10 {
            let mut leaves = pin!(places.enter(1, 1, QUEUE));
            assert!(poll(leaves.as_mut()).is_none());
        }
        // `leaves` was dropped each time.
        let mut stays = pin!(places.enter(1, 1, QUEUE));
        assert!(poll(stays.as_mut()).is_none());
        assert_eq!(places.of(1, 1).waiting.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_wait_has_an_end_and_no_queue_has_none() {
        let places = Places::default();
        let _one = places.enter(1, 1, QUEUE).await.unwrap();
        let short = Queue {
            wait: Duration::from_millis(1),
            ..QUEUE
        };
        let error = places.enter(1, 1, short).await.unwrap_err();
        assert_eq!((error.kind(), error.status().as_u16()), (Kind::Full, 503));
        let none = Queue { size: 0, ..QUEUE };
        assert_eq!(
            places.enter(1, 1, none).await.unwrap_err().kind(),
            Kind::Full
        );
        assert_eq!(places.of(1, 1).waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn targets_that_nobody_calls_are_forgotten() {
        let places = Places::default();
        let _busy = places.enter(0, 1, QUEUE).await.unwrap();
        for id in 1..5_000 {
            drop(places.enter(id, 1, QUEUE).await.unwrap());
        }
        let known = places.0.lock().unwrap();
        assert!(known.len() <= MAX_IDLE && known.contains_key(&(0, 1)));
    }
}
