//! A server that crashes between a commit and the disk.

use outlay::ports::ledger::SessionSpec;
use outlay::ports::{Clock as _, Ledger as _};
use outlay::types::ledger::{Begin, ParkReason, ParkRequest, Parked};
use outlay::types::{NanoUsd, Status};

use super::Fleet;
use crate::e2e::private;
use crate::support::database::Database;
use crate::support::{job, key};

/// Another's end of a job is seen as soon as its lock is let go of, which is before it is on disk. Whoever is
/// told of it lets go of the job's message, so from then on no crash may take it away.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_of_others_is_there_after_a_crash() {
    let Some(services) = private("postgres").await else { return };
    // What nobody waits for stays in memory for so long.
    for setting in ["ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()"] {
        services.ctl(&["psql", "-c", setting]).await.expect("set");
    }
    let url = services.postgres_url().expect("an address");
    let server = url.rsplit_once('/').map_or(url, |(server, _)| server);
    let database = Database::at(format!("{server}/")).await.expect("a database");
    let fleet = Fleet::on(database).await;
    for id in ["looked-up", "begun", "parked"] {
        let asker = fleet.process(SessionSpec::default()).await;
        fleet.go(&asker.writer, id, 10).await;
        fleet
            .database
            .meddle(&format!(
                "SET synchronous_commit = off;
                 INSERT INTO outlay.result (project_id, job_id, generation, task, status, cost, presumed,
                     finished_at, written_at, body)
                 VALUES ('p', '{id}', 1, 't', 'done', 0, 0, 0, 0, '{{}}')"
            ))
            .await;
        let job = job("p", id, 1);
        let ended = match id {
            "looked-up" => {
                let known = asker.writer.lookup(&key("p", id), job.body_hash, false).await;
                known.expect("an answer").and_then(|known| known.finished)
            }
            "begun" => match asker.writer.begin(fleet.ask(job, 10)).await.expect("an answer") {
                Begin::Finished(status) => Some(status),
                other => panic!("{other:?}"),
            },
            _ => {
                let request = ParkRequest {
                    job,
                    accepted_at: fleet.clock.now().wall,
                    reason: ParkReason::Stopped { reason: "a test".to_owned() },
                    hold: NanoUsd(10),
                    runs_for: std::time::Duration::from_secs(120),
                };
                match asker.writer.park(request).await.expect("an answer") {
                    Parked::Finished(status) => Some(status),
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(ended, Some(Status::Done), "{id}");
        services.act("kill9", "postgres").await.expect("killed");
        services.act("restart", "postgres").await.expect("restarted");
        let there = format!("SELECT count(*) FROM outlay.result WHERE job_id = '{id}'");
        assert_eq!(fleet.database.number(&there).await, 1, "{id}: its end was told and is gone");
        asker.kill().await;
    }
}
