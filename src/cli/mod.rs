//! What a person types. One file per command; each turns arguments into calls on `app` and answers
//! into text or JSON.
//!
//! Results go to stdout or `-o`, everything else to stderr. Exit codes, first that applies: 130
//! interrupted, 2 usage or configuration, 4 a service is unreachable, 3 jobs left parked, 1 some
//! jobs failed, 0 all done.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::Failed;

mod admin;
mod alerts;
mod budget;
mod completions;
mod config;
mod dead;
mod doctor;
mod dry_run;
mod explain;
mod feedback;
mod jobs;
mod ledger;
mod migrate;
mod models;
mod output;
mod panel;
mod prices;
mod project;
mod reconcile;
mod results;
mod run;
mod spend;
mod submit;
mod token;
mod worker;

/// Routes LLM batch jobs to models by cost and deadline, and stops hard at each project's cap.
#[derive(Debug, Parser)]
#[command(name = "outlay", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file [default: ./outlay.toml if there is one, else a built-in simulated setup]
    #[arg(long, global = true, value_name = "FILE", env = "OUTLAY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where jobs and spend are kept, such as sqlite:outlay.db or postgres://... [default: from the
    /// configuration]
    #[arg(long, global = true, value_name = "URL", env = "OUTLAY_STORE_URL")]
    pub(crate) store: Option<String>,
    /// Print JSON for machines instead of tables for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Tell more on stderr; twice for even more (RUST_LOG is finer)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run jobs from JSONL files to the end; run again to resume
    Run(run::RunArgs),
    /// Consume RabbitMQ and write results and spend to Postgres, until SIGTERM
    Worker(worker::WorkerArgs),
    /// Serve the HTTP API and the console, until SIGTERM
    Admin(admin::AdminArgs),
    /// Make, list and revoke the tokens by which people and programs come in
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Publish jobs from JSONL files to the queue, each confirmed
    Submit(submit::SubmitArgs),
    /// Print results from the store as JSONL
    Results(results::ResultsArgs),
    /// Tell why a job went where it went, call by call
    Explain(explain::ExplainArgs),
    /// Say how good a job's answer was: it counts for the model that gave it
    Feedback(feedback::FeedbackArgs),
    /// List, show, cancel and release jobs
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// List, show, redrive and discard messages that were given up
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// List alerts, and try whether they arrive
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Sum up what was spent
    Spend(spend::SpendArgs),
    /// Show and change the caps of projects
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Show, pause and resume projects
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// Show and check the catalogue of models
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Check the books, and close calls whose bill is unknown
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Compare a provider's bill with the ledger
    Reconcile(reconcile::ReconcileArgs),
    /// Look for what is worth a look: routes, budgets, prices, deadlines, clocks, queues
    Doctor(doctor::DoctorArgs),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Create the store or bring it up to date
    Migrate,
    /// Print a script with which a shell completes commands and options
    Completions(completions::CompletionsArgs),
}

/// Parses the arguments, runs the command, and says how the process should end.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::start_logging(cli.global.verbose, matches!(cli.command, Command::Worker(_) | Command::Admin(_)));
    #[cfg(outlay_mutants)]
    crate::mutants::announce();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failed::usage(format!("no runtime could be started: {error}"))),
    };
    let outcome = runtime.block_on(dispatch(&cli));
    // A call that outlived the drain must not keep the process: its money is presumed already.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failed) => report(&failed),
    }
}

async fn dispatch(cli: &Cli) -> Result<u8, Failed> {
    let global = &cli.global;
    match &cli.command {
        Command::Run(args) => return run::run(global, args).await,
        Command::Worker(args) => return worker::run(global, args).await,
        Command::Submit(args) => return submit::run(global, args).await,
        Command::Admin(args) => admin::run(global, args).await?,
        Command::Token(command) => token::run(global, command).await?,
        Command::Jobs(command) => jobs::run(global, command).await?,
        Command::Dead(command) => dead::run(global, command).await?,
        Command::Results(args) => results::run(global, args).await?,
        Command::Explain(args) => explain::run(global, args).await?,
        Command::Feedback(args) => feedback::run(global, args).await?,
        Command::Alerts(command) => return alerts::run(global, command).await,
        Command::Spend(args) => spend::run(global, args).await?,
        Command::Budget(command) => budget::run(global, command).await?,
        Command::Project(command) => project::run(global, command).await?,
        Command::Models(command) => return models::run(global, command).await,
        Command::Ledger(command) => return ledger::run(global, command).await,
        Command::Reconcile(args) => return reconcile::run(global, args).await,
        Command::Doctor(args) => return doctor::run(global, args).await,
        Command::Config(command) => config::run(global, command)?,
        Command::Migrate => migrate::run(global).await?,
        Command::Completions(args) => completions::run(args)?,
    }
    Ok(0)
}

fn report(failed: &Failed) -> ExitCode {
    output::say(&format!("error: {}", failed.message));
    ExitCode::from(failed.code)
}
