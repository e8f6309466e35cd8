//! Columns of many rows at once, as `UNNEST` takes them.

/// What `pick` says of each. Nothing at all where it says `nothing` of all of them: to take a row apart costs Postgres as
/// much for each column as to store it, and `UNNEST` fills a column that is too short with nulls.
pub(super) fn column<'a, M, T: PartialEq>(of: &'a [M], nothing: &T, pick: impl Fn(&'a M) -> T) -> Vec<T> {
    let values: Vec<T> = of.iter().map(pick).collect();
    match values.iter().any(|value| value != nothing) {
        true => values,
        false => Vec::new(),
    }
}
