//! A checkout as a saga over flashgate, a payment service and an order service: what each step is, what undoes it, and why
//! a crash between any two of them leaves nothing behind.
//!
//! ```sh
//! cargo run --example checkout_saga                                      # the tour, against `make run`
//! cargo run --example checkout_saga -- --decline                         # one story
//! cargo run --example checkout_saga -- --late-payment --crash-after commit:call
//! ```
//!
//! Where to read: `saga.rs` decides what comes next, `shop.rs` does it, `calls.rs` says how each step is asked for,
//! `journal.rs` remembers. The rest is the world around it: `payments.rs` and `orders.rs` are the other two services,
//! `case.rs` the stories, `world.rs` plays them, `audit.rs` looks at the books afterwards.
//!
//! It makes its own location, SKUs and sale, and exits with 0 only if every checkout has come to the one end that its
//! story has, in everybody's books.

mod audit;
mod calls;
mod case;
mod crash;
mod journal;
mod orders;
mod payments;
mod saga;
mod shop;
mod tour;
mod wire;
mod world;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::case::{Case, Trouble};
use crate::crash::Crash;
use crate::saga::Flow;
use crate::shop::ShopArgs;

/// A checkout as a saga. Without a story: every story, then a crash between any two things that any of them does.
#[derive(Debug, Parser)]
struct Arguments {
    /// The gateway's public listener.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Its admin listener.
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    admin: String,
    /// Keep the journals in this directory. Without it they are removed at the end.
    #[arg(long)]
    journals: Option<PathBuf>,
    /// One story only, with its steps in this order.
    #[arg(long, value_enum)]
    flow: Option<Flow>,
    /// One story only: the one in which this goes wrong.
    #[command(flatten)]
    troubles: Troubles,
    /// One story only, in which the shop crashes at `begin` or after STEP: `reserve`, or `reserve:intent` (its intent is
    /// written), `reserve:call` (it was answered), `reserve:torn` (half of the answer is written), `reserve:outcome` (the
    /// answer is written).
    #[arg(long, value_name = "STEP[:MOMENT]")]
    crash_after: Option<Crash>,
    /// Nobody takes over after the crash, so what is left behind is shown, and the exit code is 1.
    #[arg(long, requires = "crash_after")]
    no_resume: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What goes wrong in one story.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Troubles {
    /// There are not enough units.
    #[arg(long)]
    sold_out: bool,
    /// The bank declines.
    #[arg(long)]
    decline: bool,
    /// Each first answer of the payment service gets lost.
    #[arg(long)]
    lose_answers: bool,
    /// The payment service holds the money and never says so.
    #[arg(long)]
    silence: bool,
    /// The order service does not take the order.
    #[arg(long)]
    refuse_order: bool,
    /// The money comes after the reservation has expired; the units are still free.
    #[arg(long)]
    late_payment: bool,
    /// The same, and somebody else has bought the units.
    #[arg(long)]
    late_payment_units_gone: bool,
    /// The bank declines the capture.
    #[arg(long)]
    fail_capture: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The shop's process, which is what crashes.
    #[command(hide = true)]
    Shop(ShopArgs),
}

impl Arguments {
    /// The one story that is wanted; none: all of them.
    fn story(&self) -> Option<Case> {
        let trouble = self.troubles.chosen();
        let is_wanted = trouble != Trouble::Nothing || self.flow.is_some() || self.crash_after.is_some();
        is_wanted.then_some(Case {
            flow: self.flow.unwrap_or(Flow::StockFirst),
            trouble,
            crash: self.crash_after,
        })
    }
}

impl Troubles {
    fn chosen(&self) -> Trouble {
        let all = [
            (self.sold_out, Trouble::SoldOut),
            (self.decline, Trouble::Declined),
            (self.lose_answers, Trouble::AnswersLost),
            (self.silence, Trouble::Silence),
            (self.refuse_order, Trouble::OrderRefused),
            (self.late_payment, Trouble::Late),
            (self.late_payment_units_gone, Trouble::LateAndGone),
            (self.fail_capture, Trouble::CaptureFails),
        ];
        let chosen = all.into_iter().find(|(is_chosen, _)| *is_chosen);
        chosen.map_or(Trouble::Nothing, |(_, trouble)| trouble)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let ended = match arguments.role.take() {
        Some(Role::Shop(args)) => shop::run(args).await.map(|_| true),
        None => {
            tour::run(
                &arguments.url,
                &arguments.admin,
                arguments.journals.clone(),
                arguments.story(),
                arguments.no_resume,
            )
            .await
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            writeln!(io::stderr(), "checkout_saga: {why}").ok();
            ExitCode::from(2)
        }
    }
}
