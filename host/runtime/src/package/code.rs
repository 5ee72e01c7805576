//! The machine code of a component, and the memory that it takes.

use wasmtime::component::Component;

/// A compiled component, by where its code lies.
#[derive(Clone)]
pub(crate) enum Code {
    /// In memory that this host has filled.
    Made(Component),
    /// In a file of the cache, of which the system keeps in memory what it likes.
    Mapped(Component),
}

impl Code {
    pub fn component(&self) -> &Component {
        match self {
            Self::Made(component) | Self::Mapped(component) => component,
        }
    }

    /// Gives back the memory of code that lies in a file, until it runs again. Whoever runs it meanwhile finds it there: it
    /// comes from the file, or from what the system still has of it.
    pub fn rest(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Mapped(component) = self {
            let range = component.image_range();
            let bytes = range.end.addr() - range.start.addr();
            // SAFETY: the range is that of a private mapping of a whole file, which the component keeps alive. wasmtime makes
            // it read-only before the first use and writes nothing into it, so every page reads back from the file as it
            // was. Where the system refuses, the memory stays taken.
            let _ =
                unsafe { rustix::mm::madvise(range.start.cast_mut().cast(), bytes, rustix::mm::Advice::LinuxDontNeed) };
        }
    }
}
