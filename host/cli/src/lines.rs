//! Lines for whoever looks, of a host that works: nobody waits until they are printed.
//!
//! A reader that stops reading must not keep the robot's API from answering, nor its control loop from its next tick. So
//! lines go through a bounded queue to a thread of their own, and are lost when it is full; how many is said in their place.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Lines that wait for a reader.
const MOST_WAITING: usize = 1024;

/// How often a full queue is looked at by whoever leaves.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where lines go.
#[derive(Clone)]
pub struct Lines {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

enum Item {
    Line(String),
    /// Answered when all before it is printed.
    Mark(std::sync::mpsc::Sender<()>),
}

impl Lines {
    /// Prints on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn to(out: impl Write + Send + 'static) -> Result<Self> {
        let (queue, items) = sync_channel(MOST_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let lines = Self { queue, lost: lost.clone(), closed: Arc::default() };
        let print = move || print(out, &items, &lost);
        std::thread::Builder::new().name("waza-lines".into()).spawn(print).context("starting a thread")?;
        Ok(lines)
    }

    /// A line, or what of it can be printed without harm.
    pub fn say(&self, line: impl ToString) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if self.queue.try_send(Item::Line(line.to_string())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing that is said from here on is printed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Waits until all is printed that was said, or for `within` if nobody reads.
    pub fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (mark, printed) = channel();
        let mut item = Item::Mark(mark);
        while let Err(TrySendError::Full(again)) = self.queue.try_send(item) {
            if Instant::now() > deadline {
                return;
            }
            item = again;
            std::thread::sleep(LOOK_EVERY);
        }
        // What is not read by now is not waited for.
        let _ = printed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn print(mut out: impl Write, items: &Receiver<Item>, lost: &AtomicU64) {
    for item in items {
        // There may be nobody to read it.
        let _ = match item {
            Item::Line(line) => {
                let printed = writeln!(out, "{}", plain(&line));
                match lost.swap(0, Ordering::Relaxed) {
                    0 => printed,
                    lost => printed.and_then(|()| writeln!(out, "({lost} lines are lost: they were not read in time)")),
                }
                .and_then(|()| out.flush())
            }
            Item::Mark(printed) => {
                // Whoever waited may have left.
                let _ = printed.send(());
                Ok(())
            }
        };
    }
}

/// Text from strangers as one line that does nothing to a terminal: control characters are spelled out.
pub fn plain(text: &str) -> Cow<'_, str> {
    let acts = |letter: char| letter.is_control() && letter != '\t';
    if !text.contains(acts) {
        return text.into();
    }
    let mut spelled = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        // Writing to a string cannot fail.
        let _ = if acts(letter) { write!(spelled, "{}", letter.escape_default()) } else { write!(spelled, "{letter}") };
    }
    spelled.into()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Condvar, Mutex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A reader that reads nothing until it is told to.
    #[derive(Clone, Default)]
    struct Reader(Arc<Desk>);

    #[derive(Default)]
    struct Desk {
        reads: Mutex<bool>,
        begun: Condvar,
        read: Mutex<Vec<u8>>,
    }

    impl Reader {
        fn begin(&self) {
            *self.0.reads.lock().unwrap() = true;
            self.0.begun.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.read.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.begun.wait_while(self.0.reads.lock().unwrap(), |reads| !*reads).unwrap());
            self.0.read.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_lines_that_are_lost_are_counted() {
        let reader = Reader::default();
        let lines = Lines::to(reader.clone()).unwrap();
        // One is being written, as many as fit wait.
        (0..MOST_WAITING + 100).for_each(|number| lines.say(number));
        lines.flush(Duration::from_millis(50));
        assert_eq!(reader.text(), "");
        reader.begin();
        lines.flush(PATIENCE);
        let text = reader.text();
        let printed = text.lines().filter(|line| line.parse::<usize>().is_ok()).count();
        let lost = MOST_WAITING + 100 - printed;
        assert!(text.starts_with("0\n") && (99..=100).contains(&lost), "{lost}");
        assert!(text.contains(&format!("\n({lost} lines are lost")), "{text}");
    }

    #[test]
    fn what_strangers_say_does_nothing_to_a_terminal() {
        let reader = Reader::default();
        reader.begin();
        let lines = Lines::to(reader.clone()).unwrap();
        lines.say("a\ttab, \u{1b}[2Ja red \u{9b}31m line\nand another");
        lines.flush(PATIENCE);
        assert_eq!(reader.text(), "a\ttab, \\u{1b}[2Ja red \\u{9b}31m line\\nand another\n");
    }
}
