//! What the targets have in common.

use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzzer_mutate;
use tempfile::TempDir;
use waza_robot::{Embodiment, Play};

/// One in so many mutations begins anew, with something real.
const ANEW: u32 = 512;

/// One in so many puts another number where there is one: in text, changing bytes rarely makes one that is far off.
const NUMBER: u32 = 8;

const NUMBERS: [&str; 12] =
    ["0", "-1", "2", "0.5", "1e-9", "1e-30", "1e30", "nan", "inf", "65536", "4294967296", "18446744073709551615"];

/// The folder that this one is in.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Changes data, which at the beginning is something real: so nobody needs to bring a corpus.
pub fn begin_with(real: &[impl AsRef<[u8]>], data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let nth = (seed / ANEW) as usize;
    if size <= 1 || seed.is_multiple_of(ANEW) {
        return put(real[nth % real.len()].as_ref(), data, max_size);
    }
    if seed.is_multiple_of(NUMBER) {
        let is_of_number = |byte: &u8| byte.is_ascii_digit() || b"+-.e_".contains(byte);
        let begins = |at: &usize| data[*at].is_ascii_digit() && (*at == 0 || !is_of_number(&data[at - 1]));
        let begin = (0..size).filter(begins).cycle().nth(nth % 1024);
        if let Some(begin) = begin {
            let length = data[begin..size].iter().take_while(|byte| is_of_number(byte)).count();
            let number = NUMBERS[nth % NUMBERS.len()].as_bytes();
            let changed = [&data[..begin], number, &data[begin + length..size]].concat();
            return put(&changed, data, max_size);
        }
    }
    fuzzer_mutate(data, size, max_size)
}

fn put(bytes: &[u8], data: &mut [u8], max_size: usize) -> usize {
    let size = bytes.len().min(max_size);
    data[..size].copy_from_slice(&bytes[..size]);
    size
}

/// A file that holds what it is told to.
pub struct Scratch {
    _folder: TempDir,
    path: PathBuf,
}

impl Scratch {
    /// A file of that name.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join(name), _folder: folder }
    }

    /// Where it is, with these bytes in it.
    pub fn holding(&self, bytes: &[u8]) -> &Path {
        std::fs::write(&self.path, bytes).unwrap();
        &self.path
    }
}

/// A folder of the repository, in which each of some files in turn is replaced.
pub struct Folder {
    /// One a file, with links to all others.
    copies: Vec<(TempDir, &'static str)>,
    originals: Vec<Vec<u8>>,
}

impl Folder {
    /// The folder `source` of the repository with these files.
    pub fn of(source: &str, files: &[&'static str]) -> Self {
        let source = repository().join(source);
        let copy = |replaced: &&'static str| {
            let folder = tempfile::tempdir().unwrap();
            link(&source, folder.path());
            std::fs::remove_file(folder.path().join(replaced)).unwrap();
            (folder, *replaced)
        };
        let originals = files.iter().map(|file| std::fs::read(source.join(file)).unwrap()).collect();
        Self { copies: files.iter().map(copy).collect(), originals }
    }

    /// What the files are in the repository.
    pub fn originals(&self) -> &[Vec<u8>] {
        &self.originals
    }

    /// Opens it once a file, which then holds these bytes.
    pub fn with(&self, bytes: &[u8], open: impl Fn(&Path)) {
        for (folder, replaced) in &self.copies {
            std::fs::write(folder.path().join(replaced), bytes).unwrap();
            open(folder.path());
        }
    }
}

/// Links every file below `from` into folders of the same names below `to`.
fn link(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            link(&path, &target);
        } else {
            std::os::unix::fs::symlink(path.canonicalize().unwrap(), target).unwrap();
        }
    }
}

/// A message of the robot link.
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    [(payload.len() as u32 + 1).to_le_bytes().as_slice(), &[kind], payload].concat()
}

/// Fails where a robot may do more than another.
pub fn is_within(this: &Embodiment, other: &Embodiment) {
    for (is, was) in this.joints.iter().zip(&other.joints) {
        assert!(is.position[0] >= was.position[0] && is.position[1] <= was.position[1], "{is:?}");
        assert!(
            is.velocity <= was.velocity && is.acceleration <= was.acceleration && is.effort <= was.effort,
            "{is:?}"
        );
        assert!(was.jerk.is_none_or(|was| is.jerk.is_some_and(|is| is <= was)), "{is:?}");
    }
    for axis in 0..3 {
        assert!(this.workspace.min[axis] >= other.workspace.min[axis], "{:?}", this.workspace);
        assert!(this.workspace.max[axis] <= other.workspace.max[axis], "{:?}", this.workspace);
    }
    assert!(this.forbidden.starts_with(&other.forbidden));
    let at_most = |is: Option<f32>, was: Option<f32>| was.is_none_or(|was| is.is_some_and(|is| is <= was));
    assert!(at_most(this.command_age_s, other.command_age_s));
    assert!(at_most(this.discontinuity_rad, other.discontinuity_rad));
    for (is, was) in this.force_limits.iter().zip(&other.force_limits) {
        assert!(is.sensor == was.sensor && is.newtons <= was.newtons, "{is:?}");
    }
}

/// Plans a move of all joints from one end of their ranges to the other, which may be refused.
pub fn sweep(robot: &Embodiment) {
    let ends = |end: usize| robot.joints.iter().map(|joint| joint.position[end]).collect::<Vec<f32>>();
    let Ok(play) = Play::joints_to(robot, (0..robot.joints.len()).collect(), &ends(0), &ends(1), 1.0) else { return };
    let per_tick = |joint: usize| f64::from(robot.joints[joint].velocity) / f64::from(robot.control_hz);
    for rows in play.rows.windows(2) {
        for (joint, (from, to)) in rows[0].iter().zip(&rows[1]).enumerate() {
            let (way, rounding) =
                (f64::from(*to) - f64::from(*from), 1e-6 * f64::from(from.abs().max(to.abs()).max(1.0)));
            assert!(
                way.abs() <= per_tick(joint) * 1.001 + rounding,
                "{way} in a tick, {} are allowed",
                per_tick(joint)
            );
        }
    }
}
