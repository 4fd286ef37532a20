//! The house rules that a reading of the text can hold, each as a function from a file to what is wrong in it.
//!
//! Owns the numbers and the forbidden words. Does not know which files there are, nor the exceptions.

use super::source::{Source, ending};

/// Lines of a function, from `fn` to its closing brace.
pub(super) const FUNCTION_LINES: usize = 70;
/// Lines of a file.
pub(super) const FILE_LINES: usize = 500;

/// Modules that may use these modules only, however high they stand.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("metrics", &[]),
    ("rpc", &[]),
    ("close", &[]),
    ("chain", &[]),
    ("journal", &["chain"]),
    ("filter", &["chain"]),
    ("devnode", &[]),
];
/// Modules that only these modules may use.
const ONLY_FOR: [(&str, &[&str]); 1] = [("devnode", &["bench", "cli", "sim"])];

/// Files and folders that are pure: no async, no clock, no I/O, no threads, no randomness.
pub(super) const PURE: [&str; 29] = [
    "src/chain.rs",
    "src/close.rs",
    "src/deflate.rs",
    "src/devnode/args.rs",
    "src/devnode/block.rs",
    "src/devnode/branch.rs",
    "src/devnode/chain.rs",
    "src/devnode/economy.rs",
    "src/devnode/filter.rs",
    "src/devnode/transaction.rs",
    "src/filter/",
    "src/hub/frame.rs",
    "src/hub/streams.rs",
    "src/ingest/action.rs",
    "src/ingest/ask.rs",
    "src/ingest/finality.rs",
    "src/ingest/logs.rs",
    "src/ingest/rule.rs",
    "src/ingest/tracker.rs",
    "src/ingest/walk.rs",
    "src/ingest/watch.rs",
    "src/ingest/window.rs",
    "src/rpc.rs",
    "src/server/extensions.rs",
    "src/session/protocol.rs",
    "src/session/reader.rs",
    "src/session/subscribe.rs",
    "src/upstream/breaker.rs",
    "src/upstream/score.rs",
];
const IMPURE_WORDS: [&str; 9] =
    ["async", "await", "elapsed", "print", "println", "eprintln", "stdin", "stdout", "thread_local"];
const IMPURE_CRATES: [&str; 4] = ["tokio", "tokio_util", "socket2", "hyper"];
/// Randomness from the system; a generator that is seeded by an argument is none.
const RANDOM: [&str; 6] = ["OsRng", "ThreadRng", "from_os_rng", "random", "rng", "thread_rng"];
const IMPURE_STD: [&str; 6] = ["env", "fs", "net", "os", "process", "thread"];

/// Something that a rule found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) rule: &'static str,
    pub(super) path: String,
    pub(super) line: usize,
    /// What an exception names: the same wherever the line moves to.
    pub(super) what: String,
}

fn finding(rule: &'static str, file: &Source, line: usize, what: impl Into<String>) -> Finding {
    Finding { rule, path: file.path.clone(), line, what: what.into() }
}

/// All rules on one file. `order` is that of the modules in `src/lib.rs`.
pub(super) fn check(file: &Source, order: &[String]) -> Vec<Finding> {
    let per_file = [
        purity,
        function_length,
        file_length,
        opening,
        leftovers,
        channel_bounds,
        test_sleeps,
        machine_paths,
        lock_hosts,
    ];
    let mut found = module_order(file, order);
    found.extend(per_file.iter().flat_map(|rule| rule(file)));
    found
}

/// The modules of `src/lib.rs`, in order.
pub(super) fn modules(lib: &Source) -> Vec<String> {
    let declared = lib.tokens.windows(3).filter(|w| w[0].text == "mod" && w[1].is_word && w[2].text == ";");
    declared.map(|w| w[1].text.clone()).collect()
}

/// A module uses only modules that stand above it, and those with few friends only these.
pub(super) fn module_order(file: &Source, order: &[String]) -> Vec<Finding> {
    let Some(module) = file.module() else { return Vec::new() };
    let place = |name: &str| order.iter().position(|known| known == name);
    let Some(own) = place(module) else {
        return vec![finding("module-order", file, 1, format!("{module} is not declared in src/lib.rs"))];
    };
    let mut found = Vec::new();
    for path in file.paths() {
        let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
        let from_root = match path.segments[0].as_str() {
            "crate" => 1,
            "super" if supers == file.depth() + path.depth => supers,
            _ => continue,
        };
        let Some(used) = path.segments.get(from_root).filter(|name| *name != module) else { continue };
        let Some(at) = place(used) else { continue };
        let allowed = |table: &[(&str, &[&str])], key: &str, value: &str| {
            table.iter().all(|(known, friends)| *known != key || friends.contains(&value))
        };
        if at > own || !allowed(&MAY_USE, module, used) || !allowed(&ONLY_FOR, used, module) {
            found.push(finding("module-order", file, path.line, format!("{module} uses {used}")));
        }
    }
    found
}

/// The deciding parts take time and randomness as arguments and do nothing but decide.
pub(super) fn purity(file: &Source) -> Vec<Finding> {
    if !PURE.iter().any(|pure| file.path.starts_with(pure)) {
        return Vec::new();
    }
    let paths = file.paths().into_iter().filter(|path| !path.is_test);
    let impure = paths.filter(|path| {
        let first = path.segments[0].as_str();
        let second = path.segments.get(1).map_or("", String::as_str);
        let clock = path.segments.len() > 1 && path.segments.last().is_some_and(|last| last == "now");
        let word = path.segments.iter().any(|segment| IMPURE_WORDS.contains(&segment.as_str()));
        let random = path.segments.len() > 1 && path.segments.iter().any(|s| RANDOM.contains(&s.as_str()));
        clock || word || random || IMPURE_CRATES.contains(&first) || (first == "std" && IMPURE_STD.contains(&second))
    });
    impure.map(|path| finding("purity", file, path.line, path.segments.join("::"))).collect()
}

