//! Clicks in real browsers while the collector is in every state that it can be in: nobody waits for it, and what was
//! clicked is counted once, as soon as the visitor comes back.

mod matrix;
mod state;
mod table;
mod trial;
mod way;
