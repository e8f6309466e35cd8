//! What the compiler does not check about the shape of this tree: which module may know which, that every file says
//! what it is for, that each script's header is what its body does, that each statement bears its name.
//!
//! It reads text and nothing else. Every rule gathers all that breaks it, so one run shows the whole list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this holds a second idea.
const LINES_MAX: usize = 400;
/// Known to everybody: they know nothing of stock.
const LEAVES: [&str; 5] = ["clock", "health", "metric", "telemetry", "thread"];
/// Names that say nothing about what is inside.
const NAMELESS: [&str; 6] = ["util", "common", "core", "types", "manager", "service"];

/// What a module of the crate may import besides itself; none for those on top, which may import all.
fn may_import(module: &str) -> Option<Vec<&'static str>> {
    let own: &[&str] = match module {
        "domain" => return Some(Vec::new()),
        "flash" | "ledger" => &["domain"],
        "recall" => &["domain", "flash", "ledger"],
        "http" => &["domain", "flash", "ledger", "recall"],
        "worker" => &["domain", "flash", "ledger"],
        "capacity" | "dev" => &[],
        "drill" => &["config", "dev", "domain", "flash", "ledger", "worker"],
        leaf if LEAVES.contains(&leaf) => &["domain"],
        _ => return None,
    };
    Some([own, &LEAVES].concat())
}

/// Libraries that one module alone may know.
const OWNED: [(&str, &str); 4] = [
    ("fred", "flash"),
    ("sqlx", "ledger"),
    ("axum", "http"),
    ("governor", "http"),
];

#[test]
fn imports_point_one_way() {
    let mut broken = Vec::new();
    for (path, text) in read("src", "rs") {
        let module = module_of(&path);
        let allowed = may_import(&module);
        for (at, line) in code_lines(&text) {
            for name in line.split("crate::").skip(1).flat_map(first_names) {
                if name != module && allowed.as_ref().is_some_and(|allowed| !allowed.contains(&name)) {
                    broken.push(format!("{path}:{at}: {module} imports {name}"));
                }
            }
            for (library, owner) in OWNED {
                if module != owner
                    && (line.contains(&format!("{library}::")) || line.contains(&format!("use {library};")))
                {
                    broken.push(format!("{path}:{at}: only {owner} may use {library}"));
                }
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut broken = Vec::new();
    for (path, text) in ["src", "tests", "examples"].into_iter().flat_map(|dir| read(dir, "rs")) {
        if !text.starts_with("//! ") {
            broken.push(format!("{path}: opens without a word about itself"));
        }
    }
    for (path, text) in ["src", "examples"].into_iter().flat_map(|dir| read(dir, "rs")) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{path}: {lines} lines; at most {LINES_MAX}"));
        }
        if NAMELESS
            .iter()
            .any(|name| path.split(['/', '.']).any(|part| part == *name))
        {
            broken.push(format!("{path}: a name that could hold anything"));
        }
    }
    assert_none(&broken);
}

/// Each `KEYS[…]` and `ARGV[…]` with a number stands in the header with the name that the body gives it, and in the
/// body; where the body counts on from there, the header has a line with a formula, and the other way round.
#[test]
fn each_script_does_what_its_header_says() {
    let mut broken = Vec::new();
    for (path, text) in read("lua", "lua") {
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("--")).collect();
        let body: Vec<&str> = text
            .lines()
            .skip(header.len())
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect();
        let (mut told, mut counted_told) = (BTreeMap::new(), BTreeSet::new());
        for line in header.iter().map(|line| line.trim_start_matches('-').trim_start()) {
            if let Some((array, index)) = references(line).first().filter(|(array, _)| line.starts_with(array)) {
                let name = line
                    .split(']')
                    .nth(1)
                    .and_then(|rest| rest.split_whitespace().next())
                    .unwrap_or_default();
                if index.parse::<usize>().is_ok() {
                    told.insert(format!("{array}[{index}]"), name.trim_end_matches(',').to_owned());
                } else {
                    counted_told.insert(*array);
                }
            }
        }
        let (mut used, mut counted_used, mut named) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for line in &body {
            for (array, index) in references(line) {
                if index.parse::<usize>().is_ok() {
                    used.insert(format!("{array}[{index}]"));
                } else {
                    counted_used.insert(array);
                }
            }
            counted_used.extend(
                ["KEYS", "ARGV"]
                    .into_iter()
                    .filter(|array| line.contains(&format!("unpack({array}"))),
            );
            if let Some((names, values)) = line.strip_prefix("local ").and_then(|line| line.split_once(" = ")) {
                for (name, value) in names.split(", ").zip(values.split(", ")) {
                    if let Some((array, index)) = references(value).first() {
                        named.insert(format!("{array}[{index}]"), name.to_owned());
                    }
                }
            }
        }
        if told != named {
            broken.push(format!("{path}: the header says {told:?}, the body {named:?}"));
        }
        if !told.keys().eq(used.iter()) {
            broken.push(format!(
                "{path}: the header names {:?}, the body uses {used:?}",
                told.keys()
            ));
        }
        if counted_told != counted_used {
            broken.push(format!(
                "{path}: the header counts {counted_told:?}, the body {counted_used:?}"
            ));
        }
    }
    assert_none(&broken);
}

