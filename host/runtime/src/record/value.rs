//! One spelling for every value that crosses the boundary: JSON without spaces, members in the contract's order, numbers as
//! short as they read back exactly. Two values are equal bit for bit if and only if their spellings are, and people can read
//! the difference.
//!
//! What JSON lacks is a string: bytes are hexadecimal, and a float that is not finite is its bits.
//!
//! serde cannot derive it: a derive would reach every type of the contract, of which some hold handles, and has no place to
//! say how a float is written that is not finite.

use std::collections::BTreeMap;

use serde::de::Error;
use serde_json::value::RawValue;
use wasmtime::component::{Resource, StreamReader};
use waza_package::Ability;

use crate::contract::model::{self, Abilities, Detection, Info};
use crate::contract::motion::{Intervention, RolloutEvent, RolloutOptions};
use crate::contract::sensing::{Camera, Embodiment, Image, Joint, JointLimits, Part, Samples, Sensor};
use crate::contract::types::{Outcome, Pose, Quaternion, Vec3};
use crate::contract::{Chunk, Fault, Observed, Refusal};
use crate::leases::Lease;
use crate::model::flag;
use crate::record::Delivery;

/// Has one spelling.
pub(crate) trait Canonical: Sized {
    fn spelt(&self) -> String;

    /// May take other spellings too.
    fn read(text: &str) -> serde_json::Result<Self>;

    /// Takes the one spelling and no other, since spellings are what is compared.
    fn parse(text: &str) -> serde_json::Result<Self> {
        let value = Self::read(text)?;
        if value.spelt() == text { Ok(value) } else { Err(Error::custom("a record spells the same value otherwise")) }
    }

    fn list_spelt(list: &[Self]) -> String {
        format!("[{}]", list.iter().map(Self::spelt).collect::<Vec<_>>().join(","))
    }

    fn read_list(text: &str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str::<Vec<&RawValue>>(text)?.into_iter().map(|item| Self::read(item.get())).collect()
    }

    /// The handle of the observation that this hands to the skill.
    fn observation(&self) -> Option<u32> {
        None
    }
}

/// The arguments of a call.
macro_rules! arguments {
    ($($argument:ident),*) => {{
        let spelt: &[String] = &[$( $crate::record::value::Canonical::spelt(&$argument) ),*];
        format!("[{}]", spelt.join(","))
    }};
}
pub(crate) use arguments;

/// An object that is being read.
pub(crate) struct Members<'a>(BTreeMap<&'a str, &'a RawValue>);

impl<'a> Members<'a> {
    pub fn of(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(Self)
    }

