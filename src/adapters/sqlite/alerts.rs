//! Alerts: looked for and claimed under the write lock, so whoever does it is alone.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use uuid::Uuid;

use super::directory::change;
use super::facts;
use super::open::Store;
use super::rows::{self, money, window_columns};
use super::trouble::Sql;
use crate::policy::alert::events::{self, Line};
use crate::policy::alert::{self, ChannelRule, SilentSession, WindowFacts};
use crate::policy::budget::Window;
use crate::policy::forecast::Look;
use crate::policy::text::without_nul;
use crate::ports::alerts::{AlertRow, ChannelOff, Delivery, DeliveryEnd, DeliveryRow, LEASE, Looked};
use crate::ports::{Alerts, StoreError, audit};
use crate::types::alert::{Alert, Notice};
use crate::types::{ProjectId, Wall, WorkerId};

const LINES_MAX: i64 = 500;
/// A session that is ended this long after it was last heard of did not end itself.
const UNHEARD_US: i64 = 9_500_000;

#[async_trait]
impl Alerts for Store {
    async fn look(&self, channels: &[ChannelRule], fresh: Duration) -> Result<Looked, StoreError> {
        {
            let now = self.clock.now().wall;
            let mut desk = self.desk.lock().await;
            let looked = sqlx::query_scalar("SELECT looked_at FROM alert_watch").fetch_one(&mut *desk).await;
            let looked: i64 = looked.map_err(|error| self.told(&error))?;
            if (0..micros(fresh)).contains(&now.micros_since(Wall(looked))) {
                return Ok(Looked::Others);
            }
        }
        let raised = change!(self, |tx, now| look_around(tx, channels, now).await?);
        raised.map(Looked::Raised)
    }

    async fn raise(&self, notices: &[Notice], channels: &[ChannelRule]) -> Result<Vec<Alert>, StoreError> {
        change!(self, |tx, now| raise(tx, notices, channels, now).await?)
    }

    async fn claim(&self, channel: &str, by: WorkerId) -> Result<Option<Delivery>, StoreError> {
        {
            // Nearly always there is nothing, and a look must not wait for the writer.
            let now = self.clock.now().wall;
            let mut desk = self.desk.lock().await;
            if due(&mut desk, channel, now).await.map_err(|error| self.told(&error))?.is_none() {
                return Ok(None);
            }
        }
        change!(self, |tx, now| claim(tx, channel, by, now).await?)
    }

    async fn settle(&self, delivery: &Delivery, end: &DeliveryEnd) -> Result<bool, StoreError> {
        change!(self, |tx, now| settle(tx, delivery, end, now).await?)
    }

    async fn alerts(&self, limit: u32) -> Result<Vec<AlertRow>, StoreError> {
        let mut desk = self.desk.lock().await;
        alerts(&mut desk, limit).await.map_err(|error| self.told(&error))
    }

    async fn channels_off(&self) -> Result<Vec<ChannelOff>, StoreError> {
        let mut desk = self.desk.lock().await;
        channels_off(&mut desk).await.map_err(|error| self.told(&error))
    }

    async fn switch_on(&self, channel: &str, who: &str) -> Result<(), StoreError> {
        change!(self, |tx, now| {
            let sql = "DELETE FROM alert_channel_off WHERE channel = ?1";
            if sqlx::query(sql).bind(channel).execute(&mut *tx).await?.rows_affected() > 0 {
                facts::log(tx, &audit::channel_on(now, &without_nul(who), channel)).await?;
            }
        })
    }

