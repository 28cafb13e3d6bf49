//! The writer's time slice.
//!
//! The writer wakes up once a millisecond for some ten microseconds. Where it shares a processor with a worker that is never idle,
//! it then waits for the end of the worker's slice, up to 4 ms, and whoever waits for the log waits along. Since Linux 6.12 a
//! thread may ask for a shorter slice (`sched_setattr(2)`; EEVDF): its deadline is then earlier than the worker's, so it comes first. It
//! gets no more of the processor for that.

use std::io;
use std::time::Duration;

/// The shortest that Linux gives, and more than a turn takes.
const SLICE: Duration = Duration::from_micros(100);

/// Asks for it, for the calling thread. Older kernels take note and do nothing.
///
/// # Errors
/// If it is not allowed.
pub fn shorten() -> io::Result<()> {
    let mut attributes = get()?;
    attributes.sched_runtime = u64::try_from(SLICE.as_nanos()).expect("it is short");
    // SAFETY: the kernel only reads, as many bytes as `size` says
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(result)
}

/// How the calling thread is scheduled.
fn get() -> io::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("it is small");
    // SAFETY: it is made of integers, of which each may be 0
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    check(result).map(|()| attributes)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_slice_it_has_asked_for() {
        let uname = rustix::system::uname();
        let mut release = uname.release().to_str().unwrap().split('.').map(str::parse::<u32>);
        let version = (release.next().unwrap().unwrap(), release.next().unwrap().unwrap());
        let thread = std::thread::spawn(|| {
            let before = get().unwrap();
            shorten().unwrap();
            (before, get().unwrap())
        });
        let (before, after) = thread.join().unwrap();
        assert_eq!((before.sched_policy, before.sched_nice), (after.sched_policy, after.sched_nice));
        let expected = if version < (6, 12) { before.sched_runtime } else { 100_000 };
        assert_eq!(after.sched_runtime, expected);
    }
}
