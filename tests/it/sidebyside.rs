//! The same requests to a real Geth and to the gateway before it: equal answers, or a difference that
//! `docs/compatibility.md` lists with its reason. Owns the comparison and the table's check; the requests are in
//! `tests/sidebyside/exchanges.json`. Leaves the full record of both sides in `target/tmp/sidebyside.txt`.

mod form;
mod script;
mod table;
mod talk;

use std::fmt::Write;
use std::path::Path;

use self::form::{Loose, canonical, is_compact};
use self::script::{Exchange, World};
use self::table::{Row, Verdict};
use self::talk::Outcome;
use crate::harness::geth::Geth;
use crate::harness::{Gateway, GatewayOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_geths_or_are_listed_with_a_reason() {
    let geth = Geth::start().await;
    let gateway = Gateway::start(GatewayOptions::upstream(geth.ws_url())).await;
    let world = World::build(&geth).await;
    let exchanges = script::exchanges();
    assert!(exchanges.len() >= 130, "the script has {} exchanges", exchanges.len());
    let gateway_address = address(&gateway.http_url());

    let (mut record, mut rows, mut loose_text) = (String::new(), Vec::new(), Vec::new());
    for exchange in &exchanges {
        let node = talk::hold(exchange, geth.address(), &world).await;
        let ours = talk::hold(exchange, &gateway_address, &world).await;
        note(&mut record, exchange, &node, &ours);
        loose_text.extend(ours.iter().flat_map(|outcome| not_compact(exchange, outcome)));
        rows.push(Row { name: exchange.name.clone(), node: said(exchange, &node), gateway: said(exchange, &ours) });
    }
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("sidebyside.txt"), record).expect("target is writable");
    gateway.stop().await;

    let listed = table::read("docs/compatibility.md");
    let Verdict { equal, faults } = table::judge(&rows, &listed);
    println!("side by side: {} exchanges, {equal} equal, {} listed", rows.len(), listed.len());
    assert!(loose_text.is_empty(), "answers with blanks between their members:\n{}", loose_text.join("\n"));
    assert!(faults.is_empty(), "{} differences that are not as listed:\n{}", faults.len(), faults.join("\n"));
}

/// Host and port of `http://host:port/…`.
fn address(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// All that one side said, in canonical form.
fn said(exchange: &Exchange, outcomes: &[Outcome]) -> Vec<String> {
    let loose = Loose { moving: &exchange.moving, ids: &exchange.ids };
    let mut said = Vec::new();
    for outcome in outcomes {
        let before = said.len();
        said.extend(outcome.answers.iter().map(|answer| canonical(answer, loose)));
        said.extend(outcome.notification.iter().map(|text| format!("notification {}", canonical(text, loose))));
        said.extend(outcome.end.clone());
        if said.len() == before {
            said.push("no answer".to_owned());
        }
    }
    said
}

fn not_compact(exchange: &Exchange, outcome: &Outcome) -> Vec<String> {
    let texts = outcome.answers.iter().chain(&outcome.notification);
    let loose = texts.filter(|text| text.starts_with(['{', '[']) && !is_compact(text));
    loose.map(|text| format!("{}: {text:.200}", exchange.name)).collect()
}

/// One entry of the record that a person reads.
fn note(record: &mut String, exchange: &Exchange, node: &[Outcome], ours: &[Outcome]) {
    let mut line = |mark: &str, text: &str| {
        let shown: String = text.chars().take(1500).collect();
        let rest = if shown.len() < text.len() { format!("… ({} bytes)", text.len()) } else { String::new() };
        writeln!(record, "{mark}{shown}{rest}").expect("a String takes everything");
    };
    line("\n=== ", &exchange.name);
    for (side, outcomes) in [("geth", node), ("ours", ours)] {
        for outcome in outcomes {
            line(&format!("{side} > "), &outcome.sent);
            outcome.answers.iter().for_each(|answer| line(&format!("{side} < "), answer));
            outcome.notification.iter().for_each(|text| line(&format!("{side} < "), text));
            outcome.end.iter().for_each(|end| line(&format!("{side} : "), end));
        }
    }
}
