//! Keys: any key that is pressed in the terminal stops the robot.
//!
//! The terminal gives keys as they are pressed, without showing them. Ctrl-C still ends the process; keys that would
//! suspend it or freeze its output are keys like any other, because a host that is suspended moves nothing and stops nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};
use waza_robot::StopSource;

/// How often the reader looks whether it is to end.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Reads keys until it is dropped; then the terminal is as it was.
pub(crate) struct Keys {
    terminal: Arc<OwnedFd>,
    before: Termios,
    ending: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Keys {
    /// Reads keys from standard input.
    pub fn watch_stdin(source: StopSource) -> Result<Self, String> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
        Self::watch(source, stdin)
    }

    /// Reads keys from a terminal.
    ///
    /// # Errors
    /// One line if it is no terminal, belongs to another job, or the system refuses.
    pub fn watch(source: StopSource, terminal: OwnedFd) -> Result<Self, String> {
        if !isatty(&terminal) {
            return Err("standard input is no terminal".into());
        }
        // Changing the terminal from the background would suspend the process.
        if tcgetpgrp(&terminal).is_ok_and(|foreground| foreground != getpgrp()) {
            return Err("this process runs in the background of its terminal".into());
        }
        let before = tcgetattr(&terminal).map_err(|error| error.to_string())?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        raw.input_modes -= InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VSUSP] = 0;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &raw).map_err(|error| error.to_string())?;

        let (terminal, ending) = (Arc::new(terminal), Arc::new(AtomicBool::new(false)));
        // From here on dropping it restores the terminal, whatever fails.
        let mut keys = Self { terminal: terminal.clone(), before, ending: ending.clone(), reader: None };
        let follow = move || {
            if let Err(error) = follow(&terminal, &source, &ending) {
                tracing::error!("keys cannot be read any more: {error}");
                // Nobody could stop the robot with a key now.
                source.stop();
            }
        };
        let reader = std::thread::Builder::new().name("waza-keys".into()).spawn(follow);
        keys.reader = Some(reader.map_err(|error| error.to_string())?);
        Ok(keys)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            // A panic of the thread has been printed already.
            let _ = reader.join();
        }
        // The terminal may be gone.
        let _ = tcsetattr(&*self.terminal, OptionalActions::Now, &self.before);
    }
}

fn follow(terminal: &OwnedFd, source: &StopSource, ending: &AtomicBool) -> Result<(), Errno> {
    if tcgetattr(terminal)?.local_modes.contains(LocalModes::ICANON) {
        return Err(Errno::NOTTY);
    }
    let mut is_seen = false;
    while !ending.load(Ordering::Acquire) {
        let mut readable = [PollFd::new(terminal, PollFlags::IN)];
        match poll(&mut readable, Some(&LOOK_EVERY)) {
            Ok(_) if readable[0].revents().is_empty() => {}
            Ok(_) => match read(terminal, &mut [0; 64])? {
                0 => return Err(Errno::NOTTY),
                _ => source.stop(),
            },
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        if !is_seen {
            source.alive();
            is_seen = true;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::time::{Duration, Instant};

    use rustix::io::write;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use waza_robot::observation::Measurement;
    use waza_robot::{Embodiment, Frame, Guard, Link, LinkError, Pace, Proprioception, Robot, RobotOptions};

    use super::*;

    struct Still;

    impl Link for Still {
        fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
            let joints = Proprioception { positions: vec![0.0; 6], velocities: vec![0.0; 6], efforts: vec![0.0; 6] };
            *into = Measurement { joints, samples: vec![vec![0.0; 6]] };
            Ok(())
        }

        fn write(&mut self, _: &[f32]) -> Result<(), LinkError> {
            Ok(())
        }

        fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
            Err(LinkError("it has no cameras".into()))
        }
    }

    fn robot() -> Robot {
        let kinematics = Box::new(|_: &[f32]| [0.2, 0.0, 0.2]);
        let options = RobotOptions { pace: Pace::RealTime, kinematics, guard: Guard::On };
        Robot::start(Arc::new(Embodiment::so101()), Box::new(Still), options).unwrap()
    }

    /// Both ends of a terminal: a person's, and a program's.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let path = ptsname(&person, Vec::new()).unwrap();
        let program = OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        (person, program.into())
    }

    /// Far longer than keys are looked at, for a machine under load.
    fn within_a_minute(what: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if what() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    fn is_line_wise(terminal: &OwnedFd) -> bool {
        tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    #[test]
    fn a_key_stops_the_robot_without_a_line_end_and_the_terminal_is_given_back() {
        let (robot, (person, program)) = (robot(), terminal());
        let same = program.try_clone().unwrap();
        assert!(is_line_wise(&same));
        let keys = Keys::watch(robot.declare_stop_source("key"), program).unwrap();
        assert!(within_a_minute(|| robot.stop_sources()[0].seen));
        assert!(!is_line_wise(&same) && !robot.is_stopped());
        write(&person, b" ").unwrap();
        assert!(within_a_minute(|| robot.is_stopped()));
        drop(keys);
        assert!(is_line_wise(&same));
    }

    #[test]
    fn keys_that_would_suspend_the_process_or_freeze_its_output_stop_the_robot() {
        for key in [b"\x1a", b"\x13"] {
            let (robot, (person, program)) = (robot(), terminal());
            let _keys = Keys::watch(robot.declare_stop_source("key"), program).unwrap();
            write(&person, key).unwrap();
            assert!(within_a_minute(|| robot.is_stopped()), "{key:?}");
        }
    }

    #[test]
    fn a_terminal_that_goes_away_stops_the_robot() {
        let (robot, (person, program)) = (robot(), terminal());
        let _keys = Keys::watch(robot.declare_stop_source("key"), program).unwrap();
        assert!(within_a_minute(|| robot.stop_sources()[0].seen));
        drop(person);
        assert!(within_a_minute(|| robot.is_stopped()));
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let robot = robot();
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = Keys::watch(robot.declare_stop_source("key"), file.into());
        assert_eq!(refused.err().unwrap(), "standard input is no terminal");
        assert!(!robot.stop_sources()[0].seen);
    }
}
