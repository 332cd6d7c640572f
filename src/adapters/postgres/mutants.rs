//! Functions of the database with a rule taken out, put in place of the right ones.
//!
//! A mutant is an edit of the function as it stands, so that it stays as small as a slip would be and
//! cannot fall behind what it is a mutant of.

#![cfg(outlay_mutants)]

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::trouble::{Sql, odd_row};
use crate::mutants::{Mutant, chosen};

/// Functions, and what stands in each of them instead of what.
struct Edit {
    functions: &'static [&'static str],
    right: &'static str,
    wrong: &'static str,
    /// What guards the same rule beside it.
    second: Option<&'static str>,
}

/// What becomes of the holds of a session that ended: nobody knows, or nothing was spent.
const REAPER_REFUNDS: Edit = Edit {
    functions: &["reap"],
    right: "array_fill(2, ARRAY[attempts::integer])",
    wrong: "array_fill(1, ARRAY[attempts::integer])",
    second: None,
};

/// Whose money may still move: held, or presumed with proof; or anybody's.
const NO_STATE_GUARD: Edit = Edit {
    functions: &["settle"],
    right: "WHERE o.state = 'held' OR o.state = 'presumed' AND u.bill <> 2",
    wrong: "WHERE true",
    second: None,
};

/// The lock between the question and the hold. Who only asks in the program has no check in the table either,
/// which by itself refuses what comes through.
const CHECK_THEN_INCREMENT: Edit = Edit {
    functions: &["begin_batch", "begin_calls"],
    right: "WHERE p.project_id = '*' FOR NO KEY UPDATE;",
    wrong: "WHERE p.project_id = '*';",
    second: Some("ALTER TABLE outlay.budget_window DROP CONSTRAINT budget_window_check1"),
};

/// Makes of an up-to-date database the one that this process's mutant would have made.
pub(super) async fn install(conn: &mut PgConnection) -> Sql<()> {
    let edit = match chosen() {
        Some(Mutant::ReaperRefunds) => REAPER_REFUNDS,
        Some(Mutant::NoStateGuard) => NO_STATE_GUARD,
        Some(Mutant::CheckThenIncrement) => CHECK_THEN_INCREMENT,
        Some(Mutant::RefundOnTimeout | Mutant::AckFirst | Mutant::AsynchronousCommit) | None => return Ok(()),
    };
    let mut tx = conn.begin().await?;
    // Workers of one fleet come at once, and a function is not replaced twice at a time.
    sqlx::query("SELECT pg_advisory_xact_lock(7020626572)").execute(&mut *tx).await?;
    let read = "SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
                WHERE n.nspname = 'outlay' AND p.proname = $1";
    for function in edit.functions {
        let text: String = sqlx::query_scalar(read).bind(function).fetch_one(&mut *tx).await?;
        if text.contains(edit.wrong) {
            return tx.rollback().await;
        }
        let (before, after) = text
            .split_once(edit.right)
            .filter(|(_, after)| !after.contains(edit.right))
            .ok_or_else(|| odd_row(format!("outlay.{function} does not have `{}` once", edit.right)))?;
        let mutated = format!("{before}{}{after}", edit.wrong);
        sqlx::raw_sql(sqlx::AssertSqlSafe(mutated)).execute(&mut *tx).await?;
    }
    if let Some(second) = edit.second {
        sqlx::query(second).execute(&mut *tx).await?;
    }
    tx.commit().await
}
