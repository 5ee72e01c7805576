//! The simulated tabletop robot.