    async fn pending(&self) -> Result<u64, StoreError> {
        let mut desk = self.desk.lock().await;
        let sql = "SELECT count(*) FROM alert_delivery WHERE state = 'pending'";
        let count = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *desk).await.and_then(rows::count);
        count.map_err(|error| self.told(&error))
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

async fn look_around(tx: &mut SqliteConnection, channels: &[ChannelRule], now: Wall) -> Sql<Vec<Alert>> {
    let steady = note_look(tx, now).await?;
    let mut notices = news(tx, now).await?;
    for facts in windows(tx, now).await? {
        notices.extend(alert::of_window(&facts, now));
        note_window(tx, &facts, now).await?;
    }
    if steady {
        notices.extend(silent(tx, now).await?.iter().map(alert::of_session));
    }
    let sql = "DELETE FROM alert_look WHERE at < ?1";
    sqlx::query(sql).bind((now - alert::LOOKS_KEPT).0).execute(&mut *tx).await?;
    let kept = (now - alert::KEPT).0;
    let sql = "DELETE FROM alert_delivery WHERE alert_id IN (SELECT alert_id FROM alert WHERE at < ?1)";
    sqlx::query(sql).bind(kept).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM alert WHERE at < ?1").bind(kept).execute(&mut *tx).await?;
    raise(tx, &notices, channels, now).await
}

/// Whether somebody has looked all the time lately: then who looks silent is.
async fn note_look(tx: &mut SqliteConnection, now: Wall) -> Sql<bool> {
    let sql = "UPDATE alert_watch SET looked_at = ?1, \
                 steady_since = CASE WHEN ?1 - looked_at BETWEEN 0 AND ?2 THEN steady_since ELSE ?1 END \
               RETURNING steady_since";
    let query = sqlx::query_scalar(sql).bind(now.0).bind(micros(alert::SILENT));
    let since: i64 = query.fetch_one(tx).await?;
    Ok(Wall(since) + alert::SILENT <= now)
}

/// What the audit log says since the last look. After a cap was changed its thresholds are news again.
async fn news(tx: &mut SqliteConnection, now: Wall) -> Sql<Vec<Notice>> {
    let sql = "SELECT i.event_id, e.at, e.who, e.what, e.subject, e.detail FROM alert_inbox i \
               JOIN event e USING (event_id) ORDER BY i.event_id LIMIT ?1";
    let found = sqlx::query(sql).bind(LINES_MAX).fetch_all(&mut *tx).await?;
    let mut notices = Vec::new();
    for row in &found {
        let id: i64 = row.try_get(0)?;
        sqlx::query("DELETE FROM alert_inbox WHERE event_id = ?1").bind(id).execute(&mut *tx).await?;
        let detail = rows::from_json(row.try_get(5)?)?;
        let at = Wall(row.try_get(1)?);
        if at + alert::NEWS < now {
            continue;
        }
        let (who, what, subject) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let line = Line { id, at, who, what, subject, detail: &detail };
        if let Some((project, window)) = events::changed_cap(&line) {
            for topics in alert::topics_of_cap(&project, window) {
                let sql = "UPDATE alert SET topic = topic || '#' || hex(alert_id) \
                           WHERE substr(topic, 1, length(?1)) = ?1 AND instr(topic, '#') = 0";
                sqlx::query(sql).bind(topics).execute(&mut *tx).await?;
            }
        }
        notices.extend(events::of_line(&line));
    }
    Ok(notices)
}

async fn windows(tx: &mut SqliteConnection, now: Wall) -> Sql<Vec<WindowFacts>> {
    let sql = concat!(
        "SELECT ",
        window_columns!(),
        " FROM budget_window WHERE cap IS NOT NULL AND kind <> 'run' AND starts_at <= ?1 \
          AND (ends_at IS NULL OR ends_at > ?1)"
    );
    let open = sqlx::query(sql).bind(now.0).fetch_all(&mut *tx).await?;
    let mut all = Vec::with_capacity(open.len());
    for row in &open {
        let window = rows::window(row)?;
        let sql = "SELECT at, used FROM alert_look WHERE window_id = ?1";
        let looks = sqlx::query(sql).bind(window.id.0).fetch_all(&mut *tx).await?;
        let look = |row: &SqliteRow| Ok(Look { at: Wall(row.try_get(0)?), used: money(row, 1)? });
        let looks = looks.iter().map(look).collect::<Sql<_>>()?;
        let waiting = alert::may_be_reached(&window) && is_waited_for(tx, &window).await?;
        all.push(WindowFacts { window, waiting, looks });
    }
    Ok(all)
}

/// Whether jobs are parked because of a window. One that could be parked because of the project's window
/// as well as of the account's counts for the project's.
async fn is_waited_for(tx: &mut SqliteConnection, window: &Window) -> Sql<bool> {
    let (kind, reason) = (window.kind.as_str(), alert::parked_for(window.kind));
    let query = if window.project.as_str() == ProjectId::ACCOUNT {
        sqlx::query_scalar::<_, i64>(
            "SELECT EXISTS (SELECT 1 FROM parked p WHERE p.released_at IS NULL \
               AND substr(p.reason, 1, length(?2)) = ?2 AND NOT EXISTS (SELECT 1 FROM project_cap c \
                 WHERE c.project_id = p.project_id AND c.kind = ?3)) AND ?1 = '*'",
        )
    } else {
        sqlx::query_scalar::<_, i64>(
            "SELECT EXISTS (SELECT 1 FROM parked p WHERE p.project_id = ?1 AND p.released_at IS NULL \
               AND substr(p.reason, 1, length(?2)) = ?2) AND ?3 <> ''",
        )
    };
    Ok(query.bind(window.project.as_str()).bind(reason).bind(kind).fetch_one(tx).await? != 0)
}

async fn note_window(tx: &mut SqliteConnection, facts: &WindowFacts, now: Wall) -> Sql<()> {
    if facts.looks.iter().any(|look| look.at + alert::LOOK_EVERY > now) {
        return Ok(());
    }
    let sql = "INSERT INTO alert_look (window_id, at, used) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(facts.window.id.0).bind(now.0).bind(alert::used(&facts.window).0);
    query.execute(tx).await?;
    Ok(())
}

/// Sessions that nobody hears of, and those that were ended for it within the last day.
async fn silent(tx: &mut SqliteConnection, now: Wall) -> Sql<Vec<SilentSession>> {
    let sql = "SELECT worker_id, label, heartbeat_at, 1 - alive FROM worker \
               WHERE alive = 1 AND heartbeat_at < ?1 - ?2 \
                 OR alive = 0 AND ended_at > ?1 - ?3 AND ended_at - heartbeat_at > ?4";
    let query = sqlx::query(sql).bind(now.0).bind(micros(alert::SILENT)).bind(micros(alert::NEWS));
    let found = query.bind(UNHEARD_US).fetch_all(tx).await?;
    let session = |row: &SqliteRow| {
        Ok(SilentSession {
            worker: WorkerId(rows::uuid(row, 0)?),
            label: row.try_get(1)?,
            heard_at: Wall(row.try_get(2)?),
            ended: row.try_get::<i64, _>(3)? != 0,
        })
    };
    found.iter().map(session).collect()
}

async fn raise(
    tx: &mut SqliteConnection,
    notices: &[Notice],
    channels: &[ChannelRule],
    now: Wall,
) -> Sql<Vec<Alert>> {
    let mut raised = Vec::new();
    if notices.is_empty() {
        return Ok(raised);
    }
    let off = channels_off(tx).await?;
    for notice in notices {
        let alert = Alert { id: Uuid::now_v7(), at: now, notice: notice.clone() };
        let sql = "INSERT INTO alert (alert_id, at, topic, level, kind, severity, project_id, title, body) \
                   SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 \
                   WHERE NOT EXISTS (SELECT 1 FROM alert WHERE topic = ?3 AND level >= ?4)";
        let query = sqlx::query(sql).bind(alert.id.as_bytes().to_vec()).bind(now.0);
        let query = query.bind(without_nul(&notice.topic).into_owned()).bind(notice.level);
        let query = query.bind(notice.kind.as_str()).bind(notice.severity.as_str());
        let query = query.bind(notice.project.as_ref().map(|id| without_nul(id.as_str()).into_owned()));
        let query = query.bind(without_nul(&notice.title).into_owned());
        let query = query.bind(without_nul(&notice.text).into_owned());
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            continue;
        }
        let is_on = |channel: &&ChannelRule| off.iter().all(|off| off.channel != channel.id);
        for channel in channels.iter().filter(is_on).filter(|channel| channel.takes(notice)) {
            let sql = "INSERT INTO alert_delivery (alert_id, channel, state, next_at) VALUES (?1, ?2, 'pending', ?3)";
            let query = sqlx::query(sql).bind(alert.id.as_bytes().to_vec()).bind(&channel.id);
            query.bind(now.0).execute(&mut *tx).await?;
        }
        raised.push(alert);
    }
    Ok(raised)
}

