//! The house rules, held by a test: the order of the modules, purity, lengths, and what may not be left in the tree.
//!
//! Owns the walk over the tree and the exceptions. The rules are in `tidy/rules.rs`; `tidy/doctored.rs` proves that
//! each of them can fail.

mod doctored;
mod rules;
mod source;

use std::path::Path;

use rules::Finding;
use source::Source;

/// What is allowed although a rule forbids it: rule, file, what, and why. One that is not needed any more fails.
const EXCEPTIONS: [(&str, &str, &str, &str); 0] = [];

/// Folders that are not part of the tree: built or installed, never written.
const SKIPPED: [&str; 5] = ["target", ".git", "node_modules", "__pycache__", ".idea"];

#[test]
fn the_tree_keeps_the_house_rules() {
    let tree = tree();
    let file = |path: &str| tree.iter().find(|file| file.path == path);
    let order = rules::modules(file("src/lib.rs").expect("there is a library"));
    assert!(order.len() > 10, "few modules were found: {order:?}");
    for pure in rules::PURE {
        assert!(tree.iter().any(|file| file.path.starts_with(pure)), "rules::PURE names {pure}, which is not there");
    }
    let found: Vec<Finding> = tree.iter().flat_map(|file| rules::check(file, &order)).collect();
    let complaints = judge(&found, &EXCEPTIONS);
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// What remains of the findings, and the exceptions that nothing needs.
fn judge(found: &[Finding], exceptions: &[(&str, &str, &str, &str)]) -> Vec<String> {
    let is = |finding: &Finding, exception: &(&str, &str, &str, &str)| {
        (finding.rule, &*finding.path, &*finding.what) == (exception.0, exception.1, exception.2)
    };
    let unexcused = found.iter().filter(|finding| !exceptions.iter().any(|exception| is(finding, exception)));
    let wrong = unexcused.map(|f| format!("{}:{}: {}: {}", f.path, f.line, f.rule, f.what));
    let idle = exceptions.iter().filter(|exception| !found.iter().any(|finding| is(finding, exception)));
    let idle = idle.map(|e| format!("{}: the exception from {} for {} is not needed any more", e.1, e.0, e.2));
    wrong.chain(idle).collect()
}

/// Every text file of the tree.
fn tree() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![top.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let entry = entry.expect("the entry can be read");
            let (kind, name) = (entry.file_type().expect("it has a type"), entry.file_name());
            let name = name.to_string_lossy();
            if kind.is_dir() && !SKIPPED.contains(&&*name) {
                folders.push(entry.path());
            } else if kind.is_file() && !name.ends_with(".log") {
                files.extend(read(top, &entry.path()));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The file, unless it is not text.
fn read(top: &Path, path: &Path) -> Option<Source> {
    let text = String::from_utf8(std::fs::read(path).expect("the file can be read")).ok()?;
    let path = path.strip_prefix(top).expect("it is below the top").to_string_lossy().replace('\\', "/");
    Some(Source::new(&path, &text))
}
