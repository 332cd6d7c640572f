//! Alerts: looked for by one process at a time, in a transaction that sees one instant of the store, and
//! sent by whoever claims them. No lock of money is taken.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::facts::{self, look};
use super::open::Store;
use super::rows::{self, money, window_columns};
use super::trouble::{Sql, Trouble, trouble};
use crate::policy::alert::events::{self, Line};
use crate::policy::alert::{self, ChannelRule, SilentSession, WindowFacts};
use crate::policy::budget::Window;
use crate::policy::forecast::Look;
use crate::policy::text::without_nul;
use crate::ports::alerts::{AlertRow, ChannelOff, Delivery, DeliveryEnd, DeliveryRow, LEASE, Looked};
use crate::ports::{Alerts, StoreError, audit};
use crate::types::alert::{Alert, Notice};
use crate::types::{ProjectId, Wall, WorkerId};

/// One instant of the store, and nobody else who raises alerts. The lock comes before the first look, which
/// is when that instant is chosen.
const BEGIN_LOOK: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; \
     SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL statement_timeout = '10s'; \
     LOCK TABLE outlay.alert IN SHARE ROW EXCLUSIVE MODE NOWAIT";
const BEGIN_RAISE: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'; \
     SET LOCAL statement_timeout = '10s'; LOCK TABLE outlay.alert IN SHARE ROW EXCLUSIVE MODE";
const BEGIN: &str =
    "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL statement_timeout = '10s'";

/// Lines of the audit log in one look; the next one comes soon.
const LINES_MAX: i64 = 500;
/// A session that is ended this long after it was last heard of did not end itself.
const UNHEARD_US: i64 = 9_500_000;

/// Runs `$body` in a transaction of its own on the connection of chores, and once more where that had been
/// lost: whatever is done twice here is done once.
macro_rules! apart {
    ($store:expr, $begin:expr, |$conn:ident, $now:ident| $body:expr) => {{
        let mut again = true;
        loop {
            let done = async {
                let mut desk = $store.chores().await?;
                let mut conn = desk.take()?;
                let done = async {
                    let $conn: &mut PgConnection = &mut conn;
                    sqlx::raw_sql($begin).execute(&mut *$conn).await?;
                    let $now = time(&mut *$conn, $store.told_now()).await?;
                    $body.await
                };
                let done = done.await;
                let done = facts::end(&mut conn, done).await;
                desk.put(conn, done)
            };
            match done.await {
                Err(error) if again && facts::is_lost(&error) => again = false,
                done => break done,
            }
        }
    }};
}

#[async_trait]
impl Alerts for Store {
    async fn look(&self, channels: &[ChannelRule], fresh: Duration) -> Result<Looked, StoreError> {
        let told_now = self.told_now();
        let recent = look!(self, |conn| was_looked(conn, fresh, told_now))?;
        if recent {
            return Ok(Looked::Others);
        }
        let done = apart!(self, BEGIN_LOOK, |conn, now| look_around(conn, channels, now));
        match done {
            Ok(raised) => Ok(Looked::Raised(raised)),
            // Another process has the lock, or had it when this transaction began.
            Err(error) if trouble(&error) == Trouble::Again => Ok(Looked::Others),
            Err(error) => Err(self.told(&error)),
        }
    }

    async fn raise(&self, notices: &[Notice], channels: &[ChannelRule]) -> Result<Vec<Alert>, StoreError> {
        let done = apart!(self, BEGIN_RAISE, |conn, now| raise(conn, notices, channels, now));
        done.map_err(|error| self.told(&error))
    }

    async fn claim(&self, channel: &str, by: WorkerId) -> Result<Option<Delivery>, StoreError> {
        let done = apart!(self, BEGIN, |conn, now| claim(conn, channel, by, now));
        done.map_err(|error| self.told(&error))
    }

    async fn settle(&self, delivery: &Delivery, end: &DeliveryEnd) -> Result<bool, StoreError> {
        let done = apart!(self, BEGIN, |conn, now| settle(conn, delivery, end, now));
        done.map_err(|error| self.told(&error))
    }

    async fn alerts(&self, limit: u32) -> Result<Vec<AlertRow>, StoreError> {
        look!(self, |conn| alerts(conn, limit))
    }

    async fn channels_off(&self) -> Result<Vec<ChannelOff>, StoreError> {
        look!(self, |conn| channels_off(conn))
    }

