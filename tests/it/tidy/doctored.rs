//! Every rule fails on a text that was made to break it, and not on one that keeps it.
//!
//! Owns the proof that the rules can fail.

use super::judge;
use super::rules::{self, Finding};
use super::source::{Function, Source, ending};

/// Where the rule finds something, as lines and what.
fn found(findings: Vec<Finding>) -> Vec<(usize, String)> {
    findings.into_iter().map(|finding| (finding.line, finding.what)).collect()
}

fn one(line: usize, what: &str) -> Vec<(usize, String)> {
    vec![(line, what.to_owned())]
}

fn order() -> Vec<String> {
    let lib = "pub mod rpc;\npub mod chain;\nmod hub;\npub mod session;\nmod devnode;\nmod cli;\nmod inline {}\n";
    rules::modules(&Source::new("src/lib.rs", lib))
}

fn ordered(path: &str, text: &str) -> Vec<(usize, String)> {
    found(rules::module_order(&Source::new(path, text), &order()))
}

#[test]
fn modules_use_only_what_stands_above_them() {
    assert_eq!(order(), ["rpc", "chain", "hub", "session", "devnode", "cli"]);
    assert!(ordered("src/session/mod.rs", "use crate::hub::Shard;\nuse super::hub;\nuse self::limits;").is_empty());
    assert_eq!(ordered("src/hub/mod.rs", "use crate::rpc;\nuse crate::session::Limits;"), one(2, "hub uses session"));
    assert_eq!(ordered("src/hub/shard.rs", "fn f() { crate::session::serve() }"), one(1, "hub uses session"));
    assert_eq!(ordered("src/hub/mod.rs", "use crate::{rpc, session::{self, A}};").len(), 2, "self and A");
    assert_eq!(ordered("src/other.rs", "").len(), 1, "a module that the library does not declare");
}

#[test]
fn the_way_out_by_super_is_seen() {
    assert_eq!(ordered("src/hub/mod.rs", "use super::session;"), one(1, "hub uses session"));
    assert!(ordered("src/hub/shard.rs", "use super::session;").is_empty(), "hub's own");
    assert_eq!(ordered("src/hub/shard.rs", "\nuse super::super::session;"), one(2, "hub uses session"));
    let nested = "mod tests {\n  use super::super::super::session::A;\n}";
    assert_eq!(ordered("src/hub/shard.rs", nested), one(2, "hub uses session"));
}

#[test]
fn modules_with_few_friends_keep_to_them() {
    assert_eq!(ordered("src/chain.rs", "use crate::rpc;"), one(1, "chain uses rpc"));
    assert_eq!(ordered("src/devnode/mod.rs", "use crate::chain;"), one(1, "devnode uses chain"));
    assert!(ordered("src/cli/demo.rs", "use crate::devnode;").is_empty());
    let order: Vec<String> = ["devnode", "hub"].map(String::from).into();
    let hub = Source::new("src/hub/mod.rs", "use crate::devnode;");
    assert_eq!(found(rules::module_order(&hub, &order)), one(1, "hub uses devnode"));
}

#[test]
fn the_pure_parts_stay_pure() {
    let purity = |text: &str| found(rules::purity(&Source::new("src/filter/index.rs", text)));
    for (text, what) in [
        ("async fn f() {}", "async"),
        ("fn f() { g().await }", "await"),
        ("fn f() { Instant::now(); }", "Instant::now"),
        ("fn f() { std::time::SystemTime::now(); }", "std::time::SystemTime::now"),
        ("fn f(at: Instant) { at.elapsed(); }", "elapsed"),
        ("use std::{fmt, fs};", "std::fs"),
        ("use std::net::TcpStream;", "std::net::TcpStream"),
        ("fn f() { std::thread::yield_now() }", "std::thread::yield_now"),
        ("use tokio::net::TcpStream;", "tokio::net::TcpStream"),
        ("fn f() -> u8 { rand::random() }", "rand::random"),
        ("use rand::rngs::OsRng;", "rand::rngs::OsRng"),
    ] {
        assert_eq!(purity(text), one(1, what), "{text}");
    }
    assert!(purity("use std::time::Instant;\n// async and Instant::now()\nconst A: &str = \"tokio::net\";").is_empty());
    assert!(purity("use rand::rngs::StdRng;\nfn f(seed: u64) { StdRng::seed_from_u64(seed); }").is_empty());
    assert!(purity("#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }\n").is_empty());
    assert_eq!(purity("#[cfg(test)]\nmod tests;\nfn f() { Instant::now(); }"), one(3, "Instant::now"));
    assert_eq!(purity("#[cfg(not(test))]\nfn f() { Instant::now(); }"), one(2, "Instant::now"));
    assert!(rules::purity(&Source::new("src/hub/shard.rs", "async fn f() {}")).is_empty());
}

