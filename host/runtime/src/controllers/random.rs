//! Random numbers, which repeat with the run's seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// The version of WASI whose functions are linked.
pub(crate) const WASI: &str = "0.2.6";

/// The most random bytes in one call.
const MOST_RANDOM_BYTES: u64 = 1 << 20;

/// Links random numbers, which a toolchain's hash tables want even in a controller.
pub(crate) fn link_random<T: 'static>(
    linker: &mut Linker<T>,
    random: fn(&mut T) -> &mut ChaCha8Rng,
) -> wasmtime::Result<()> {
    let bytes = move |mut store: StoreContextMut<'_, T>, (count,): (u64,)| {
        if count > MOST_RANDOM_BYTES {
            return Err(wasmtime::Error::msg(format!("{count} random bytes are more than {MOST_RANDOM_BYTES}")));
        }
        let mut bytes = vec![0; count as usize];
        random(store.data_mut()).fill_bytes(&mut bytes);
        Ok((bytes,))
    };
    let number = move |mut store: StoreContextMut<'_, T>, (): ()| Ok((random(store.data_mut()).next_u64(),));
    let mut interface = linker.instance(&format!("wasi:random/random@{WASI}"))?;
    interface.func_wrap("get-random-bytes", bytes)?;
    interface.func_wrap("get-random-u64", number)?;
    let mut interface = linker.instance(&format!("wasi:random/insecure@{WASI}"))?;
    interface.func_wrap("get-insecure-random-bytes", bytes)?;
    interface.func_wrap("get-insecure-random-u64", number)?;
    let mut interface = linker.instance(&format!("wasi:random/insecure-seed@{WASI}"))?;
    interface.func_wrap("insecure-seed", move |mut store: StoreContextMut<'_, T>, (): ()| {
        let random = random(store.data_mut());
        Ok(((random.next_u64(), random.next_u64()),))
    })
}
