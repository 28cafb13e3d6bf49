//! Where the memory is from that threads allocate.
//!
//! With another C library than glibc nothing of this is done.

/// Has all threads allocate from one arena, which keeps tens of MiB of what they free until [`give_back`] (`mallopt(3)`).
///
/// For a program whose threads take turns, and free what others have allocated, much at a time. By itself glibc gives each an
/// arena: what every one of them ever needed most is kept, all at once. And what is freed goes back to the system, which
/// clears all of it when it is needed again. To be called before there is another thread.
pub fn share_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in PARAMETERS {
        set(parameter, value);
    }
}

/// Gives memory that is not in use back to the system: for when there is nothing to do.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    trim();
}

#[cfg(target_env = "gnu")]
const PARAMETERS: [(i32, i32); 3] = [
    (libc::M_ARENA_MAX, 1),
    // What is larger is a mapping of its own. With much more than this there are holes in the arena that nothing fits into, and
    // with less what is freed most is not kept.
    (libc::M_MMAP_THRESHOLD, 8 << 20),
    // so much is kept at the end of the arena, where most of it is
    (libc::M_TRIM_THRESHOLD, 64 << 20),
];

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library has this call in a safe way")]
fn set(parameter: i32, value: i32) {
    // SAFETY: it takes numbers only, and is unsafe beside other threads alone (`mallopt(3)`, Attributes)
    let is_done = unsafe { libc::mallopt(parameter, value) };
    debug_assert_eq!(is_done, 1, "{value} is a value of {parameter}");
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library has this call in a safe way")]
fn trim() {
    // SAFETY: it is safe beside other threads (`malloc_trim(3)`, Attributes), and touches only what is not in use
    unsafe { libc::malloc_trim(0) };
}
