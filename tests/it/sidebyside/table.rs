//! The table of differences in `docs/compatibility.md`: read, and checked against what the two sides really said,
//! both ways: a difference must be listed, in the words that were said, and what is listed must still differ. Pure
//! but for reading the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Letters of an answer that the table shows.
const SHOWN: usize = 160;

/// What both sides said in one exchange, in canonical form.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) node: Vec<String>,
    pub(super) gateway: Vec<String>,
}

/// A line of the table.
#[derive(Debug, PartialEq)]
pub(super) struct Listed {
    node: String,
    gateway: String,
    why: String,
}

/// How the exchanges fit the table.
pub(super) struct Verdict {
    pub(super) equal: usize,
    pub(super) faults: Vec<String>,
}

/// Reads the table whose heading is `exchange | Geth | chaincast | why`.
pub(super) fn read(path: &str) -> BTreeMap<String, Listed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(&text)
}

fn parse(text: &str) -> BTreeMap<String, Listed> {
    let start = text.lines().skip_while(|line| cells(line) != ["exchange", "Geth", "chaincast", "why"]);
    let rows = start.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells = cells(line);
        let [name, node, gateway, why] = &cells[..] else { panic!("a row of {} cells: {line}", cells.len()) };
        let (node, gateway) = (node.clone(), gateway.clone());
        (name.clone(), Listed { node, gateway, why: why.clone() })
    })
    .collect()
}

/// The cells of a row, without the marks of code; `\|` is a bar within a cell.
fn cells(line: &str) -> Vec<String> {
    let bars = line.replace("\\|", "\u{1}");
    let inner = bars.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{1}', "|")).collect()
}

/// What one side said, in the words of the table: only where it differs from the other side.
fn words(said: &[String], other: &[String]) -> String {
    let differing: Vec<_> = (0..said.len().max(other.len()))
        .filter(|place| said.get(*place) != other.get(*place))
        .map(|place| said.get(place).map_or_else(|| "-".to_owned(), |text| short(text)))
        .collect();
    differing.join("; ").replace('`', "'")
}

/// An error by its code and message, a result by its beginning.
fn short(text: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let plain = match (&answer["error"], answer.get("result")) {
        (serde_json::Value::Object(error), _) => {
            let message = error.get("message").and_then(serde_json::Value::as_str).unwrap_or_default();
            format!("{} {message}", error.get("code").cloned().unwrap_or_default())
        }
        (_, Some(result)) => format!("result {result}"),
        _ => text.to_owned(),
    };
    // A row is one line.
    let cut: String = plain.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    if cut.len() < plain.len() { format!("{}…", cut.trim_end()) } else { cut.trim_end().to_owned() }
}

/// Compares every exchange with the table.
pub(super) fn judge(rows: &[Row], listed: &BTreeMap<String, Listed>) -> Verdict {
    let (mut equal, mut faults) = (0, Vec::new());
    for Row { name, node, gateway } in rows {
        let same = node == gateway;
        equal += usize::from(same);
        let row = || {
            let cell = |text: String| text.replace('|', "\\|");
            format!("| {name} | `{}` | `{}` |", cell(words(node, gateway)), cell(words(gateway, node)))
        };
        match listed.get(name) {
            None if same => {}
            None => faults.push(format!("not listed: {}", row())),
            Some(_) if same => faults.push(format!("listed, but equal: {name}")),
            Some(listed) if listed.why.is_empty() => {
                faults.push(format!("listed without a reason: {name}"));
            }
            Some(listed) if (&listed.node, &listed.gateway) != (&words(node, gateway), &words(gateway, node)) => {
                faults.push(format!("listed in other words: {}", row()));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    faults.extend(listed.keys().filter(|name| !known.contains(name)).map(|name| format!("no such exchange: {name}")));
    Verdict { equal, faults }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"a|b"}}"#;
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#;

    fn table(row: &str) -> BTreeMap<String, Listed> {
        parse(&format!(
            "# Title\n\n| exchange | Geth | chaincast | why |\n|---|---|---|---|\n{row}\n\nText | with bars.\n"
        ))
    }

    fn rows(node: &str, gateway: &str) -> Vec<Row> {
        vec![Row { name: "x".to_owned(), node: vec![node.to_owned()], gateway: vec![gateway.to_owned()] }]
    }

    fn faults(rows: &[Row], row: &str) -> Vec<String> {
        judge(rows, &table(row)).faults
    }

    #[test]
    fn equal_needs_no_row_and_different_needs_the_right_one() {
        assert!(faults(&rows(ERROR, ERROR), "").is_empty());
        assert!(faults(&rows(ERROR, RESULT), "| x | `-32602 a\\|b` | `result \"0x1\"` | a reason |").is_empty());
    }

    #[test]
    fn each_kind_of_misfit_is_a_fault() {
        let different = rows(ERROR, RESULT);
        let cases = [
            (faults(&different, ""), "not listed: | x | `-32602 a\\|b` | `result \"0x1\"` |"),
            (faults(&rows(ERROR, ERROR), "| x | `a` | `b` | a reason |"), "listed, but equal: x"),
            (faults(&different, "| x | `-32602 a\\|b` | `result \"0x2\"` | a reason |"), "listed in other words"),
            (faults(&different, "| x | `-32602 a\\|b` | `result \"0x1\"` | |"), "listed without a reason: x"),
            (faults(&rows(ERROR, ERROR), "| y | `a` | `b` | a reason |"), "no such exchange: y"),
        ];
        for (found, expected) in cases {
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?} instead of {expected:?}");
        }
    }
}
