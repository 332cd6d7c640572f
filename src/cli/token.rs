//! `outlay token`: who may use the HTTP API and the console.

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::Global;
use super::output::{self, clean};
use crate::app::{self, Admin, Failed, TokenSpec};
use crate::policy::access::{Standing, standing};
use crate::ports::access::TokenRevoked;
use crate::types::Wall;
use crate::types::access::{Role, TokenId, TokenRow};
use crate::types::time::parse_span;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it: it can be read this once only
    Create(CreateArgs),
    /// List all tokens; what they are is not kept
    List,
    /// Take a token back for good, and end what was begun with it
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to call it; the event log names it so
    #[arg(long, value_name = "NAME")]
    name: String,
    /// viewer looks, producer submits jobs and fetches results, admin does everything
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// Good for this project only [default: for all]
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Good for this long, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "SPAN")]
    expires: Option<String>,
}

/// What `create --json` answers.
#[derive(Debug, Serialize)]
struct Created<'a> {
    token: &'a str,
    #[serde(flatten)]
    row: &'a TokenRow,
}

/// What `list --json` and `revoke --json` answer.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    row: &'a TokenRow,
    state: &'static str,
}

pub(super) async fn run(global: &Global, command: &TokenCommand) -> Result<(), Failed> {
    // A token may be the first thing that is made in a new store.
    let making = matches!(command, TokenCommand::Create(_));
    let admin = app::open_admin(&global.options(), making).await?;
    match command {
        TokenCommand::Create(args) => create(global, &admin, args).await,
        TokenCommand::List => list(global, &admin).await,
        TokenCommand::Revoke { id } => revoke(global, &admin, id).await,
    }
}

async fn create(global: &Global, admin: &Admin, args: &CreateArgs) -> Result<(), Failed> {
    let span = |text: &String| {
        let span = parse_span(text).map_err(|what| Failed::usage(format!("--expires: {what}")))?;
        if span.is_zero() {
            Err(Failed::usage("--expires: a token has to be good for a while"))
        } else {
            Ok(span)
        }
    };
    let spec = TokenSpec {
        name: args.name.clone(),
        role: args.role,
        project: args.project.as_deref().map(Into::into),
        good_for: args.expires.as_ref().map(span).transpose()?,
    };
    let (token, row) = app::create_token(admin, spec).await?;
    if global.json {
        return output::print_json(&Created { token: &token, row: &row });
    }
    let scope = row.project.as_ref().map_or_else(|| "all projects".to_owned(), |p| format!("project {p}"));
    let until = row
        .expires_at
        .map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", output::time_utc(at)));
    output::say(&clean(&format!(
        "{} {} for {scope}, good {until} (id {}). Keep it now: it cannot be shown again.",
        row.role, row.name, row.id
    )));
    output::print(&token)
}

async fn list(global: &Global, admin: &Admin) -> Result<(), Failed> {
    let tokens = admin.access.tokens().await?;
    let now = admin.clock.now().wall;
    if global.json {
        let listed = |row| Listed { row, state: state(row, now) };
        return output::print_json(&tokens.iter().map(listed).collect::<Vec<_>>());
    }
    if tokens.is_empty() {
        output::say("no tokens yet: `outlay token create --name NAME --role admin` makes one");
        return Ok(());
    }
    let rows: Vec<_> = tokens.iter().map(|token| cells(token, now)).collect();
    output::table(&["id", "name", "role", "project", "state", "expires", "last used", "made by"], &rows)
}

async fn revoke(global: &Global, admin: &Admin, id: &str) -> Result<(), Failed> {
    let parsed: Uuid = id
        .parse()
        .map_err(|_| Failed::usage(format!("`{id}` is no token's id; `outlay token list` shows them")))?;
    let (row, words) = match admin.access.revoke_token(TokenId(parsed), &app::user_name()).await? {
        TokenRevoked::Revoked(row) => (row, "is revoked: it is good for nothing any more"),
        TokenRevoked::Already(row) => (row, "was revoked before"),
        TokenRevoked::Unknown => {
            return Err(Failed::usage(format!("there is no token {id}; `outlay token list` shows them")));
        }
    };
    if global.json {
        return output::print_json(&Listed { row: &row, state: "revoked" });
    }
    output::print(&clean(&format!("{} {words}", row.name)))
}

fn state(token: &TokenRow, now: Wall) -> &'static str {
    match standing(token, now) {
        Standing::Good => "good",
        Standing::Expired => "expired",
        Standing::Revoked => "revoked",
    }
}

fn cells(token: &TokenRow, now: Wall) -> Vec<String> {
    let time = |at: Option<Wall>, otherwise: &str| at.map_or_else(|| otherwise.to_owned(), output::time_utc);
    vec![
        token.id.to_string(),
        token.name.clone(),
        token.role.to_string(),
        token.project.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string),
        state(token, now).to_owned(),
        time(token.expires_at, "never"),
        time(token.last_used_at, "never"),
        token.created_by.clone(),
    ]
}
