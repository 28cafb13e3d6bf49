//! What both programs ask of the machine: files and folders, time, chance.
//!
//! ```text
//!  collector/src/log/storage.rs ─┐                    ┌─ the operating system
//!                                ├─▶ disk, clock, … ──┤
//!  compactor/src/storage.rs     ─┘                    └─ simulated::World, with the feature `simulated`
//! ```
//!
//! The rule: **nothing that survives the process, and nothing that could differ between two runs, is had any other
//! way.** So with the feature `simulated` a test can put a `simulated::World` behind a thread: a disk that loses,
//! tears and rots, a clock that jumps, chance that comes from a seed. Without the feature, as in every program that is
//! shipped, each function here is the system call and nothing else; with it, threads without a world use the machine.
//!
//! It knows nothing of segments or Parquet, and words no errors: the storage modules of the two programs do.

/// Asks the simulated world of this thread if there is one, else goes on.
macro_rules! ask_the_world {
    ($world:ident => $answer:expr) => {
        #[cfg(feature = "simulated")]
        if let Some($world) = crate::simulated::here() {
            return $answer;
        }
    };
}

pub mod chance;
pub mod clock;
pub mod disk;
#[cfg(feature = "simulated")]
pub mod simulated;
pub mod wait;
