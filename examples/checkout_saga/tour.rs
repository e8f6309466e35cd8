//! The tour: plays the stories aloud, one by one, then crashes them everywhere, several at a time, and prints the table.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream;

use crate::audit::{self, Found};
use crate::case::Case;
use crate::saga::{End, Flow};
use crate::world::{Played, World};

/// Checkouts that crash at the same time.
const AT_ONCE: usize = 8;

/// A checkout and what the books say of it.
struct Told {
    played: Played,
    found: Found,
}

/// Plays one story, or all of them with every crash. True: each came to its end.
///
/// # Errors
/// It could not be played: nobody serves there, for one.
pub(crate) async fn run(
    url: &str,
    admin: &str,
    journals: Option<PathBuf>,
    only: Option<Case>,
    no_resume: bool,
) -> Result<bool, String> {
    let run = name();
    let kept = journals.is_some();
    let journals = journals.unwrap_or_else(|| std::env::temp_dir().join(&run));
    fs::create_dir_all(&journals).map_err(|error| format!("{}: {error}", journals.display()))?;
    let world = World::open(url, admin, journals.clone(), run).await?;
    let mut all = Vec::new();
    let stories = only.map_or_else(Case::stories, |only| vec![only]);
    for (n, case) in stories.iter().enumerate() {
        title(n + 1, *case);
        let told = Told::of(&world, *case, false, no_resume).await?;
        told.end();
        all.push(told);
    }
    if only.is_none() {
        say(
            "\nNow the shop's process is killed between any two things that it does, in each story, and another takes over.",
        );
        let crashes: Vec<Case> = stories.iter().flat_map(|story| story.crashes()).collect();
        let tell = |case| Told::of(&world, case, true, false);
        let mut crashed = stream::iter(crashes).map(tell).buffered(AT_ONCE);
        while let Some(told) = crashed.next().await {
            all.push(told?);
        }
    }
    world.sale("stop").await?;
    table(&stories, &all);
    let mut is_right = true;
    let played: Vec<Played> = all
        .into_iter()
        .map(|told| {
            if !told.found.wrong.is_empty() {
                say(&format!("WRONG {}: {}", told.place(), told.found.wrong.join("; ")));
                is_right = false;
            }
            told.played
        })
        .collect();
    for wrong in audit::close(&world, &played).await? {
        say(&format!("WRONG {wrong}"));
        is_right = false;
    }
    if is_right {
        say(&format!(
            "Checkouts: {}, crashes: {}. Each came to its one end, and all books agree.",
            played.len(),
            played.iter().filter(|played| played.crashed).count()
        ));
    }
    keep(&journals, kept || !is_right)?;
    Ok(is_right)
}

impl Told {
    async fn of(world: &World, case: Case, is_quiet: bool, no_resume: bool) -> Result<Told, String> {
        let played = world.play(case, is_quiet, no_resume).await?;
        let found = audit::look(world, &played).await?;
        Ok(Told { played, found })
    }

    fn place(&self) -> String {
        let case = self.played.case;
        let crash = case.crash.map(|crash| format!(", crash after {crash}"));
        format!(
            "{} ({}, {}{})",
            self.played.checkout.saga,
            case.flow.name(),
            case.trouble.title(),
            crash.unwrap_or_default()
        )
    }

    fn end(&self) {
        let found = &self.found;
        say(&format!(
            "   = {}: reservation {}, order {}, money {}",
            self.word(),
            found.units,
            found.order,
            found.money
        ));
    }

    fn word(&self) -> &'static str {
        match self.played.end {
            Some(End::Sold) => "sold",
            Some(End::Undone) => "undone",
            None => "NOT ENDED",
        }
    }
}

/// A name that no other tour has.
fn name() -> String {
    // A clock before 1970 would only cost the name its uniqueness.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("saga-{:x}-{:x}", now.as_millis(), process::id())
}

fn title(n: usize, case: Case) {
    let steps = case.flow.steps().map(|step| step.name()).join(", ");
    let crash = case.crash.map(|crash| format!(", and a crash after {crash}"));
    say(&format!(
        "\n{n}. {}{} ({steps})",
        case.trouble.title(),
        crash.unwrap_or_default()
    ));
}

/// A line for each story: how it ended, and how many of its crashes ended the same way.
fn table(stories: &[Case], all: &[Told]) {
    say(&format!(
        "\n{:<12} {:<26} {:<9} {:<20} {:<10} {:<16} crashes that ended so",
        "flow", "story", "end", "reservation", "order", "money"
    ));
    let mut crashes: BTreeMap<(Flow, &str), (usize, usize)> = BTreeMap::new();
    for told in all.iter().filter(|told| told.played.crashed) {
        let case = told.played.case;
        let (right, tried) = crashes.entry((case.flow, case.trouble.title())).or_default();
        *tried += 1;
        *right += usize::from(told.found.wrong.is_empty());
    }
    for (story, told) in stories.iter().zip(all) {
        let found = &told.found;
        let crashed = crashes.get(&(story.flow, story.trouble.title()));
        say(&format!(
            "{:<12} {:<26} {:<9} {:<20} {:<10} {:<16} {}",
            story.flow.name(),
            story.trouble.title(),
            told.word(),
            found.units,
            found.order,
            found.money,
            crashed.map_or_else(|| "-".to_owned(), |(right, tried)| format!("{right} of {tried}"))
        ));
    }
    say("");
}

/// Leaves the journals, where they are to be looked at.
fn keep(journals: &Path, are_kept: bool) -> Result<(), String> {
    if are_kept {
        say(&format!("The journals are in {}.", journals.display()));
        return Ok(());
    }
    fs::remove_dir_all(journals).map_err(|error| format!("{}: {error}", journals.display()))
}

fn say(line: &str) {
    // Whoever started us may not listen.
    writeln!(io::stdout(), "{line}").ok();
}
