//! One spelling for every value that crosses the boundary: JSON without spaces, members in the contract's order, numbers as
//! short as they read back exactly. Two values are equal bit for bit if and only if their spellings are, and people can read
//! the difference.
//!
//! What JSON lacks is a string: bytes are hexadecimal, and a float that is not finite is its bits. The reader takes that one
//! spelling and no other.

use wasmtime::component::Resource;

use crate::contract::{Chunk, Observed};
use crate::contract::{Refusal, model, motion, sensing, types};
use crate::leases::Lease;

/// A text is not the spelling of what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is expected at byte {at}")]
pub struct Misspelt {
    what: &'static str,
    at: usize,
}

/// Has one spelling.
pub(crate) trait Canonical: Sized {
    fn write(&self, text: &mut String);

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt>;

    /// What stands between the brackets of a list.
    fn write_list(list: &[Self], text: &mut String) {
        text.push('[');
        for (index, item) in list.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            item.write(text);
        }
        text.push(']');
    }

    fn read_list(from: &mut Reader<'_>) -> Result<Vec<Self>, Misspelt> {
        from.expect("[")?;
        let mut list = Vec::new();
        if from.accept("]") {
            return Ok(list);
        }
        loop {
            list.push(Self::read(from)?);
            if !from.accept(",") {
                break;
            }
        }
        from.expect("]")?;
        Ok(list)
    }

    /// The observation that this hands to the skill.
    fn observation(&self) -> Option<&Resource<Observed>> {
        None
    }

    fn spelt(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }
}

/// The arguments of a call.
macro_rules! arguments {
    () => { String::from("[]") };
    ($first:ident $(, $more:ident)*) => {{
        let mut text = String::from("[");
        $crate::record::value::Canonical::write(&$first, &mut text);
        $( text.push(','); $crate::record::value::Canonical::write(&$more, &mut text); )*
        text.push(']');
        text
    }};
}
pub(crate) use arguments;

pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Misspelt> {
        Err(Misspelt { what, at: self.at })
    }

    pub fn accept(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    pub fn expect(&mut self, word: &'static str) -> Result<(), Misspelt> {
        if self.accept(word) { Ok(()) } else { self.fail(word) }
    }

    /// The name of an object's member, after the comma that separates it from the one before.
    pub fn member(&mut self, first: &mut bool, name: &'static str) -> Result<(), Misspelt> {
        if !std::mem::take(first) {
            self.expect(",")?;
        }
        if self.accept("\"") && self.accept(name) && self.accept("\":") { Ok(()) } else { self.fail(name) }
    }

    pub fn end(&self) -> Result<(), Misspelt> {
        if self.rest().is_empty() { Ok(()) } else { self.fail("the end") }
    }

    /// What stands before the next separator.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let word = &rest[..rest.find([',', ']', '}']).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn number<T: std::str::FromStr + ToString>(&mut self, what: &'static str) -> Result<T, Misspelt> {
        let at = self.at;
        let word = self.word();
        let number = word.parse::<T>().ok().filter(|number| number.to_string() == word);
        number.ok_or(Misspelt { what, at })
    }

    /// The spelling of one value, whatever it is.
    pub fn any(&mut self) -> Result<&'a str, Misspelt> {
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.rest().bytes().next() {
                Some(b'"') => {
                    String::read(self)?;
                }
                Some(b'[' | b'{') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b']' | b'}') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(b']' | b'}' | b',' | b':') | None => return self.fail("a value"),
                Some(_) => {
                    self.word();
                }
            }
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }
}

impl Canonical for () {
    fn write(&self, text: &mut String) {
        text.push_str("null");
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        from.expect("null")
    }
}

impl Canonical for bool {
    fn write(&self, text: &mut String) {
        text.push_str(if *self { "true" } else { "false" });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        if from.accept("true") {
            return Ok(true);
        }
        from.expect("false").map(|()| false)
    }
}

macro_rules! whole {
    ($($type:ty),*) => { $(impl Canonical for $type {
        fn write(&self, text: &mut String) {
            text.push_str(&self.to_string());
        }

        fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
            from.number("a whole number")
        }
    })* };
}
whole!(u32, u64);

impl Canonical for u8 {
    fn write(&self, text: &mut String) {
        text.push_str(&self.to_string());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        from.number("a byte")
    }

