//! What the process that holds a robot link answers.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{begin_with, message};
use waza_robot::bridge::fuzzing::{image, link};
use waza_robot::{Embodiment, Rule};

static ROBOT: LazyLock<Arc<Embodiment>> = LazyLock::new(|| Arc::new(Embodiment::so101()));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let floats = 3 * ROBOT.joints.len() + ROBOT.sensors.iter().map(|sensor| sensor.channels.len()).sum::<usize>();
    let captured = vec![1; 8 + 9 * ROBOT.cameras.len()];
    let measured = vec![0; 4 * floats + 8 * Rule::ALL.len()];
    let loop_ = [message(5, &measured), message(8, &captured), message(13, b"it is stuck")].concat();
    let welcome = [0, 0, 200, 66, 6, 0, 2, 0, 1, 0, 6, 0, 50, 0, 0, 0];
    let pixels = [message(2, &welcome), message(10, &[1, 0, 0, 0, 1, 0, 0, 0, 7, 7, 7])].concat();
    begin_with(&[&loop_, &pixels], data, size, max_size, seed)
});

fuzz_target!(|bytes: &[u8]| {
    for measured in link(bytes, &ROBOT).map_or_else(Vec::new, |link| link.measurements()) {
        let joints = &measured.joints;
        for values in [&joints.positions, &joints.velocities, &joints.efforts] {
            assert_eq!(values.len(), ROBOT.joints.len());
            assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        }
        assert_eq!(measured.samples.len(), ROBOT.sensors.len());
    }
    if let Some(image) = image(bytes) {
        assert_eq!(image.rgb.len(), image.width as usize * image.height as usize * 3);
    }
});
