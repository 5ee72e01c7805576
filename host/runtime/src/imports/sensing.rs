//! `sensing`: what the robot is and what it senses.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use wasmtime::component::{Access, Accessor, HasSelf, Resource, StreamReader};
use waza_package::Permission;

use super::stream::{Writer, queue, stream};
use super::{Call, Run};
use crate::contract::{Fault, Observed, Refusal, sensing};
use crate::imports::inference::picture;

impl sensing::Host for Run {
    fn robot(&mut self) -> wasmtime::Result<sensing::Embodiment> {
        self.context.demand(Permission::Sensing)?;
        let robot = self.context.robot().embodiment();
        let joint = |joint: &waza_robot::embodiment::Joint| sensing::JointLimits {
            name: joint.name.clone(),
            lowest: joint.position[0],
            highest: joint.position[1],
            velocity: joint.velocity,
            acceleration: joint.acceleration,
            effort: joint.effort,
        };
        let part = |part: &waza_robot::embodiment::Part| {
            let joints = robot.part_joints(&part.name).unwrap_or_default();
            let names = joints.into_iter().map(|index| robot.joints[index].name.clone());
            sensing::Part { name: part.name.clone(), joints: names.collect() }
        };
        let camera = |camera: &waza_robot::embodiment::Camera| sensing::Camera {
            name: camera.name.clone(),
            width: camera.width,
            height: camera.height,
            rate_hz: camera.rate_hz,
        };
        let sensor = |sensor: &waza_robot::embodiment::Sensor| sensing::Sensor {
            name: sensor.name.clone(),
            channels: sensor.channels.clone(),
            rate_hz: sensor.rate_hz,
            unit: sensor.unit.clone(),
        };
        Ok(sensing::Embodiment {
            name: robot.name.clone(),
            control_hz: robot.control_hz,
            action_hz: robot.action.rate_hz,
            joints: robot.joints.iter().map(joint).collect(),
            parts: robot.parts.iter().map(part).collect(),
            cameras: robot.cameras.iter().map(camera).collect(),
            sensors: robot.sensors.iter().map(sensor).collect(),
        })
    }
}

impl sensing::HostObservation for Run {
    fn taken(&mut self, seen: Resource<Observed>) -> wasmtime::Result<u64> {
        self.context.demand(Permission::Sensing)?;
        Ok(self.table.get(&seen)?.taken_ns)
    }

    fn joints(&mut self, seen: Resource<Observed>) -> wasmtime::Result<Vec<sensing::Joint>> {
        self.context.demand(Permission::Sensing)?;
        let joints = &self.table.get(&seen)?.joints;
        let names = self.context.robot().embodiment().joints.iter();
        let values = joints.positions.iter().zip(&joints.velocities).zip(&joints.efforts);
        let joint = |(joint, ((&position, &velocity), &effort)): (&waza_robot::embodiment::Joint, _)| sensing::Joint {
            name: joint.name.clone(),
            position,
            velocity,
            effort,
        };
        Ok(names.zip(values).map(joint).collect())
    }

    fn samples(&mut self, seen: Resource<Observed>, sensor: String) -> Result<sensing::Samples, Fault> {
        self.context.check(Permission::Sensing)?;
        let sensors = &self.context.robot().embodiment().sensors;
        let index = index(sensors.iter().map(|it| it.name.as_str()), "sensor", &sensor)?;
        let seen = self.table.get(&seen)?;
        let window = seen.windows.get(index).ok_or_else(|| Refusal::Unavailable(format!("{sensor} is silent")))?;
        self.context.carry(size_of_val(&*window.values))?;
        Ok(sensing::Samples {
            channels: window.channels as u32,
            first: window.first_ns,
            rate_hz: window.rate_hz,
            values: window.values.clone(),
        })
    }

    fn pixels(&mut self, seen: Resource<Observed>, camera: String) -> Result<sensing::Image, Fault> {
        self.context.check(Permission::Sensing)?;
        self.context.check(Permission::Pixels(camera.clone()))?;
        let cameras = &self.context.robot().embodiment().cameras;
        let index = index(cameras.iter().map(|it| it.name.as_str()), "camera", &camera)?;
        let image = picture(&self.context, self.table.get(&seen)?, index)?;
        self.context.carry(image.rgb.len())?;
        Ok(sensing::Image { width: image.width, height: image.height, rgb: image.rgb.to_vec() })
    }

    fn drop(&mut self, seen: Resource<Observed>) -> wasmtime::Result<()> {
        self.take_held(seen)?;
        Ok(())
    }
}

fn index<'a>(mut names: impl Iterator<Item = &'a str> + Clone, kind: &str, name: &str) -> Result<usize, Refusal> {
    let all = names.clone();
    names.position(|it| it == name).ok_or_else(|| {
        let all: Vec<_> = all.collect();
        Refusal::Unavailable(format!("there is no {kind} {name}; there are {}", all.join(", ")))
    })
}

impl<T: Send + 'static> sensing::HostWithStore<T> for HasSelf<Run> {
    async fn observe(accessor: &Accessor<T, Self>) -> Result<Resource<Observed>, Fault> {
        let context = accessor.with(|mut access| access.get().context.clone());
        context.check(Permission::Sensing)?;
        let _call = context.meter.call()?;
        let seen = context.holds.settle(context.robot().observe()).await?;
        Ok(accessor.with(|mut access| access.get().push_held(seen))?)
    }

    fn watch(mut access: Access<'_, T, Self>, rate_hz: f32) -> Result<StreamReader<Resource<Observed>>, Fault> {
        let context = access.get().context.clone();
        context.check(Permission::Sensing)?;
        let control_hz = context.robot().embodiment().control_hz;
        if !(rate_hz > 0.0 && rate_hz <= control_hz) {
            return Err(Refusal::Invalid(format!("rate-hz is {rate_hz}, it must lie in (0, {control_hz}]")).into());
        }
        let open = context.meter.call()?;
        let (writer, reader) = queue();
        let watching = watch(context.clone(), writer, control_hz / rate_hz);
        context.spawn(open, watching);
        Ok(stream(access, reader, |run: &mut Run, seen: Observed| run.push_held(seen))?)
    }
}

/// Writes an observation every so many ticks until the reader or the link is gone.
async fn watch(context: Arc<Call>, writer: Writer<Observed>, every_ticks: f32) {
    let robot = context.robot();
    let start = robot.tick();
    for count in 0.. {
        let due = start + (f64::from(count) * f64::from(every_ticks)).round() as u64;
        let seen = pin!(async {
            // An observation is of the tick after the one in which it was asked for.
            if due > robot.tick() {
                context.holds.settle(robot.reach(due)).await?;
            }
            context.holds.settle(robot.observe()).await
        });
        let Either::Right((Ok(seen), _)) = select(pin!(writer.closed()), seen).await else { return };
        if writer.replace(seen, |_| true).is_err() {
            return;
        }
    }
}
