//! What a component may consist of, counted before it is compiled: a small file can be much work.
//!
//! A compiler's time grows with the code, and faster than that with a single function's; instances multiply, because a
//! component can make several of one that makes several of another. Everything here is far beyond what toolchains make,
//! a Python interpreter included.

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentInstance, Instance, Parser, Payload};

use crate::error::Flaw;
use crate::inspect::{CONTROL, World};

/// Functions, those between components included.
const MOST_FUNCTIONS: u64 = 100_000;
/// Code of one function, bytes.
const LONGEST_FUNCTION: u64 = 512 << 10;
/// Modules and components, each inside another or beside it.
const MOST_PARTS: u64 = 200;
/// Components in components, and a module in the last.
const DEEPEST: u64 = 8;
/// Instances that come of instantiating it once, at most.
const MOST_INSTANCES: u64 = 500;
/// Imports, exports and aliases.
const MOST_NAMES: u64 = 20_000;
/// Types, globals, and pieces of tables.
const MOST_DECLARATIONS: u64 = 50_000;
/// Bytes of a page of memory, where a module does not say otherwise.
const PAGE: u64 = 64 << 10;

/// How much memory a component may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimits {
    /// The most that it may declare of one linear memory, bytes.
    pub memory_bytes: usize,
    /// The most that it may declare of one table.
    pub table_elements: usize,
}

/// What has been counted so far.
#[derive(Default)]
struct Count {
    functions: u64,
    parts: u64,
    names: u64,
    declarations: u64,
    /// The instances that each component around this place makes itself: of modules, and of components.
    open: Vec<(u64, u64)>,
    /// The most instances that any component which has ended makes.
    largest: u64,
}

/// Refuses a component that is more work than any useful one, or declares more memory than a run may use. Else says for which
/// world it is compiled, by the names of what it exports.
///
/// # Errors
/// [`Flaw::NotAComponent`], [`Flaw::Outsized`].
pub fn check(bytes: &[u8], limits: MemoryLimits) -> Result<World, Flaw> {
    let damaged = |error: &dyn std::fmt::Display| {
        // Some causes are told in several lines.
        let cause = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Flaw::NotAComponent(format!("the file is truncated or damaged ({cause}); build or copy it again"))
    };
    let within = |what: &str, count: u64, most: u64| {
        if count <= most {
            return Ok(());
        }
        Err(Flaw::Outsized(format!("{what}: {count}, the host takes at most {most}")))
    };
    let mut count = Count::default();
    let mut world = World::Skill;
    if !Parser::is_component(bytes) {
        return Err(Flaw::NotAComponent(what_else(bytes).into()));
    }
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| damaged(&error))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => count.parts += 1,
            Payload::Version { .. } => count.open.push((0, 0)),
            Payload::End(_) => {
                let (modules, components) = count.open.pop().unwrap_or_default();
                let made = modules.saturating_add(components.saturating_mul(count.largest.max(1)));
                count.largest = count.largest.max(made);
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if let Instance::Instantiate { .. } = instance.map_err(|error| damaged(&error))?
                        && let Some((modules, _)) = count.open.last_mut()
                    {
                        *modules += 1;
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    if let ComponentInstance::Instantiate { .. } = instance.map_err(|error| damaged(&error))?
                        && let Some((_, components)) = count.open.last_mut()
                    {
                        *components += 1;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let code = body.range();
                within("bytes of a function", (code.end - code.start) as u64, LONGEST_FUNCTION)?;
            }
            Payload::FunctionSection(functions) => count.functions += u64::from(functions.count()),
            Payload::ComponentCanonicalSection(functions) => count.functions += u64::from(functions.count()),
            Payload::ImportSection(names) => count.names += u64::from(names.count()),
            Payload::ExportSection(names) => count.names += u64::from(names.count()),
            Payload::ComponentImportSection(names) => count.names += u64::from(names.count()),
            Payload::ComponentExportSection(names) => {
                count.names += u64::from(names.count());
                within("imports, exports and aliases", count.names, MOST_NAMES)?;
                if count.open.len() == 1 {
                    for export in names {
                        if export.map_err(|error| damaged(&error))?.name.name.starts_with(CONTROL) {
                            world = World::Controller;
                        }
                    }
                }
            }
            Payload::ComponentAliasSection(aliases) => count.names += u64::from(aliases.count()),
            Payload::TypeSection(types) => count.declarations += u64::from(types.count()),
            Payload::CoreTypeSection(types) => count.declarations += u64::from(types.count()),
            Payload::ComponentTypeSection(types) => count.declarations += u64::from(types.count()),
            Payload::GlobalSection(globals) => count.declarations += u64::from(globals.count()),
            Payload::ElementSection(elements) => count.declarations += u64::from(elements.count()),
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory.map_err(|error| damaged(&error))?;
                    let page = memory.page_size_log2.map_or(PAGE, |log2| 1 << log2.min(16));
                    within("bytes of memory", memory.initial.saturating_mul(page), limits.memory_bytes as u64)?;
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let table = table.map_err(|error| damaged(&error))?;
                    within("elements of a table", table.ty.initial, limits.table_elements as u64)?;
                }
            }
            _ => {}
        }
        within("functions", count.functions, MOST_FUNCTIONS)?;
        within("modules and components", count.parts, MOST_PARTS)?;
        within("imports, exports and aliases", count.names, MOST_NAMES)?;
        within("types, globals and pieces of tables", count.declarations, MOST_DECLARATIONS)?;
        within("components in components", count.open.len() as u64, DEEPEST)?;
        within("instances", count.largest, MOST_INSTANCES)?;
    }
    Ok(world)
}

/// What a file is that is no component, and a way out.
fn what_else(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "it is a core module; build it for the target wasm32-wasip2, which makes components"
        }
        [] => "the file is empty; build or copy it again",
        bytes if bytes.len() < 8 => "the file is truncated; build or copy it again",
        bytes if std::str::from_utf8(bytes).is_ok() => {
            "it is text; build it with `cargo build --release --target wasm32-wasip2`"
        }
        _ => "it does not begin as WebAssembly does; is it the right file?",
    }
}