    fn write_list(list: &[Self], text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        text.reserve(2 * list.len() + 2);
        text.push('"');
        for byte in list {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text.push('"');
    }

    fn read_list(from: &mut Reader<'_>) -> Result<Vec<Self>, Misspelt> {
        from.expect("\"")?;
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let rest = from.rest();
        let digits = &rest.as_bytes()[..rest.find('"').unwrap_or(rest.len())];
        let bytes = digits.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let Some(bytes) = bytes.collect() else { return from.fail("bytes in hexadecimal") };
        from.at += digits.len();
        from.expect("\"")?;
        Ok(bytes)
    }
}

impl Canonical for f32 {
    fn write(&self, text: &mut String) {
        if self.is_finite() {
            // The shortest digits that read back as the same bits.
            text.push_str(&format!("{self:?}"));
        } else {
            text.push_str(&format!("\"0x{:08x}\"", self.to_bits()));
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        let at = from.at;
        let word = from.word();
        let bits = word.strip_prefix("\"0x").and_then(|word| word.strip_suffix('"'));
        let number = match bits {
            Some(bits) => u32::from_str_radix(bits, 16).ok().map(Self::from_bits),
            None => word.parse().ok(),
        };
        number.filter(|number: &Self| number.spelt() == word).ok_or(Misspelt { what: "a number", at })
    }
}

impl Canonical for String {
    fn write(&self, text: &mut String) {
        text.push('"');
        for character in self.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                control if control < ' ' => text.push_str(&format!("\\u{:04x}", u32::from(control))),
                other => text.push(other),
            }
        }
        text.push('"');
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        from.expect("\"")?;
        let mut read = Self::new();
        loop {
            let rest = from.rest();
            let Some(plain) = rest.find(['"', '\\']) else { return from.fail("the end of a string") };
            read.push_str(&rest[..plain]);
            from.at += plain;
            if from.accept("\"") {
                return Ok(read);
            }
            if from.accept("\\u00") {
                let code = from.rest().get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(code) = code.filter(|code| *code < b' ' && *code != b'\n') else {
                    return from.fail("a control character");
                };
                read.push(char::from(code));
                from.at += 2;
                continue;
            }
            let escaped = [("\\\"", '"'), ("\\\\", '\\'), ("\\n", '\n')];
            let Some((_, character)) = escaped.into_iter().find(|(escape, _)| from.accept(escape)) else {
                return from.fail("an escape");
            };
            read.push(character);
        }
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn write(&self, text: &mut String) {
        T::write_list(self, text);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        T::read_list(from)
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn write(&self, text: &mut String) {
        match self {
            Some(value) => value.write(text),
            None => text.push_str("null"),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        if from.accept("null") { Ok(None) } else { T::read(from).map(Some) }
    }
}

/// A handle is its number in the run's table: while it lives, no other of its kind has it.
macro_rules! handle {
    ($($type:ty: $kind:literal $(=> $seen:ty)?),*) => { $(impl Canonical for Resource<$type> {
        fn write(&self, text: &mut String) {
            text.push_str(&format!(concat!("\"", $kind, " {}\""), self.rep()));
        }

        fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
            from.expect(concat!("\"", $kind, " "))?;
            let at = from.at;
            let word = from.word();
            let rep = word.strip_suffix('"').and_then(|rep| rep.parse::<u32>().ok());
            let rep = rep.filter(|rep| format!("{rep}\"") == word);
            rep.map(Resource::new_own).ok_or(Misspelt { what: "a handle's number", at })
        }

        $(
            fn observation(&self) -> Option<&Resource<Observed>> {
                Some(self as &Resource<$seen>)
            }
        )?
    })* };
}
handle!(Observed: "observation" => Observed, Chunk: "chunk", Lease: "lease");

macro_rules! record {
    ($($type:ty { $($field:ident),* })*) => { $(impl Canonical for $type {
        fn write(&self, text: &mut String) {
            let mut separator = '{';
            $(
                text.push(separator);
                text.push_str(concat!("\"", stringify!($field), "\":"));
                self.$field.write(text);
                separator = ',';
            )*
            let _ = separator;
            text.push('}');
        }

        fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
            from.expect("{")?;
            let mut first = true;
            $(
                from.member(&mut first, stringify!($field))?;
                let $field = Canonical::read(from)?;
            )*
            from.expect("}")?;
            Ok(Self { $($field),* })
        }
    })* };
}

record! {
    types::Vec3 { x, y, z }
    types::Quaternion { x, y, z, w }
    types::Pose { position, orientation }
    types::Outcome { summary, data }
    sensing::JointLimits { name, lowest, highest, velocity, acceleration, effort }
    sensing::Part { name, joints }
    sensing::Camera { name, width, height, rate_hz }
    sensing::Sensor { name, channels, rate_hz, unit }
    sensing::Embodiment { name, control_hz, action_hz, joints, parts, cameras, sensors }
    sensing::Joint { name, position, velocity, effort }
    sensing::Samples { channels, first, rate_hz, values }
    sensing::Image { width, height, rgb }
    model::Info { name, version, abilities, chunk_length, rate_hz }
    model::Detection { camera, label, x, y, width, height, confidence }
    model::Answer { text, confidence }
    motion::Intervention { at, rule, detail }
    motion::RolloutOptions { instruction, max_seconds, observe_hz, replan_rows }
    crate::imports::wasi::Datetime { seconds, nanoseconds }
}

/// An object with one member: the case and what it carries, which is null where it carries nothing.
macro_rules! variant {
    ($($type:ty { $($name:literal: $case:ident$(($value:ident))?),* } $(=> $observation:ident)?;)*) => { $(
        impl Canonical for $type {
            fn write(&self, text: &mut String) {
                match self {
                    $( Self::$case$(($value))? => {
                        text.push_str(concat!("{\"", $name, "\":"));
                        variant!(@write text $($value)?);
                    } )*
                }
                text.push('}');
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
                from.expect("{\"")?;
                $( if from.accept(concat!($name, "\":")) {
                    $( let $value = Canonical::read(from)?; )?
                    variant!(@read from $($value)?);
                    from.expect("}")?;
                    return Ok(Self::$case$(($value))?);
                } )*
                from.fail("the name of a case")
            }

            $(
                fn observation(&self) -> Option<&Resource<Observed>> {
                    match self {
                        Self::$observation(seen) => seen.observation(),
                        _ => None,
                    }
                }
            )?
        }
    )* };
    (@write $text:ident $value:ident) => { $value.write($text) };
    (@write $text:ident) => { ().write($text) };
    (@read $from:ident $value:ident) => {};
    (@read $from:ident) => { <()>::read($from)? };
}

variant! {
    Refusal {
        "denied": Denied(why), "unavailable": Unavailable(why), "invalid": Invalid(why), "exhausted": Exhausted(why),
        "preempted": Preempted(why), "stopped": Stopped, "failed": Failed(why)
    };
    Result<(), Refusal> { "ok": Ok(value), "refused": Err(refusal) };
    Result<types::Outcome, Refusal> { "ok": Ok(value), "refused": Err(refusal) };
    motion::RolloutEvent {
        "chunk": Chunk(number), "intervened": Intervened(it), "observed": Observed(seen), "done": Done(ended)
    } => Observed;
}

const ABILITIES: [(&str, model::Abilities); 6] = [
    ("act", model::Abilities::ACT),
    ("answer", model::Abilities::ANSWER),
    ("locate", model::Abilities::LOCATE),
    ("embed", model::Abilities::EMBED),
    ("video", model::Abilities::VIDEO),
    ("sensors", model::Abilities::SENSORS),
];

impl Canonical for model::Abilities {
    fn write(&self, text: &mut String) {
        let names =
            ABILITIES.iter().filter(|(_, ability)| self.contains(*ability)).map(|(name, _)| String::from(*name));
        names.collect::<Vec<_>>().write(text);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Misspelt> {
        let mut all = Self::empty();
        let at = from.at;
        for name in Vec::<String>::read(from)? {
            let Some((_, ability)) = ABILITIES.iter().find(|(known, _)| *known == name) else {
                return Err(Misspelt { what: "an ability", at });
            };
            all |= *ability;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: Canonical>(value: &T) -> T {
        let text = value.spelt();
        let mut from = Reader::new(&text);
        let read = T::read(&mut from).unwrap_or_else(|error| panic!("{text}: {error}"));
        from.end().unwrap();
        assert_eq!(Reader::new(&text).any().unwrap(), text);
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
        let joint = sensing::Joint { name: "pan".into(), position: 0.1, velocity: -0.0, effort: f32::INFINITY };
        assert_eq!(joint.spelt(), r#"{"name":"pan","position":0.1,"velocity":-0.0,"effort":"0x7f800000"}"#);
        back(&vec![joint]);
        back(&motion::RolloutEvent::Done(Err(Refusal::Failed("it fell".into()))));
        back(&motion::RolloutEvent::Observed(Resource::new_own(7)));
        back(&Some(vec![model::Abilities::ACT | model::Abilities::VIDEO]));
        back(&None::<u64>);
    }

    #[test]
    fn another_spelling_of_the_same_value_is_not_taken() {
        fn taken<T: Canonical>(text: &str) -> bool {
            let mut from = Reader::new(text);
            T::read(&mut from).is_ok() && from.end().is_ok()
        }
        assert!(taken::<u64>("7") && taken::<f32>("0.5") && taken::<Vec<u32>>("[1,2]"));
        assert!(!taken::<u64>("07") && !taken::<u64>("+7") && !taken::<u32>("-1") && !taken::<u32>("4294967296"));
        assert!(!taken::<f32>("0.50") && !taken::<f32>("NaN") && !taken::<f32>("\"0x3f000000\""));
        assert!(!taken::<Vec<u32>>("[1, 2]") && !taken::<Vec<u32>>("[1,]") && !taken::<Vec<u32>>("[1"));
        assert!(!taken::<Vec<u8>>("\"0F\"") && !taken::<Vec<u8>>("\"0\"") && !taken::<Vec<u8>>("\"ä\""));
        assert!(!taken::<String>("\"\\u0041\"") && !taken::<String>("\"\\u00\"") && !taken::<String>("\"open"));
    }

    #[test]
    fn no_text_makes_the_reader_panic_or_hang() {
        let whole = r#"[{"a":[1,2.5,"x\"y"],"b":null},"\u0001",true]"#;
        for end in 0..whole.len() {
            let _ = Reader::new(&whole[..end]).any();
            for byte in 0..128u8 {
                let mut bytes = whole.as_bytes().to_vec();
                bytes[end] = byte;
                let text = String::from_utf8(bytes).unwrap();
                let _ = Reader::new(&text).any();
                let _ = <Vec<String>>::read(&mut Reader::new(&text));
            }
        }
        let deep = "[".repeat(1 << 20);
        assert!(Reader::new(&deep).any().is_err());
    }
}