    async fn switch_on(&self, channel: &str, who: &str) -> Result<(), StoreError> {
        let done = apart!(self, BEGIN, |conn, now| async {
            let sql = "DELETE FROM outlay.alert_channel_off WHERE channel = $1";
            if sqlx::query(sql).bind(channel).execute(&mut *conn).await?.rows_affected() > 0 {
                facts::log(conn, &audit::channel_on(now, &without_nul(who), channel)).await?;
            }
            Ok(())
        });
        done.map_err(|error| self.told(&error))
    }

    async fn pending(&self) -> Result<u64, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT count(*) FROM outlay.alert_delivery WHERE state = 'pending'";
            rows::count(sqlx::query_scalar::<_, i64>(sql).fetch_one(conn).await?)
        })
    }
}

async fn time(conn: &mut PgConnection, told_now: Option<i64>) -> Sql<Wall> {
    let now = sqlx::query_scalar("SELECT coalesce($1, outlay.now_us())").bind(told_now);
    Ok(Wall(now.fetch_one(conn).await?))
}

async fn was_looked(conn: &mut PgConnection, fresh: Duration, told_now: Option<i64>) -> Sql<bool> {
    let sql = "SELECT coalesce($1, outlay.now_us()) - looked_at FROM outlay.alert_watch";
    let ago: i64 = sqlx::query_scalar(sql).bind(told_now).fetch_one(conn).await?;
    Ok((0..rows::micros(fresh)).contains(&ago))
}

async fn look_around(conn: &mut PgConnection, channels: &[ChannelRule], now: Wall) -> Sql<Vec<Alert>> {
    let steady = note_look(conn, now).await?;
    let mut notices = news(conn, now).await?;
    for facts in windows(conn, now).await? {
        notices.extend(alert::of_window(&facts, now));
        note_window(conn, &facts, now).await?;
    }
    if steady {
        notices.extend(silent(conn, now).await?.iter().map(alert::of_session));
    }
    let sql = "DELETE FROM outlay.alert_look WHERE at < $1";
    sqlx::query(sql).bind((now - alert::LOOKS_KEPT).0).execute(&mut *conn).await?;
    forget(conn, now).await?;
    raise(conn, &notices, channels, now).await
}

/// Whether somebody has looked all the time lately: then who looks silent is.
async fn note_look(conn: &mut PgConnection, now: Wall) -> Sql<bool> {
    let sql = "UPDATE outlay.alert_watch SET looked_at = $1, \
                 steady_since = CASE WHEN $1 - looked_at BETWEEN 0 AND $2 THEN steady_since ELSE $1 END \
               RETURNING steady_since";
    let since: i64 =
        sqlx::query_scalar(sql).bind(now.0).bind(rows::micros(alert::SILENT)).fetch_one(conn).await?;
    Ok(Wall(since) + alert::SILENT <= now)
}

/// What the audit log says since the last look. After a cap was changed its thresholds are news again.
async fn news(conn: &mut PgConnection, now: Wall) -> Sql<Vec<Notice>> {
    let sql = "WITH taken AS (DELETE FROM outlay.alert_inbox WHERE event_id IN ( \
                 SELECT event_id FROM outlay.alert_inbox ORDER BY event_id LIMIT $1) RETURNING event_id) \
               SELECT e.at, e.who, e.what, e.subject, e.detail, e.event_id FROM outlay.event e \
               JOIN taken USING (event_id) WHERE e.at > $2 ORDER BY e.event_id";
    let found = sqlx::query(sql).bind(LINES_MAX).bind((now - alert::NEWS).0).fetch_all(&mut *conn).await?;
    let mut notices = Vec::new();
    for row in &found {
        let event = facts::event(row)?;
        let line = Line {
            id: row.try_get(5)?,
            at: event.at,
            who: &event.who,
            what: &event.what,
            subject: &event.subject,
            detail: &event.detail,
        };
        if let Some((project, window)) = events::changed_cap(&line) {
            for topics in alert::topics_of_cap(&project, window) {
                let sql = "UPDATE outlay.alert SET topic = topic || '#' || alert_id::text \
                           WHERE starts_with(topic, $1) AND strpos(topic, '#') = 0";
                sqlx::query(sql).bind(topics).execute(&mut *conn).await?;
            }
        }
        notices.extend(events::of_line(&line));
    }
    Ok(notices)
}

