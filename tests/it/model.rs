//! Random operations on the model and on a store; answers must be equal.