#[test]
fn functions_and_files_have_a_length() {
    let body = "x();\n".repeat(rules::FUNCTION_LINES - 2);
    let fits = Source::new("tests/it/a.rs", &format!("fn short() {{\n{body}}}\ntrait T {{ fn none(); }}\n"));
    let last_line = rules::FUNCTION_LINES;
    assert_eq!(fits.functions(), [Function { name: "short".into(), first_line: 1, last_line }]);
    assert!(rules::function_length(&fits).is_empty());
    let long = Source::new("src/a.rs", &format!("\nimpl A {{ async fn long<T>(a: [u8; 2]) -> T {{\nx();\n{body}}} }}"));
    assert_eq!(found(rules::function_length(&long)), one(2, "long"));
    let full = "// a line\n".repeat(rules::FILE_LINES);
    assert!(rules::file_length(&Source::new("src/a.rs", &full)).is_empty());
    for path in ["src/a.rs", "tests/a.mjs", "tests/a.py", "tests/a/main.go", "tests/a.sh", "src/a.html"] {
        let text = format!("{full}//\n").replace("//", if ending(path) == "rs" { "//" } else { "#" });
        assert_eq!(rules::file_length(&Source::new(path, &text)).len(), 1, "{path}");
    }
    assert!(rules::file_length(&Source::new("Cargo.lock", &format!("{full}#\n"))).is_empty());
}