/// Capped windows that are open. A day is never longer than two, a month never longer than 33.
async fn windows(conn: &mut PgConnection, now: Wall) -> Sql<Vec<WindowFacts>> {
    let sql = concat!(
        "SELECT ",
        window_columns!(),
        " FROM outlay.project_cap c JOIN outlay.budget_window w ON w.project_id = c.project_id AND w.kind = c.kind \
          WHERE w.cap IS NOT NULL AND w.starts_at <= $1 AND (w.ends_at IS NULL OR w.ends_at > $1) \
            AND w.starts_at > CASE c.kind WHEN 'day' THEN $1 - 172800000000 WHEN 'month' THEN $1 - 2851200000000 \
                              ELSE -1 END"
    );
    let open = sqlx::query(sql).bind(now.0).fetch_all(&mut *conn).await?;
    let open: Vec<Window> = open.iter().map(rows::window).collect::<Sql<_>>()?;
    let ids: Vec<i64> = open.iter().map(|window| window.id.0).collect();
    let sql = "SELECT window_id, at, used FROM outlay.alert_look WHERE window_id = ANY ($1)";
    let looks = sqlx::query(sql).bind(ids).fetch_all(&mut *conn).await?;
    let mut all = Vec::with_capacity(open.len());
    for window in open {
        let of_it = looks.iter().filter(|row| row.try_get::<i64, _>(0).is_ok_and(|id| id == window.id.0));
        let look = |row: &PgRow| Ok(Look { at: Wall(row.try_get(1)?), used: money(row, 2)? });
        let looks = of_it.map(look).collect::<Sql<_>>()?;
        let waiting = alert::may_be_reached(&window) && is_waited_for(conn, &window).await?;
        all.push(WindowFacts { window, waiting, looks });
    }
    Ok(all)
}

/// Whether jobs are parked because of a window. One that could be parked because of the project's window
/// as well as of the account's counts for the project's.
async fn is_waited_for(conn: &mut PgConnection, window: &Window) -> Sql<bool> {
    let kind = window.kind.as_str();
    let reason = alert::parked_for(window.kind);
    let query = if window.project.as_str() == ProjectId::ACCOUNT {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM outlay.parked p WHERE p.released_at IS NULL AND starts_with(p.reason, $2) \
               AND NOT EXISTS (SELECT 1 FROM outlay.project_cap c WHERE c.project_id = p.project_id AND c.kind = $3)) \
               AND $1 = '*'",
        )
    } else {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM outlay.parked p WHERE p.project_id = $1 AND p.released_at IS NULL \
               AND starts_with(p.reason, $2)) AND $3 <> ''",
        )
    };
    query.bind(window.project.as_str()).bind(reason).bind(kind).fetch_one(conn).await
}

async fn note_window(conn: &mut PgConnection, facts: &WindowFacts, now: Wall) -> Sql<()> {
    if facts.looks.iter().any(|look| look.at + alert::LOOK_EVERY > now) {
        return Ok(());
    }
    let sql =
        "INSERT INTO outlay.alert_look (window_id, at, used) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(facts.window.id.0).bind(now.0).bind(alert::used(&facts.window).0);
    query.execute(conn).await?;
    Ok(())
}

/// Sessions that nobody hears of, and those that were ended for it within the last day.
async fn silent(conn: &mut PgConnection, now: Wall) -> Sql<Vec<SilentSession>> {
    let sql = "SELECT worker_id, label, heartbeat_at, NOT alive FROM outlay.worker \
               WHERE alive AND heartbeat_at < $1 - $2 \
                 OR NOT alive AND ended_at > $1 - $3 AND ended_at - heartbeat_at > $4";
    let query = sqlx::query(sql).bind(now.0).bind(rows::micros(alert::SILENT));
    let found = query.bind(rows::micros(alert::NEWS)).bind(UNHEARD_US).fetch_all(conn).await?;
    let session = |row: &PgRow| {
        Ok(SilentSession {
            worker: WorkerId(row.try_get(0)?),
            label: row.try_get(1)?,
            heard_at: Wall(row.try_get(2)?),
            ended: row.try_get(3)?,
        })
    };
    found.iter().map(session).collect()
}

async fn forget(conn: &mut PgConnection, now: Wall) -> Sql<()> {
    let sql = "WITH old AS (DELETE FROM outlay.alert WHERE at < $1 RETURNING alert_id) \
               DELETE FROM outlay.alert_delivery d USING old WHERE d.alert_id = old.alert_id";
    sqlx::query(sql).bind((now - alert::KEPT).0).execute(conn).await?;
    Ok(())
}

