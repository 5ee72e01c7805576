//! Where a skill waits for the host's decision, and what it is told meanwhile. Whoever stops waiting leaves nothing behind.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Those who wait for something.
#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl Waiting {
    /// Waits, under the same number as before if there is one.
    fn add(&mut self, number: Option<u64>, waker: &Waker) -> u64 {
        let number = number.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.wakers.insert(number, waker.clone());
        number
    }
}

/// Something that is so, or is not.
#[derive(Default)]
pub(crate) struct Flag(Mutex<(bool, Waiting)>);

impl Flag {
    pub fn set(&self, to: bool) {
        let mut state = self.0.lock();
        state.0 = to;
        let woken = if to { std::mem::take(&mut state.1.wakers) } else { BTreeMap::new() };
        drop(state);
        woken.into_values().for_each(Waker::wake);
    }

    pub fn is_set(&self) -> bool {
        self.0.lock().0
    }

    /// Waits until it is set.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        FlagSet { flag: self, number: None }
    }
}

struct FlagSet<'a> {
    flag: &'a Flag,
    number: Option<u64>,
}

impl Future for FlagSet<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.flag.0.lock();
        if state.0 {
            return Poll::Ready(());
        }
        let number = state.1.add(self.number, context.waker());
        drop(state);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for FlagSet<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.flag.0.lock().1.wakers.remove(&number);
        }
    }
}

/// Where a skill waits while the host decides whether another version goes on from its checkpoint.
#[derive(Default)]
pub(crate) struct SafePoint(Mutex<Waiting>);

impl SafePoint {
    /// Waits at a checkpoint until [`SafePoint::pass`]. Whoever is dropped is not there any more.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        AtSafePoint { point: self, number: None }
    }

    /// Whether anybody waits.
    pub fn is_reached(&self) -> bool {
        !self.0.lock().wakers.is_empty()
    }

    /// Lets everybody who waits go on.
    pub fn pass(&self) {
        let passed = std::mem::take(&mut self.0.lock().wakers);
        passed.into_values().for_each(Waker::wake);
    }
}

struct AtSafePoint<'a> {
    point: &'a SafePoint,
    number: Option<u64>,
}

impl Future for AtSafePoint<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.point.0.lock();
        if self.number.is_some_and(|number| !waiting.wakers.contains_key(&number)) {
            return Poll::Ready(());
        }
        let number = waiting.add(self.number, context.waker());
        drop(waiting);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for AtSafePoint<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.point.0.lock().wakers.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn all_who_wait_at_a_safe_point_go_on_together_and_who_comes_later_waits() {
        let point = SafePoint::default();
        let (mut first, mut second) = (pin!(point.wait()), pin!(point.wait()));
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        point.pass();
        let mut third = pin!(point.wait());
        assert_eq!(third.as_mut().now_or_never(), None);
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(()), Some(())));
        assert!(point.is_reached());
    }

    #[test]
    fn who_gives_up_waiting_at_a_safe_point_is_not_there_any_more() {
        let point = SafePoint::default();
        assert_eq!(point.wait().now_or_never(), None);
        assert!(!point.is_reached());
    }

    #[test]
    fn everybody_who_waits_for_a_flag_is_woken_when_it_is_set() {
        let flag = Flag::default();
        let (mut first, mut second) = (pin!(flag.wait()), pin!(flag.wait()));
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        flag.set(true);
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(()), Some(())));
        flag.set(false);
        assert_eq!(flag.wait().now_or_never(), None);
    }
}
