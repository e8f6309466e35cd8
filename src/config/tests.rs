//! What the command line takes, and what it says about what it does not take.

use clap::{CommandFactory, FromArgMatches};

use super::file::NOT_IN_A_FILE;
use super::*;

const SAMPLE: &str = include_str!("../../flashgate.toml");

const URLS: [&str; 4] = ["--redis-url", "redis://r", "--database-url", "postgres://d"];

fn with_file(text: &str, args: &[&str]) -> Result<Cli, clap::Error> {
    let command = file::apply_text(Cli::command(), "settings", text)?;
    let matches = command.try_get_matches_from(["flashgate"].iter().chain(args))?;
    Cli::from_arg_matches(&matches)
}

fn parsed(args: &[&str]) -> Result<Cli, clap::Error> {
    parse(["flashgate"].iter().chain(args).map(OsString::from))
}

fn serve(cli: Cli) -> Serve {
    match cli.command {
        Command::Serve(serve) => *serve,
        other => panic!("{other:?} is not serve"),
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_sample_file_is_the_defaults() {
    let args: Vec<&str> = ["serve"].into_iter().chain(URLS).collect();
    for role in [&args[..], &["dev"]] {
        let plain = with_file("", role).expect("it is valid");
        let sampled = with_file(SAMPLE, role).expect("it is valid");
        assert_eq!(format!("{plain:?}"), format!("{sampled:?}"));
    }
}

#[test]
fn the_sample_file_names_every_setting() {
    let command = Cli::command();
    let all = command
        .get_subcommands()
        .chain([&command])
        .flat_map(clap::Command::get_arguments);
    for arg in all
        .map(|arg| arg.get_id().as_str())
        .filter(|id| !NOT_IN_A_FILE.contains(id))
    {
        let starts = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{arg} = "));
        assert!(SAMPLE.lines().any(starts), "{arg} is in the sample");
    }
}

#[test]
fn defaults_are_those_of_the_modules() {
    let args: Vec<&str> = ["serve"].into_iter().chain(URLS).collect();
    let serve = serve(with_file("", &args).expect("it is valid"));
    assert_eq!(
        format!("{:?}", serve.process.ledger("u")),
        format!("{:?}", ledger::Settings::new("u"))
    );
    assert_eq!(
        format!("{:?}", serve.process.flash("u")),
        format!("{:?}", flash::Settings::new("u"))
    );
    assert_eq!(serve.roles, Role::ALL);
    assert_eq!(serve.process.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(serve.process.admin_listen.to_string(), "127.0.0.1:8081");
}

#[test]
fn a_flag_wins_over_the_file() {
    let file =
        "redis_url = 'redis://f'\ndatabase_url = 'postgres://f'\nroles = ['http']\nqueue_max = 1000\nno_demo = true";
    let args = ["serve", "--queue-max", "2000", "--roles", "writer,granter"];
    let serve = serve(with_file(file, &args).expect("it is valid"));
    assert_eq!(serve.redis_url, "redis://f");
    assert_eq!(serve.roles, [Role::Writer, Role::Granter]);
    assert_eq!(serve.process.flash("u").queue_max, 2000);
    let Command::Dev(dev) = with_file(file, &["dev"]).expect("it is valid").command else {
        panic!("dev was asked for")
    };
    assert!(dev.no_demo);
}

#[test]
fn what_is_wrong_is_named() {
    let table: &[(&str, &[&str], &str)] = &[
        ("", &["serve", "--database-url", "postgres://d"], "--redis-url"),
        ("", &["dev", "--listen", "8080"], "--listen"),
        ("", &["dev", "--queue-max", "0"], "--queue-max"),
        ("", &["dev", "--log-filter", "a=b=c"], "--log-filter"),
        ("", &["dev", "--lanes", "513"], "--lanes"),
        ("client_rate = 'many'", &["dev"], "--client-rate"),
        ("queue_max = -1", &["dev"], "--queue-max"),
        ("roles = ['cook']", &["serve"], "--roles"),
        ("queue_size = 5", &["dev"], "queue_size is not a setting"),
        ("config = 'x'", &["dev"], "config is not a setting"),
        ("payment_grace_seconds = -1", &["dev"], "--payment-grace-seconds"),
        (
            "",
            &["dev", "--payment-grace-seconds", "86401"],
            "--payment-grace-seconds",
        ),
        ("choice_distance = -1.5", &["dev"], "--choice-distance"),
        ("choice_priority = 'much'", &["dev"], "--choice-priority"),
        ("[http]\nlisten = ':1'", &["dev"], "http must be"),
        ("listen =", &["dev"], "settings is not TOML"),
    ];
    for (file, args, named) in table {
        let error = with_file(file, args).expect_err(named).to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    for (args, named) in [
        (
            &["dev", "--in-flight-max", "5", "--in-flight-reserved", "5"][..],
            "--in-flight-reserved",
        ),
        (&["dev", "--in-flight-start", "255"][..], "--in-flight-start"),
        (&["dev", "--listen", "127.0.0.1:8081"][..], "--admin-listen"),
        (&["dev", "--config", "/nowhere.toml"][..], "/nowhere.toml"),
        (
            &[
                "serve",
                "--redis-url",
                "http://u:secret@r",
                "--database-url",
                "postgres://d",
            ][..],
            "--redis-url",
        ),
        (
            &[&["serve", "--read-database-url", "mysql://u:secret@d"], &URLS[..]].concat()[..],
            "--read-database-url",
        ),
        (
            &["migrate", "--database-url", "mysql://u:secret@d"][..],
            "--database-url",
        ),
    ] {
        let error = parsed(args).expect_err(named).to_string();
        assert!(error.contains(named), "{named}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_same_port_0_is_two_ports() {
    assert!(parsed(&["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).is_ok());
    assert_eq!(
        address("localhost:80").map(|a| a.to_string()).as_deref(),
        Ok("127.0.0.1:80")
    );
    assert_eq!(address("[::1]:80").map(|a| a.to_string()).as_deref(), Ok("[::1]:80"));
}

#[test]
fn a_password_is_not_repeated_in_help() {
    let command = Cli::command();
    for arg in command.get_subcommands().flat_map(clap::Command::get_arguments) {
        if arg.get_id().as_str().ends_with("_url") {
            assert!(arg.is_hide_env_values_set(), "{}", arg.get_id());
        }
    }
}