    /// As it is spelt.
    pub fn text(&self, name: &'static str) -> serde_json::Result<&'a str> {
        self.0.get(name).map(|value| value.get()).ok_or_else(|| Error::missing_field(name))
    }

    pub fn value<T: Canonical>(&self, name: &'static str) -> serde_json::Result<T> {
        T::read(self.text(name)?)
    }
}

/// Spelt as serde_json spells it. Lists of it may be something else than lists.
macro_rules! plain {
    ($($type:ty $({ $($list:item)* })?),*) => { $(impl Canonical for $type {
        fn spelt(&self) -> String {
            // Nothing of it can fail to be JSON.
            serde_json::to_string(self).unwrap_or_default()
        }

        fn read(text: &str) -> serde_json::Result<Self> {
            serde_json::from_str(text)
        }

        $( $($list)* )?
    })* };
}

plain!((), bool, u32, u64, String, Delivery, u8 {
    fn list_spelt(list: &[Self]) -> String {
        format!("\"{}\"", hex::encode(list))
    }

    fn read_list(text: &str) -> serde_json::Result<Vec<Self>> {
        hex::decode(serde_json::from_str::<&str>(text)?).map_err(Error::custom)
    }
});

impl Canonical for f32 {
    fn spelt(&self) -> String {
        // Of a finite number the shortest digits that read back as the same bits.
        if self.is_finite() { format!("{self:?}") } else { format!("\"0x{:08x}\"", self.to_bits()) }
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        // Not by way of `f64`, which would round twice.
        let number = match text.strip_prefix("\"0x").and_then(|text| text.strip_suffix('"')) {
            Some(bits) => u32::from_str_radix(bits, 16).ok().map(Self::from_bits),
            None => text.parse().ok(),
        };
        number.ok_or_else(|| Error::custom(format!("{text} is no number")))
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn spelt(&self) -> String {
        T::list_spelt(self)
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        T::read_list(text)
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn spelt(&self) -> String {
        self.as_ref().map_or_else(|| ().spelt(), T::spelt)
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        if text == "null" { Ok(None) } else { T::read(text).map(Some) }
    }
}

/// A handle is its number in the run's table: while it lives, no other of its kind has it.
macro_rules! handle {
    ($($type:ty: $kind:literal),*) => { $(impl Canonical for Resource<$type> {
        fn spelt(&self) -> String {
            format!(concat!("\"", $kind, " {}\""), self.rep())
        }

        fn read(text: &str) -> serde_json::Result<Self> {
            let number = text.strip_prefix(concat!("\"", $kind, " ")).and_then(|rest| rest.strip_suffix('"'));
            let number = number.and_then(|number| number.parse().ok()).map(Self::new_own);
            number.ok_or_else(|| Error::custom(concat!("a handle of the kind ", $kind, " is expected")))
        }

        fn observation(&self) -> Option<u32> {
            ($kind == "observation").then(|| self.rep())
        }
    })* };
}
handle!(Observed: "observation", Chunk: "chunk", Lease: "lease");

/// A stream has nothing to say of itself; what comes through it is written down when it does.
impl<T> Canonical for StreamReader<T> {
    fn spelt(&self) -> String {
        ().spelt()
    }

    fn read(_: &str) -> serde_json::Result<Self> {
        Err(Error::custom("a stream is no value"))
    }
}

/// The run ended with this when it was recorded, so it does again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RecordedFatal(String);

impl Canonical for wasmtime::Error {
    fn spelt(&self) -> String {
        self.root_cause().to_string().spelt()
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        String::read(text).map(|why| Self::new(RecordedFatal(why)))
    }
}

impl Canonical for Abilities {
    fn spelt(&self) -> String {
        let has = Ability::ALL.into_iter().filter(|ability| self.contains(flag(*ability)));
        has.map(|ability| ability.name().to_owned()).collect::<Vec<_>>().spelt()
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        let has = serde_json::from_str::<Vec<Ability>>(text)?;
        Ok(has.into_iter().fold(Self::empty(), |all, ability| all | flag(ability)))
    }
}

/// An object with these members.
macro_rules! record {
    ($($type:ty { $($field:ident),* })*) => { $(impl $crate::record::value::Canonical for $type {
        fn spelt(&self) -> String {
            let members = [$( format!(concat!("\"", stringify!($field), "\":{}"), self.$field.spelt()) ),*];
            format!("{{{}}}", members.join(","))
        }

        fn read(text: &str) -> serde_json::Result<Self> {
            let members = $crate::record::value::Members::of(text)?;
            Ok(Self { $( $field: members.value(stringify!($field))? ),* })
        }
    })* };
}
pub(crate) use record;

record! {
    Vec3 { x, y, z }
    Quaternion { x, y, z, w }
    Pose { position, orientation }
    Outcome { summary, data }
    JointLimits { name, lowest, highest, velocity, acceleration, effort }
    Part { name, joints }
    Camera { name, width, height, rate_hz }
    Sensor { name, channels, rate_hz, unit }
    Embodiment { name, control_hz, action_hz, joints, parts, cameras, sensors }
    Joint { name, position, velocity, effort }
    Samples { channels, first, rate_hz, values }
    Image { width, height, rgb }
    Info { name, version, abilities, chunk_length, rate_hz }
    Detection { camera, label, x, y, width, height, confidence }
    model::Answer { text, confidence }
    Intervention { at, rule, detail }
    RolloutOptions { instruction, max_seconds, observe_hz, replan_rows }
}

/// An object with one member: the case's name and what it carries, null where it carries nothing.
macro_rules! variant {
    ($([$($parameter:ident)?] $type:ty { $($name:literal: [$($case:tt)*] $carried:tt),* })*) => { $(
        impl $(<$parameter: Canonical>)? Canonical for $type {
            fn spelt(&self) -> String {
                match self {
                    $( $($case)* => format!(concat!("{{\"", $name, "\":{}}}"), $carried.spelt()), )*
                }
            }

            fn read(text: &str) -> serde_json::Result<Self> {
                let members = Members::of(text)?;
                $( if let Ok(carried) = members.text($name) {
                    let $carried = Canonical::read(carried)?;
                    return Ok($($case)*);
                } )*
                Err(Error::custom(concat!("one of", $(" ", $name,)* " is expected")))
            }

            fn observation(&self) -> Option<u32> {
                match self {
                    $( $($case)* => $carried.observation(), )*
                }
            }
        }
    )* };
}

variant! {
    [] Refusal {
        "denied": [Self::Denied(why)] why, "unavailable": [Self::Unavailable(why)] why,
        "invalid": [Self::Invalid(why)] why, "exhausted": [Self::Exhausted(why)] why,
        "preempted": [Self::Preempted(why)] why, "stopped": [Self::Stopped] (), "failed": [Self::Failed(why)] why
    }
    [] RolloutEvent {
        "chunk": [Self::Chunk(number)] number, "intervened": [Self::Intervened(it)] it,
        "observed": [Self::Observed(seen)] seen, "done": [Self::Done(ended)] ended
    }
    [T] Result<T, Refusal> { "ok": [Ok(value)] value, "refused": [Err(refusal)] refusal }
    [T] Result<T, Fault> {
        "ok": [Ok(value)] value, "refused": [Err(Fault::Refused(refusal))] refusal,
        "fatal": [Err(Fault::Fatal(error))] error
    }
    [T] wasmtime::Result<T> { "ok": [Ok(value)] value, "fatal": [Err(error)] error }
}

/// What a call returned, with or without room for a refusal.
pub(crate) trait Answer: Canonical {
    /// The run ends with this.
    fn fatal(error: wasmtime::Error) -> Self;
}

impl<T, E: From<wasmtime::Error>> Answer for Result<T, E>
where
    Self: Canonical,
{
    fn fatal(error: wasmtime::Error) -> Self {
        Err(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: Canonical>(value: &T) -> T {
        let text = value.spelt();
        serde_json::from_str::<&RawValue>(&text).unwrap();
        let read = T::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.spelt(), text);
        read
    }

    #[test]
    fn every_float_reads_back_as_the_same_bits() {
        let special = [0, 1 << 31, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7fa0_0001, 0xffff_ffff, 1, 0x0080_0000];
        let spread = (0..200_000u32).map(|step| step.wrapping_mul(2_654_435_761));
        for bits in special.into_iter().chain(spread) {
            assert_eq!(back(&f32::from_bits(bits)).to_bits(), bits);
        }
        assert_eq!(vec![0.1f32, -0.0, f32::NAN].spelt(), "[0.1,-0.0,\"0x7fc00000\"]");
    }

    #[test]
    fn strings_and_bytes_read_back_and_are_json() {
        for text in ["", "plain", "\"quoted\" \\ and\nbroken\t\u{0}", "技", "[1,2", "null"] {
            assert_eq!(back(&String::from(text)), text);
            assert_eq!(serde_json::from_str::<String>(&String::from(text).spelt()).unwrap(), text);
        }
        assert_eq!(back(&vec![0u8, 9, 255]), [0, 9, 255]);
        assert_eq!(vec![0u8, 9, 255].spelt(), "\"0009ff\"");
    }

    #[test]
    fn values_of_the_contract_read_back() {
        assert_eq!(back(&Refusal::Stopped), Refusal::Stopped);
        assert_eq!(Refusal::Denied("no".into()).spelt(), r#"{"denied":"no"}"#);
        let joint = Joint { name: "pan".into(), position: 0.1, velocity: -0.0, effort: f32::INFINITY };
        assert_eq!(joint.spelt(), r#"{"name":"pan","position":0.1,"velocity":-0.0,"effort":"0x7f800000"}"#);
        back(&vec![joint]);
        back(&RolloutEvent::Done(Err(Refusal::Failed("it fell".into()))));
        back(&RolloutEvent::Observed(Resource::new_own(7)));
        back(&Some(vec![Abilities::ACT | Abilities::VIDEO]));
        assert_eq!((Abilities::ACT | Abilities::VIDEO).spelt(), r#"["act","video"]"#);
        back(&None::<u64>);
        let rows = vec![vec![], vec![1e-5, 1e20]];
        assert_eq!(back(&Ok::<Vec<Vec<f32>>, Fault>(rows.clone())).unwrap(), rows);
        let fatal: wasmtime::Result<u64> = back(&Err(wasmtime::Error::msg("it broke")));
        assert!(fatal.unwrap_err().is::<RecordedFatal>());
    }

    #[test]
    fn an_observation_is_found_in_whatever_hands_it_over() {
        let seen = || Resource::<Observed>::new_own(7);
        assert_eq!(Ok::<_, Fault>(seen()).observation(), Some(7));
        assert_eq!(Ok::<_, Fault>(RolloutEvent::Observed(seen())).observation(), Some(7));
        assert_eq!(Ok::<_, Fault>(Resource::<Chunk>::new_own(7)).observation(), None);
    }

    #[test]
    fn another_spelling_of_the_same_value_is_not_taken() {
        fn taken<T: Canonical>(text: &str) -> bool {
            T::parse(text).is_ok()
        }
        assert!(taken::<u64>("7") && taken::<f32>("0.5") && taken::<Vec<u32>>("[1,2]") && taken::<()>("null"));
        assert!(!taken::<u64>("07") && !taken::<u64>("+7") && !taken::<u32>("-1") && !taken::<u32>("4294967296"));
        assert!(!taken::<f32>("0.50") && !taken::<f32>("NaN") && !taken::<f32>("\"0x3f000000\""));
        assert!(!taken::<Vec<u32>>("[1, 2]") && !taken::<Vec<u32>>("[1,]") && !taken::<Vec<u32>>("[1"));
        assert!(!taken::<Vec<u8>>("\"0F\"") && !taken::<Vec<u8>>("\"0\"") && !taken::<Vec<u8>>("\"ä\""));
        assert!(!taken::<String>("\"\\u0041\"") && !taken::<String>("\"\\u00\"") && !taken::<String>("\"open"));
        assert!(!taken::<Resource<Chunk>>("\"chunk 07\"") && !taken::<Resource<Chunk>>("\"lease 7\""));
        assert!(!taken::<Refusal>(r#"{"denied":"no","failed":"no"}"#) && !taken::<Refusal>(r#"{"stopped":0}"#));
        assert!(!taken::<Vec3>(r#"{"y":0.5,"x":0.5,"z":0.5}"#) && !taken::<Vec3>(r#"{"x":0.5,"y":0.5}"#));
        assert!(!taken::<Abilities>(r#"["video","act"]"#) && !taken::<Abilities>(r#"["fly"]"#));
    }
}