async fn raise(
    conn: &mut PgConnection,
    notices: &[Notice],
    channels: &[ChannelRule],
    now: Wall,
) -> Sql<Vec<Alert>> {
    let mut raised = Vec::new();
    if notices.is_empty() {
        return Ok(raised);
    }
    let off = channels_off(conn).await?;
    for notice in notices {
        let alert = Alert { id: Uuid::now_v7(), at: now, notice: notice.clone() };
        let sql = "INSERT INTO outlay.alert (alert_id, at, topic, level, kind, severity, project_id, title, body) \
                   SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 \
                   WHERE NOT EXISTS (SELECT 1 FROM outlay.alert WHERE topic = $3 AND level >= $4) \
                   ON CONFLICT (topic, level) DO NOTHING";
        let query = sqlx::query(sql).bind(alert.id).bind(now.0).bind(without_nul(&notice.topic).into_owned());
        let query = query.bind(rows::count::<u32, i32>(notice.level)?);
        let query = query.bind(notice.kind.as_str()).bind(notice.severity.as_str());
        let query = query.bind(notice.project.as_ref().map(|id| without_nul(id.as_str()).into_owned()));
        let query = query.bind(without_nul(&notice.title).into_owned());
        let query = query.bind(without_nul(&notice.text).into_owned());
        if query.execute(&mut *conn).await?.rows_affected() == 0 {
            continue;
        }
        let is_on = |channel: &&ChannelRule| off.iter().all(|off| off.channel != channel.id);
        for channel in channels.iter().filter(is_on).filter(|channel| channel.takes(notice)) {
            let sql = "INSERT INTO outlay.alert_delivery (alert_id, channel, state, next_at) \
                       VALUES ($1, $2, 'pending', $3)";
            sqlx::query(sql).bind(alert.id).bind(&channel.id).bind(now.0).execute(&mut *conn).await?;
        }
        raised.push(alert);
    }
    Ok(raised)
}

async fn claim(conn: &mut PgConnection, channel: &str, by: WorkerId, now: Wall) -> Sql<Option<Delivery>> {
    let sql = "WITH due AS ( \
                 SELECT alert_id FROM outlay.alert_delivery \
                 WHERE channel = $1 AND state = 'pending' AND next_at <= $3 \
                   AND (claimed_at IS NULL OR claimed_at <= $3 - $4) \
                 ORDER BY next_at, alert_id LIMIT 1 FOR UPDATE SKIP LOCKED \
               ), ours AS ( \
                 UPDATE outlay.alert_delivery d SET claimed_by = $2, claimed_at = $3 FROM due \
                 WHERE d.alert_id = due.alert_id AND d.channel = $1 RETURNING d.alert_id, d.tries \
               ) \
               SELECT a.alert_id, a.at, a.topic, a.level, a.kind, a.severity, a.project_id, a.title, a.body, ours.tries \
               FROM ours JOIN outlay.alert a USING (alert_id)";
    let query = sqlx::query(sql).bind(channel).bind(by.0).bind(now.0).bind(rows::micros(LEASE));
    let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
    let tries = rows::count(row.try_get::<i32, _>(9)?)?;
    Ok(Some(Delivery { alert: an_alert(&row)?, channel: channel.to_owned(), tries, by }))
}

