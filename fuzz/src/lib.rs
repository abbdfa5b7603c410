//! What the fuzz targets share: a director that has everything switched on, and what must
//! be true of every frame it sends.

pub mod check;
pub mod input;
pub mod world;
