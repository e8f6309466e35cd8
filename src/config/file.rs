//! The settings file: flat TOML, its keys the names of arguments.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// Arguments that make no sense in the file itself.
pub(super) const NOT_IN_A_FILE: [&str; 29] = [
    "accept",
    "at",
    "close",
    "config",
    "dir",
    "fault",
    "gateway_cores",
    "headroom",
    "help",
    "hot_hours",
    "json",
    "list",
    "location",
    "minutes",
    "order",
    "postgres_cores",
    "rate",
    "reads",
    "redis_nodes",
    "repair",
    "report",
    "results",
    "rounds",
    "sale_minutes",
    "seed",
    "short",
    "sku",
    "skus",
    "version",
];

/// The file that the flags name, else the environment. Looked for before the arguments are parsed, because it decides
/// their defaults.
pub(super) fn named_in(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        if arg == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("FLASHGATE_CONFIG").map(PathBuf::from)
}

/// The command with the file's values as its arguments' defaults.
pub(super) fn apply(command: Command, path: &Path) -> Result<Command, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => apply_text(command, &path.display().to_string(), &text),
        Err(error) => Err(wrong(command, format!("--config {}: {error}", path.display()))),
    }
}

pub(super) fn apply_text(mut command: Command, name: &str, text: &str) -> Result<Command, Error> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(wrong(command, format!("{name} is not TOML: {error}"))),
    };
    for (key, value) in table {
        let Some(texts) = texts_of(&value) else {
            return Err(wrong(
                command,
                format!("{name}: {key} must be a text, a number, true or false, or a list of texts"),
            ));
        };
        let holders: Vec<String> = command
            .get_subcommands()
            .filter(|sub| sub.get_arguments().any(|arg| is(arg, &key)))
            .map(|sub| sub.get_name().to_owned())
            .collect();
        let at_top = command.get_arguments().any(|arg| is(arg, &key));
        if NOT_IN_A_FILE.contains(&key.as_str()) || (holders.is_empty() && !at_top) {
            return Err(wrong(command, format!("{name}: {key} is not a setting")));
        }
        if at_top {
            command = command.mut_arg(&key, |arg| with_default(arg, &texts));
        }
        for holder in holders {
            command = command.mut_subcommand(holder, |sub| sub.mut_arg(&key, |arg| with_default(arg, &texts)));
        }
    }
    Ok(command)
}

fn is(arg: &Arg, key: &str) -> bool {
    arg.get_id().as_str() == key
}

fn with_default(arg: Arg, texts: &[String]) -> Arg {
    arg.required(false).default_values(
        texts
            .iter()
            .map(OsStr::new)
            .map(OsStr::to_owned)
            .collect::<Vec<OsString>>(),
    )
}

fn texts_of(value: &toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(yes) => vec![yes.to_string()],
        toml::Value::Array(list) => list
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
        _ => return None,
    })
}

fn wrong(mut command: Command, text: String) -> Error {
    command.error(ErrorKind::ValueValidation, text)
}
