//! Shared code of the tests that cross crate borders.