/// A function fits a screen.
pub(super) fn function_length(file: &Source) -> Vec<Finding> {
    let long = file.functions().into_iter().filter(|f| f.last_line - f.first_line >= FUNCTION_LINES);
    long.map(|f| finding("function-length", file, f.first_line, f.name)).collect()
}

/// A file can be read in one go.
pub(super) fn file_length(file: &Source) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let counts = is_program(file) && lines > FILE_LINES;
    counts.then(|| finding("file-length", file, lines, "file")).into_iter().collect()
}

/// Each file opens with what it owns.
pub(super) fn opening(file: &Source) -> Vec<Finding> {
    if !is_program(file) {
        return Vec::new();
    }
    let skipped = |line: &&str| line.starts_with("#!") || line.eq_ignore_ascii_case("<!doctype html>");
    let first = file.text.lines().find(|line| !skipped(line)).unwrap_or("");
    let wanted: &[&str] = match ending(&file.path) {
        "rs" => &["//! "],
        "go" | "js" | "mjs" => &["// ", "/*"],
        "py" => &["# ", "\"\"\""],
        "html" => &["<!--"],
        _ => &["# "],
    };
    let opens = wanted.iter().any(|mark| first.starts_with(mark));
    (!opens).then(|| finding("opening", file, 1, "file")).into_iter().collect()
}

/// Programs and what is written by hand like one.
fn is_program(file: &Source) -> bool {
    let name = file.path.rsplit('/').next().unwrap_or("");
    matches!(ending(name), "rs" | "go" | "js" | "mjs" | "py" | "sh" | "html")
        || matches!(name, "Dockerfile" | "Makefile")
        || file.text.starts_with("#!/")
}

/// Nothing is left for later, and no test is switched off.
pub(super) fn leftovers(file: &Source) -> Vec<Finding> {
    // Put together from halves, so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut found = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        let mut parts = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = parts.find(|part| words.contains(part)) {
            found.push(finding("leftover", file, number, word));
        }
    }
    let macros = ["dbg", "todo", "unimplemented"];
    for pair in file.tokens.windows(2) {
        let left = macros.contains(&pair[0].text.as_str()) && pair[1].text == "!";
        let off = pair[0].text == "[" && pair[1].text == "ignore";
        if (left || off) && (pair[0].is_word || pair[1].is_word) {
            found.push(finding("leftover", file, pair[0].line, format!("{}{}", pair[0].text, pair[1].text)));
        }
    }
    found
}

/// Every channel has a bound.
pub(super) fn channel_bounds(file: &Source) -> Vec<Finding> {
    let named = |path: &super::source::Path| {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        segments.iter().any(|s| s.starts_with("unbounded") || s.starts_with("Unbounded"))
            || segments.starts_with(&["std", "sync", "mpsc", "channel"])
    };
    let mut found: Vec<Finding> = file
        .paths()
        .into_iter()
        .filter(named)
        .map(|path| finding("unbounded", file, path.line, path.segments.join("::")))
        .collect();
    // A channel of std is made without a size; a one-shot channel needs none.
    for window in file.tokens.windows(5) {
        let text = |at: usize| window[at].text.as_str();
        if text(0) == "mpsc" && text(2) == "channel" && text(3) == "(" && text(4) == ")" {
            found.push(finding("unbounded", file, window[0].line, "mpsc::channel()"));
        }
    }
    found
}

/// A test waits for what it needs, never for a time.
pub(super) fn test_sleeps(file: &Source) -> Vec<Finding> {
    let sleeps = file.paths().into_iter().filter(|path| {
        let last = path.segments.last().map_or("", String::as_str);
        path.is_test && matches!(last, "sleep" | "sleep_until" | "sleep_ms")
    });
    let around = |line: usize| {
        let inner = file.functions().into_iter().rfind(|f| (f.first_line..=f.last_line).contains(&line));
        inner.map_or("file".into(), |f| f.name)
    };
    sleeps.map(|path| finding("test-sleep", file, path.line, around(path.line))).collect()
}

/// Nothing in the tree knows the machine or the notes beside which it was written.
pub(super) fn machine_paths(file: &Source) -> Vec<Finding> {
    let words = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("../sha", "red")];
    let mut found = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        if let Some(word) = words.iter().find(|word| line.contains(**word)) {
            found.push(finding("machine-path", file, number, *word));
        }
    }
    found
}

/// Lock files pin what is installed, never from where: a mirror of one machine would bind all others. Cargo's own name
/// for crates.io is the exception.
pub(super) fn lock_hosts(file: &Source) -> Vec<Finding> {
    let name = file.path.rsplit('/').next().unwrap_or("");
    if !matches!(name, "Cargo.lock" | "package-lock.json" | "requirements.txt" | "go.sum" | "go.mod") {
        return Vec::new();
    }
    let crates_io = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    let says_where = |line: &str| {
        let keys = ["source = ", r#""resolved":"#, "--index-url", "--extra-index-url", "--find-links", "replace "];
        keys.iter().any(|key| line.trim_start().starts_with(key)) && line != crates_io
    };
    let lines = (1..).zip(file.text.lines()).filter(|(_, line)| says_where(line));
    lines.map(|(number, line)| finding("lock-host", file, number, line.trim())).collect()
}
