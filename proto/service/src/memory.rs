//! Where the memory is from that threads allocate.

/// Has all threads allocate from one arena, unlike glibc by itself, which gives each its own (`mallopt(3)`, `M_ARENA_MAX`).
///
/// For a program whose threads take turns, and free what others have allocated: with an arena each, what every one of them
/// ever needed most is kept, all at once. To be called before there is another thread. With another C library nothing is done.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    set_arenas(1);
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library has this call in a safe way")]
fn set_arenas(most: i32) {
    // SAFETY: it takes numbers only, and is unsafe beside other threads alone (`mallopt(3)`, Attributes)
    let is_done = unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    debug_assert_eq!(is_done, 1, "{most} is a number of arenas");
}
