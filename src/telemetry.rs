//! Logs: to stderr, as text or JSON lines, filtered by target and level.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// How logs look on stderr
    #[arg(
        long,
        env = "FLASHGATE_LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        value_enum
    )]
    pub log_format: Format,

    /// What is logged: a level, or a list such as info,flashgate::flash=debug
    #[arg(long, env = "FLASHGATE_LOG_FILTER", global = true, value_name = "FILTER", default_value = "info,fred=error",
          value_parser = filter)]
    pub log_filter: String,
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// Starts logging; a second call in one process changes nothing.
pub fn init(settings: &Settings) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.log_filter))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.log_format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    // Where another subscriber is in place, as in tests, it stays.
    started.ok();
}
