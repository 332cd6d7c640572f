//! What an admin does to a Postgres store, in plain SQL on its functions: enough to ask the ledger.

use outlay::policy::budget::Window;
use outlay::types::ledger::WindowKind;
use outlay::types::{NanoUsd, Wall, WindowId};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

/// A person with `psql`, whose clock is the test's.
pub(crate) struct StandIn {
    conn: PgConnection,
}

impl StandIn {
    pub(crate) async fn new(url: &str) -> Self {
        Self { conn: PgConnection::connect(url).await.expect("a connection") }
    }

    pub(crate) async fn seed(&mut self, id: &str, zone: &str, uncapped: bool, day: Option<i64>) {
        let sql = "INSERT INTO outlay.project (project_id, time_zone, on_cap, uncapped, created_at) \
                   VALUES ($1, $2, 'park', $3, 1)";
        let query = sqlx::query(sql).bind(id).bind(zone).bind(uncapped);
        query.execute(&mut self.conn).await.expect("a project");
        if let Some(day) = day {
            let sql = "INSERT INTO outlay.project_cap VALUES ($1, 'day', $2)";
            sqlx::query(sql).bind(id).bind(day).execute(&mut self.conn).await.expect("a cap");
        }
    }

    pub(crate) async fn set_cap(&mut self, project: &str, kind: WindowKind, cap: Option<i64>, now: Wall) {
        let mut tx = self.conn.begin().await.expect("begun");
        sqlx::query("SELECT outlay.lock_money()").execute(&mut *tx).await.expect("locked");
        let open = "SELECT outlay.open_windows(ARRAY[$1], NULL, $2, $2)";
        sqlx::query(open).bind(project).bind(now.0).execute(&mut *tx).await.expect("opened");
        let sql = "UPDATE outlay.budget_window SET cap = $4, \
                     ceiling = CASE WHEN $4 IS NOT NULL THEN greatest($4, held + spent + presumed) END \
                   WHERE project_id = $1 AND kind = $2 AND (ends_at IS NULL OR ends_at > $3)";
        let query = sqlx::query(sql).bind(project).bind(kind.as_str()).bind(now.0).bind(cap);
        query.execute(&mut *tx).await.expect("set");
        let sql = "DELETE FROM outlay.project_cap WHERE project_id = $1 AND kind = $2";
        sqlx::query(sql).bind(project).bind(kind.as_str()).execute(&mut *tx).await.expect("lifted");
        if let Some(cap) = cap {
            let sql = "INSERT INTO outlay.project_cap VALUES ($1, $2, $3)";
            sqlx::query(sql)
                .bind(project)
                .bind(kind.as_str())
                .bind(cap)
                .execute(&mut *tx)
                .await
                .expect("set");
        }
        tx.commit().await.expect("committed");
    }

    pub(crate) async fn stop(&mut self, project: &str, reason: Option<&str>) {
        let sql = "UPDATE outlay.project SET stop_reason = $2 WHERE project_id = $1";
        sqlx::query(sql).bind(project).bind(reason).execute(&mut self.conn).await.expect("done");
    }

    pub(crate) async fn let_models_go(&mut self) {
        sqlx::query("DELETE FROM outlay.breaker_state").execute(&mut self.conn).await.expect("done");
    }

    /// The open windows of a project, of the account with the runs of living sessions.
    pub(crate) async fn windows(&mut self, project: &str, now: Wall) -> Vec<Window> {
        let open = "SELECT outlay.open_windows(ARRAY[$1], NULL, $2, $2)";
        sqlx::query(open).bind(project).bind(now.0).execute(&mut self.conn).await.expect("opened");
        let sql = "SELECT project_id, kind, starts_at, ends_at, cap, held, spent, presumed, overshoot \
                   FROM outlay.budget_window w WHERE project_id = $1 AND starts_at <= $2 \
                     AND (ends_at IS NULL OR ends_at > $2) \
                     AND (kind <> 'run' OR worker_id IN (SELECT worker_id FROM outlay.worker WHERE alive)) \
                   ORDER BY array_position(ARRAY['run', 'day', 'month', 'total'], kind::text), window_id";
        let found =
            sqlx::query(sql).bind(project).bind(now.0).fetch_all(&mut self.conn).await.expect("windows");
        found.iter().map(window).collect()
    }

    /// Windows that are not the sum of their attempts.
    pub(crate) async fn wrong_windows(&mut self) -> i64 {
        let sql = "WITH counted AS ( \
                     SELECT i.id, sum(CASE state WHEN 'held' THEN counted ELSE 0 END) AS held, \
                       sum(CASE state WHEN 'settled' THEN counted ELSE 0 END) AS spent, \
                       sum(CASE state WHEN 'presumed' THEN counted ELSE 0 END) AS presumed \
                     FROM outlay.attempt a, unnest(a.windows) AS i (id) GROUP BY i.id) \
                   SELECT count(*) FROM outlay.budget_window w LEFT JOIN counted c ON c.id = w.window_id \
                   WHERE (w.held, w.spent, w.presumed) IS DISTINCT FROM \
                     (coalesce(c.held, 0), coalesce(c.spent, 0), coalesce(c.presumed, 0))";
        sqlx::query_scalar(sql).fetch_one(&mut self.conn).await.expect("a number")
    }
}

fn window(row: &PgRow) -> Window {
    let number = |at: usize| row.get::<Option<i64>, _>(at);
    let money = |at: usize| NanoUsd(number(at).unwrap_or(0));
    Window {
        id: WindowId(0),
        project: row.get::<&str, _>(0).into(),
        kind: match row.get(1) {
            "day" => WindowKind::Day,
            "month" => WindowKind::Month,
            "total" => WindowKind::Total,
            _ => WindowKind::Run,
        },
        starts_at: Wall(number(2).unwrap_or(0)),
        ends_at: number(3).map(Wall),
        cap: number(4).map(NanoUsd),
        held: money(5),
        spent: money(6),
        presumed: money(7),
        overshoot: money(8),
    }
}