/// So that a slow statement in Postgres' log is found here by its first line. What only changes tables has no such line.
#[test]
fn every_statement_bears_its_name() {
    const UTILITY: [&str; 5] = ["ALTER ", "CREATE ", "DROP ", "LOCK ", "SET "];
    let mut broken = Vec::new();
    for (path, text) in read("src/ledger", "rs") {
        for call in ["query", "query_as", "query_scalar"].map(|call| format!("sqlx::{call}")) {
            for (at, _) in text.match_indices(&call) {
                let rest = &text[at + call.len()..];
                let argument = match rest.strip_prefix("::<") {
                    Some(turbofish) => turbofish.split_once(">(").map(|(_, argument)| argument),
                    None => rest.strip_prefix('('),
                };
                // Its first literal, past `&format!(` or `concat!(`; none where it is a name.
                let Some((before, literal)) = argument.and_then(|argument| argument.split_once('"')) else {
                    continue;
                };
                let is_named = literal.starts_with("-- ") || UTILITY.iter().any(|verb| literal.starts_with(verb));
                if !before.contains([';', ')']) && !is_named {
                    broken.push(format!(
                        "{path}:{}: a statement without a name",
                        text[..at].lines().count()
                    ));
                }
            }
        }
    }
    assert_none(&broken);
}

/// A page that names a test which is gone promises what nobody tries.
#[test]
fn tests_that_the_pages_name_exist() {
    let mut broken = Vec::new();
    let sources = read(".", "rs");
    for (page, text) in read(".", "md") {
        for (file, name) in text.split('`').filter_map(|quoted| quoted.split_once(".rs::")) {
            // A page may leave out the folders that go without saying.
            let (whole, tail) = (format!("{file}.rs"), format!("/{file}.rs"));
            let name = name.rsplit("::").next().unwrap_or(name);
            let names_it = |code: &str| {
                ["(", "<"]
                    .iter()
                    .any(|after| code.contains(&format!("fn {name}{after}")))
            };
            let is_there =
                |(path, code): &(String, String)| (*path == whole || path.ends_with(&tail)) && names_it(code);
            if !sources.iter().any(is_there) {
                broken.push(format!("{page}: there is no {name} in {file}.rs"));
            }
        }
        let quoted = text.split('`').skip(1).step_by(2);
        for file in quoted.filter(|quoted| quoted.ends_with(".rs") && !quoted.contains([' ', '*', '{', '<', '…'])) {
            let tail = format!("/{file}");
            if !sources.iter().any(|(path, _)| path == file || path.ends_with(&tail)) {
                broken.push(format!("{page}: there is no {file}"));
            }
        }
    }
    assert_none(&broken);
}

/// An alert on a metric that was renamed never fires, and its edge decides whether a percentile is more than a guess.
#[test]
fn alerts_and_pages_name_metrics_that_there_are() {
    let table = fs::read_to_string("src/metric.rs").expect("can be read");
    let pages: Vec<(String, String)> = read("docs", "yml").into_iter().chain(read(".", "md")).collect();
    assert!(pages.iter().any(|(path, _)| path.ends_with("alerts.yml")));
    let mut broken = Vec::new();
    for (page, text) in &pages {
        let words = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
        for word in words.filter(|word| word.starts_with("flashgate_") && word.len() > "flashgate_".len()) {
            let of = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| word.strip_suffix(part));
            let is_there = |name: &str| table.contains(&format!("\"{name}\""));
            if !is_there(word) && !of.is_some_and(is_there) {
                broken.push(format!("{page}: there is no metric {word}"));
            }
        }
    }
    let alerts = fs::read_to_string("docs/alerts.yml").expect("can be read");
    assert!(
        alerts.contains("> 0.120") && table.contains(" 0.12,"),
        "the alert's edge"
    );
    assert_none(&broken);
}

#[test]
fn nothing_is_left_for_later_and_nothing_tells_of_a_machine() {
    // Put together, so that this file does not find itself.
    let later = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
    ];
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let sources = [
        "registry+https://github.com/rust-lang/crates.io-index",
        "https://registry.npmjs.org/",
    ];
    let mut broken = Vec::new();
    for (path, text) in read(".", "") {
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if later.iter().any(|word| line.contains(word)) || words.any(|word| word == concat!("X", "XX")) {
                broken.push(format!("{path}:{}: left for later", at + 1));
            }
            let foreign = line.contains(concat!("regis", "try"))
                && line.contains("://")
                && !sources.iter().any(|of| line.contains(of));
            if foreign || places.iter().any(|place| line.contains(place)) {
                broken.push(format!("{path}:{}: tells of a machine", at + 1));
            }
        }
    }
    assert_none(&broken);
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// The crate's module that a file belongs to; `lib` and `main` are their own.
fn module_of(path: &str) -> String {
    path.split(['/', '.']).nth(1).unwrap_or_default().to_owned()
}

/// Numbered lines without comments, so that documentation may speak of whatever it likes.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The modules that a path behind `crate::` begins with: one, or those between braces.
fn first_names(path: &str) -> Vec<&str> {
    let group = path.strip_prefix('{').and_then(|rest| rest.split('}').next());
    let name = |path| {
        str::split(path, |c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default()
    };
    group.map_or_else(|| vec![name(path)], |group| group.split(", ").map(name).collect())
}

/// Every `KEYS[…]` and `ARGV[…]` of a line: the array, and what stands between the brackets.
fn references(line: &str) -> Vec<(&'static str, &str)> {
    let of = |array: &'static str| {
        let behind = line.match_indices(array).map(move |(at, _)| &line[at + array.len()..]);
        behind.filter_map(move |rest| Some((array, rest.strip_prefix('[')?.split(']').next()?)))
    };
    of("KEYS").chain(of("ARGV")).collect()
}

/// The texts under `dir` whose names end so, by their paths from the repository's root. What is hidden, built or
/// installed is passed over.
fn read(dir: &str, extension: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut dirs) = (Vec::new(), vec![root.join(dir)]);
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') && name != ".ci" || ["target", "node_modules", "results"].contains(&name.as_str())
            {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    let text = |path: PathBuf| {
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        Some((name, fs::read_to_string(&path).ok()?))
    };
    files.into_iter().filter_map(text).collect()
}
