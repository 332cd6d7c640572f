//! Reports of every shape, as page, JSON and text.