#[test]
fn files_open_with_what_they_own() {
    let opens = |path: &str, text: &str| rules::opening(&Source::new(path, text)).is_empty();
    for (path, kept, broken) in [
        ("src/a.rs", "//! Owns a.\n", "use a;\n"),
        ("src/b.rs", "//! Owns b.\n", "// Owns b.\nuse a;\n"),
        ("tests/a.mjs", "#!/usr/bin/env node\n// Owns a.\n", "import 'a'\n"),
        ("tests/a.py", "# Owns a.\n", "import a\n"),
        ("tests/a.go", "// Owns a.\npackage a\n", "package a\n"),
        ("tests/a.sh", "#!/bin/sh\n# Owns a.\n", "#!/bin/sh\nset -e\n"),
        ("tools/run", "#!/bin/sh\n# Owns a.\n", "#!/bin/sh\n"),
        ("src/a.html", "<!doctype html>\n<!-- Owns a. -->\n", "<!doctype html>\n<html>\n"),
        ("docker/Dockerfile", "# Owns a.\n", "FROM a\n"),
    ] {
        assert!(opens(path, kept), "{path}");
        assert!(!opens(path, broken), "{path}");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let left = |path: &str, text: &str| found(rules::leftovers(&Source::new(path, text)));
    let (later, broken) = (concat!("TO", "DO"), concat!("FIX", "ME"));
    assert_eq!(left("src/a.rs", &format!("//! a\n// {later}: more\n")), one(2, later));
    assert_eq!(left("docs/a.md", &format!("a ({broken})\n")), one(1, broken));
    assert!(left("src/a.rs", &format!("const MY_{later}_LIST: u8 = 0; fn dbg() {{ ignore(todo) }}")).is_empty());
    assert_eq!(left("src/a.rs", "fn f() {\n dbg!(1);\n}"), one(2, "dbg!"));
    assert_eq!(left("src/a.rs", "fn f() { todo!() }"), one(1, "todo!"));
    assert_eq!(left("src/a.rs", "fn f() { unimplemented!(\"a\") }"), one(1, "unimplemented!"));
    assert_eq!(left("tests/it/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"), one(2, "[ignore"));
}

#[test]
fn channels_have_a_bound() {
    let channels = |text: &str| found(rules::channel_bounds(&Source::new("src/a.rs", text)));
    assert_eq!(channels("fn f() { mpsc::unbounded_channel::<u8>() }"), one(1, "mpsc::unbounded_channel"));
    assert_eq!(channels("use tokio::sync::mpsc::UnboundedSender;"), one(1, "tokio::sync::mpsc::UnboundedSender"));
    assert_eq!(channels("\nuse std::sync::mpsc::channel;"), one(2, "std::sync::mpsc::channel"));
    assert_eq!(channels("fn f() { mpsc::channel() }"), one(1, "mpsc::channel()"));
    assert!(channels("fn f() { mpsc::channel(64); oneshot::channel() }").is_empty());
}

#[test]
fn tests_do_not_sleep() {
    let sleeps = |path: &str, text: &str| found(rules::test_sleeps(&Source::new(path, text)));
    let text = "fn outer() {\n  fn inner() {\n    tokio::time::sleep(A);\n  }\n}";
    assert_eq!(sleeps("tests/it/a.rs", text), one(3, "inner"));
    assert_eq!(sleeps("src/a/tests.rs", "fn f() { thread::sleep(A) }"), one(1, "f"));
    assert_eq!(sleeps("src/a.rs", "#[cfg(test)]\nmod tests { fn f() { sleep(A) } }"), one(2, "f"));
    assert!(sleeps("src/a.rs", "fn f() { sleep(A) }").is_empty());
    assert!(sleeps("tests/it/a.rs", "fn f() { timeout(A, b) } // never sleep(1)").is_empty());
}

#[test]
fn no_machine_is_named() {
    let named = |text: &str| found(rules::machine_paths(&Source::new("docs/a.md", text)));
    for word in [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("../sha", "red")] {
        assert_eq!(named(&format!("a\nsee {word}A.md")), one(2, word));
    }
    assert!(named("src/devnode/shared.rs, network/a, and workloads").is_empty());
}

#[test]
fn lock_files_name_no_mirror() {
    let hosts = |path: &str, text: &str| rules::lock_hosts(&Source::new(path, text)).len();
    let crates_io = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    assert_eq!(hosts("Cargo.lock", &format!("name = \"a\"\n{crates_io}\n")), 0);
    assert_eq!(hosts("Cargo.lock", "source = \"sparse+https://mirror.example/index/\"\n"), 1);
    assert_eq!(hosts("Cargo.lock", "source = \"git+https://github.com/a/b#1\"\n"), 1);
    assert_eq!(hosts("a/package-lock.json", "  \"resolved\": \"https://mirror.example/a.tgz\",\n"), 1);
    assert_eq!(hosts("a/requirements.txt", "--index-url https://mirror.example/simple\na==1\n"), 1);
    assert_eq!(hosts("a/go.mod", "replace a => b v1\n"), 1);
    assert_eq!(hosts("a/requirements.txt", "a==1\n"), 0);
    assert_eq!(hosts("docs/a.md", "source = \"git+b\"\n"), 0);
}

#[test]
fn exceptions_are_exact() {
    let long = || Finding { rule: "function-length", path: "src/a.rs".into(), line: 7, what: "long".into() };
    let excuse = ("function-length", "src/a.rs", "long", "a table");
    assert_eq!(judge(&[long()], &[]), ["src/a.rs:7: function-length: long"]);
    assert!(judge(&[long()], &[excuse]).is_empty());
    assert_eq!(judge(&[], &[excuse]).len(), 1);
    assert_eq!(judge(&[long()], &[("function-length", "src/a.rs", "other", "a table")]).len(), 2);
}

#[test]
fn all_rules_are_asked() {
    let text =
        concat!("fn f() {\n  dbg!(std::fs::read(\"/wo", "rk/a\"));\n  mpsc::channel();\n  crate::cli::main();\n}\n");
    let long = format!("{text}{}", "\n".repeat(rules::FILE_LINES));
    let mut rules: Vec<_> =
        rules::check(&Source::new("src/chain.rs", &long), &order()).iter().map(|f| f.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    assert_eq!(rules, ["file-length", "leftover", "machine-path", "module-order", "opening", "purity", "unbounded"]);
}