/// The delivery that is due the longest and that nobody claims.
async fn due(conn: &mut SqliteConnection, channel: &str, now: Wall) -> Sql<Option<SqliteRow>> {
    let sql = "SELECT a.alert_id, a.at, a.topic, a.level, a.kind, a.severity, a.project_id, a.title, a.body, d.tries \
               FROM alert_delivery d JOIN alert a USING (alert_id) \
               WHERE d.channel = ?1 AND d.state = 'pending' AND d.next_at <= ?2 \
                 AND (d.claimed_at IS NULL OR d.claimed_at <= ?2 - ?3) ORDER BY d.next_at, d.alert_id LIMIT 1";
    sqlx::query(sql).bind(channel).bind(now.0).bind(micros(LEASE)).fetch_optional(conn).await
}

async fn claim(tx: &mut SqliteConnection, channel: &str, by: WorkerId, now: Wall) -> Sql<Option<Delivery>> {
    let Some(row) = due(tx, channel, now).await? else { return Ok(None) };
    let alert = an_alert(&row)?;
    let sql =
        "UPDATE alert_delivery SET claimed_by = ?3, claimed_at = ?4 WHERE alert_id = ?1 AND channel = ?2";
    let query = sqlx::query(sql).bind(alert.id.as_bytes().to_vec()).bind(channel);
    query.bind(by.0.as_bytes().to_vec()).bind(now.0).execute(tx).await?;
    let tries = rows::count(row.try_get(9)?)?;
    Ok(Some(Delivery { alert, channel: channel.to_owned(), tries, by }))
}