async fn settle(conn: &mut PgConnection, delivery: &Delivery, end: &DeliveryEnd, now: Wall) -> Sql<bool> {
    let (id, channel) = (delivery.alert.id, delivery.channel.as_str());
    let (state, next_at, why) = match end {
        DeliveryEnd::Sent => ("sent", now, None),
        DeliveryEnd::Failed { why, wait } => ("pending", now + *wait, Some(why)),
        DeliveryEnd::Quiet { until } => ("pending", *until, None),
        DeliveryEnd::GaveUp { why } => ("given_up", now, Some(why)),
        DeliveryEnd::Gone { .. } => ("off", now, None),
    };
    let sql = "UPDATE outlay.alert_delivery SET state = $4, next_at = $5, claimed_by = NULL, claimed_at = NULL, \
                 tries = tries + ($6::text IS NOT NULL)::int, last_error = coalesce($6, last_error), \
                 ended_at = CASE WHEN $4 <> 'pending' THEN $7::bigint END \
               WHERE alert_id = $1 AND channel = $2 AND claimed_by = $3 AND state = 'pending'";
    let query = sqlx::query(sql).bind(id).bind(channel).bind(delivery.by.0).bind(state).bind(next_at.0);
    let query = query.bind(why.map(|why| without_nul(why).into_owned())).bind(now.0);
    if query.execute(&mut *conn).await?.rows_affected() == 0 {
        return Ok(false);
    }
    match end {
        DeliveryEnd::Sent if delivery.tries > 0 => {
            let sql = "UPDATE outlay.alert_delivery SET next_at = $2 WHERE channel = $1 AND state = 'pending' \
                         AND tries > 0 AND next_at > $2 AND claimed_by IS NULL";
            sqlx::query(sql).bind(channel).bind(now.0).execute(conn).await?;
        }
        DeliveryEnd::GaveUp { why } => {
            let (title, tries) = (&delivery.alert.notice.title, delivery.tries + 1);
            facts::log(conn, &audit::alert_given_up(now, channel, title, tries, &without_nul(why))).await?;
        }
        DeliveryEnd::Gone { address } => {
            let sql = "UPDATE outlay.alert_delivery SET state = 'off', ended_at = $2, claimed_by = NULL, \
                         claimed_at = NULL WHERE channel = $1 AND state = 'pending'";
            sqlx::query(sql).bind(channel).bind(now.0).execute(&mut *conn).await?;
            let sql = "INSERT INTO outlay.alert_channel_off (channel, address, since) VALUES ($1, $2, $3) \
                       ON CONFLICT (channel) DO UPDATE SET address = excluded.address";
            sqlx::query(sql).bind(channel).bind(address).bind(now.0).execute(&mut *conn).await?;
            facts::log(conn, &audit::channel_off(now, channel)).await?;
        }
        DeliveryEnd::Sent | DeliveryEnd::Failed { .. } | DeliveryEnd::Quiet { .. } => {}
    }
    Ok(true)
}

async fn alerts(conn: &mut PgConnection, limit: u32) -> Sql<Vec<AlertRow>> {
    let sql = "SELECT alert_id, at, topic, level, kind, severity, project_id, title, body FROM outlay.alert \
               ORDER BY at DESC, alert_id DESC LIMIT $1";
    let found = sqlx::query(sql).bind(rows::limit(limit)).fetch_all(&mut *conn).await?;
    let found: Vec<Alert> = found.iter().map(an_alert).collect::<Sql<_>>()?;
    let ids: Vec<Uuid> = found.iter().map(|alert| alert.id).collect();
    let sql = "SELECT alert_id, channel, state, tries, next_at, ended_at, last_error FROM outlay.alert_delivery \
               WHERE alert_id = ANY ($1) ORDER BY channel";
    let sent = sqlx::query(sql).bind(ids).fetch_all(conn).await?;
    let mut all: Vec<_> = found.into_iter().map(|alert| AlertRow { alert, deliveries: Vec::new() }).collect();
    for row in &sent {
        let id: Uuid = row.try_get(0)?;
        if let Some(entry) = all.iter_mut().find(|entry| entry.alert.id == id) {
            entry.deliveries.push(a_delivery(row)?);
        }
    }
    Ok(all)
}

fn a_delivery(row: &PgRow) -> Sql<DeliveryRow> {
    let ended_at = rows::maybe_wall(row, 5)?;
    Ok(DeliveryRow {
        channel: row.try_get(1)?,
        state: rows::word(row.try_get(2)?)?,
        tries: rows::count(row.try_get::<i32, _>(3)?)?,
        next_at: Some(Wall(row.try_get(4)?)).filter(|_| ended_at.is_none()),
        ended_at,
        last_error: row.try_get(6)?,
    })
}

async fn channels_off(conn: &mut PgConnection) -> Sql<Vec<ChannelOff>> {
    let sql = "SELECT channel, address, since FROM outlay.alert_channel_off ORDER BY channel";
    let off = |row: &PgRow| {
        Ok(ChannelOff { channel: row.try_get(0)?, address: row.try_get(1)?, since: Wall(row.try_get(2)?) })
    };
    sqlx::query(sql).fetch_all(conn).await?.iter().map(off).collect()
}

fn an_alert(row: &PgRow) -> Sql<Alert> {
    Ok(Alert {
        id: row.try_get(0)?,
        at: Wall(row.try_get(1)?),
        notice: Notice {
            topic: row.try_get(2)?,
            level: rows::count(row.try_get::<i32, _>(3)?)?,
            kind: rows::word(row.try_get(4)?)?,
            severity: rows::word(row.try_get(5)?)?,
            project: row.try_get::<Option<&str>, _>(6)?.map(Into::into),
            title: row.try_get(7)?,
            text: row.try_get(8)?,
        },
    })
}
