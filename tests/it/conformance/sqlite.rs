//! What only a file can do wrong.