async fn settle(tx: &mut SqliteConnection, delivery: &Delivery, end: &DeliveryEnd, now: Wall) -> Sql<bool> {
    let (id, channel) = (delivery.alert.id.as_bytes().to_vec(), delivery.channel.as_str());
    let (state, next_at, why) = match end {
        DeliveryEnd::Sent => ("sent", now, None),
        DeliveryEnd::Failed { why, wait } => ("pending", now + *wait, Some(why)),
        DeliveryEnd::Quiet { until } => ("pending", *until, None),
        DeliveryEnd::GaveUp { why } => ("given_up", now, Some(why)),
        DeliveryEnd::Gone { .. } => ("off", now, None),
    };
    let sql = "UPDATE alert_delivery SET state = ?4, next_at = ?5, claimed_by = NULL, claimed_at = NULL, \
                 tries = tries + (?6 IS NOT NULL), last_error = coalesce(?6, last_error), \
                 ended_at = CASE WHEN ?4 <> 'pending' THEN ?7 END \
               WHERE alert_id = ?1 AND channel = ?2 AND claimed_by = ?3 AND state = 'pending'";
    let query = sqlx::query(sql).bind(id).bind(channel).bind(delivery.by.0.as_bytes().to_vec());
    let query = query.bind(state).bind(next_at.0).bind(why.map(|why| without_nul(why).into_owned()));
    if query.bind(now.0).execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(false);
    }
    match end {
        DeliveryEnd::Sent if delivery.tries > 0 => {
            let sql = "UPDATE alert_delivery SET next_at = ?2 WHERE channel = ?1 AND state = 'pending' \
                         AND tries > 0 AND next_at > ?2 AND claimed_by IS NULL";
            sqlx::query(sql).bind(channel).bind(now.0).execute(tx).await?;
        }
        DeliveryEnd::GaveUp { why } => {
            let (title, tries) = (&delivery.alert.notice.title, delivery.tries + 1);
            facts::log(tx, &audit::alert_given_up(now, channel, title, tries, &without_nul(why))).await?;
        }
        DeliveryEnd::Gone { address } => {
            let sql = "UPDATE alert_delivery SET state = 'off', ended_at = ?2, claimed_by = NULL, claimed_at = NULL \
                       WHERE channel = ?1 AND state = 'pending'";
            sqlx::query(sql).bind(channel).bind(now.0).execute(&mut *tx).await?;
            let sql = "INSERT INTO alert_channel_off (channel, address, since) VALUES (?1, ?2, ?3) \
                       ON CONFLICT (channel) DO UPDATE SET address = excluded.address";
            sqlx::query(sql).bind(channel).bind(address).bind(now.0).execute(&mut *tx).await?;
            facts::log(tx, &audit::channel_off(now, channel)).await?;
        }
        DeliveryEnd::Sent | DeliveryEnd::Failed { .. } | DeliveryEnd::Quiet { .. } => {}
    }
    Ok(true)
}

