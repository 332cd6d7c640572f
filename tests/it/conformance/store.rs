//! What every store answers, one operation a line.

use outlay::types::ledger::{Begin, CapReached, WindowKind};
use outlay::types::{NanoUsd, Wall};

use crate::support::wall;

/// Runs each case on every store.
macro_rules! exercise {
    ($($case:ident,)*) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(crate::conformance::Bench::memory().await).await })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(crate::conformance::Bench::sqlite().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::conformance::Bench::postgres().await {
                    super::$case(bench).await
                }
            })*
        }
    };
}

/// Runs each case on every store that has a queue beside it.
macro_rules! exercise_fleet {
    ($($case:ident,)*) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(crate::conformance::Bench::memory().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::conformance::Bench::postgres().await {
                    super::$case(bench).await
                }
            })*
        }
    };
}

/// Runs each case on every store that keeps what it is told.
macro_rules! exercise_kept {
    ($($case:ident,)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(crate::conformance::Bench::sqlite().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::conformance::Bench::postgres().await {
                    super::$case(bench).await
                }
            })*
        }
    };
}

mod alerts;
mod books;
mod breakers;
mod cache;
mod caps;
mod drifts;
mod ends;
mod evidence;
mod figures;
mod guard;
mod jobs;
mod prices;
mod release;

const GO: Begin = Begin::Go { attempt_no: 1, generation: 1 };

fn reached(window: WindowKind, resets_at: Option<Wall>, firm: i64) -> Begin {
    Begin::CapReached(CapReached { window, resets_at, firm: NanoUsd(firm) })
}

fn midnight() -> Option<Wall> {
    Some(wall("2026-11-22T00:00:00Z"))
}
