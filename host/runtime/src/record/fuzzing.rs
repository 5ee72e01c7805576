//! What reads lines of a record, for the targets in `fuzz/`.

use wasmtime::component::Resource;

use crate::contract::{Chunk, Fault, Observed, Refusal, model, motion, sensing, types};
use crate::leases::Lease;
use crate::record::calls::calls;
use crate::record::value::Canonical;
use crate::record::{Delivery, Ending, Entry};

/// Reads a line, and what it holds as whatever a call may have answered. Whether it is an entry.
///
/// # Panics
/// If anything that was read and written does not read back the same.
pub fn entry(line: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(line) else { return false };
    back::<Entry>(line);
    let Ok(entry) = line.parse::<Entry>() else { return false };
    match entry {
        Entry::Answer { value, .. } | Entry::Stream { what: Delivery::Item(value), .. } => answers(&value),
        Entry::End(Ending::Returned(value)) => back::<Result<types::Outcome, Refusal>>(&value),
        _ => {}
    }
    true
}

/// Whatever spelling it took: what it writes is the one spelling.
fn back<T: Canonical>(text: &str) {
    let Ok(value) = T::read(text) else { return };
    let spelt = value.spelt();
    match T::parse(&spelt) {
        Ok(again) => assert_eq!(again.spelt(), spelt),
        Err(error) => panic!("{spelt}: {error}"),
    }
}

macro_rules! read {
    (
        at_once { $($host:ident::$trait:ident {
            $($function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
        })* }
        in_time { $($interface:ident::$with_store:ident {
            $(async $awaited:ident = $of:literal ($($given:ident: $kind:ty),*) -> $value:ty;)*
            $(stream $opens:ident = $opened:literal ($($with:ident: $what:ty),*) -> $item:ty;)*
        })* }
    ) => {
        fn answers(text: &str) {
            $($( back::<$answer>(text); )*)*
            $(
                $( back::<Result<$value, Fault>>(text); )*
                $( back::<wasmtime::Result<$item>>(text); )*
            )*
        }
    };
}
calls!(read);
