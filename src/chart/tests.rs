//! Pictures of ordinary and of extreme figures.