async fn alerts(conn: &mut SqliteConnection, limit: u32) -> Sql<Vec<AlertRow>> {
    let sql = "SELECT alert_id, at, topic, level, kind, severity, project_id, title, body FROM alert \
               ORDER BY at DESC, alert_id DESC LIMIT ?1";
    let found = sqlx::query(sql).bind(limit).fetch_all(&mut *conn).await?;
    let mut all = Vec::with_capacity(found.len());
    for row in &found {
        let alert = an_alert(row)?;
        let sql = "SELECT channel, state, tries, next_at, ended_at, last_error FROM alert_delivery \
                   WHERE alert_id = ?1 ORDER BY channel";
        let sent = sqlx::query(sql).bind(alert.id.as_bytes().to_vec()).fetch_all(&mut *conn).await?;
        let deliveries = sent.iter().map(a_delivery).collect::<Sql<_>>()?;
        all.push(AlertRow { alert, deliveries });
    }
    Ok(all)
}

fn a_delivery(row: &SqliteRow) -> Sql<DeliveryRow> {
    let ended_at = rows::maybe_wall(row, 4)?;
    Ok(DeliveryRow {
        channel: row.try_get(0)?,
        state: rows::word(row.try_get(1)?)?,
        tries: rows::count(row.try_get(2)?)?,
        next_at: Some(Wall(row.try_get(3)?)).filter(|_| ended_at.is_none()),
        ended_at,
        last_error: row.try_get(5)?,
    })
}

async fn channels_off(conn: &mut SqliteConnection) -> Sql<Vec<ChannelOff>> {
    let sql = "SELECT channel, address, since FROM alert_channel_off ORDER BY channel";
    let off = |row: &SqliteRow| {
        Ok(ChannelOff { channel: row.try_get(0)?, address: row.try_get(1)?, since: Wall(row.try_get(2)?) })
    };
    sqlx::query(sql).fetch_all(conn).await?.iter().map(off).collect()
}

fn an_alert(row: &SqliteRow) -> Sql<Alert> {
    Ok(Alert {
        id: rows::uuid(row, 0)?,
        at: Wall(row.try_get(1)?),
        notice: Notice {
            topic: row.try_get(2)?,
            level: rows::count(row.try_get(3)?)?,
            kind: rows::word(row.try_get(4)?)?,
            severity: rows::word(row.try_get(5)?)?,
            project: row.try_get::<Option<&str>, _>(6)?.map(Into::into),
            title: row.try_get(7)?,
            text: row.try_get(8)?,
        },
    })
}
