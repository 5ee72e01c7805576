//! Plays, watches and rolls out at rates that are none.

use hostile::{ActionChunk, Error, Request, Result, RolloutOptions, arm, conduct, forward, row, sensing};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    for rate in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1e30, f32::MIN_POSITIVE] {
        let played = lease.play(ActionChunk::new(rate, &[row(0.1)])).await;
        let watched = rate != f32::MIN_POSITIVE && sensing::watch(rate).is_ok();
        let rolled = lease.rollout(&RolloutOptions { max_seconds: -rate, ..forward(1.0) });
        if rate != f32::MIN_POSITIVE && (played.is_ok() || watched) || rate >= 0.0 && rolled.is_ok() {
            return Ok(format!("{rate} was taken"));
        }
    }
    Err(Error::Invalid("none was taken".into()))
}

conduct!(run);
