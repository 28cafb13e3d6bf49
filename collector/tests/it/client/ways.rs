//! Other ways in: the pages of the demo.
