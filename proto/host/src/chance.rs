//! Random numbers.

use std::io;

/// 64 random bits from the kernel (getrandom(2)).
///
/// # Errors
/// If it has none.
pub fn bits() -> io::Result<u64> {
    ask_the_world!(world => Ok(world.bits()));
    Ok(getrandom::u64()?)
}
