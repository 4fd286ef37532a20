//! Which extension a WebSocket client gets of those that it offers: permessage-deflate (RFC 7692 §7.1), or none.
//!
//! What cannot be met or read is declined, which is never an error: the connection then is a plain one. Pure.

use std::fmt::Write;

use crate::deflate::WINDOW_BITS;

/// What `Sec-WebSocket-Extensions` of the answer says, for its values in the request; `None` if no offer is accepted.
///
/// No context is taken over in either direction: one compressed frame serves all clients, and an idle one holds nothing.
pub(super) fn accept<'a>(offered: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut offers = offered.flat_map(|value| split(value, ','));
    let bounded = offers.find_map(is_window_bounded)?;
    let mut answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
    if bounded {
        write!(answer, "; server_max_window_bits={WINDOW_BITS}").expect("writing to memory does not fail");
    }
    Some(answer)
}

/// Whether an offer of permessage-deflate bounds our window; `None` if the offer is another or cannot be accepted.
fn is_window_bounded(offer: &str) -> Option<bool> {
    let mut parts = split(offer, ';').map(str::trim);
    if parts.next()? != "permessage-deflate" {
        return None;
    }
    let (mut seen, mut bounded) = (Vec::new(), false);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            // A client's own window may be of any size: it is read with the largest.
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => drop(bits(value)?),
            ("server_max_window_bits", Some(value)) => {
                bounded = bits(value)? >= WINDOW_BITS;
                if !bounded {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(bounded)
}

/// A size of a window, quoted or not: 8 to 15, without leading zeros (RFC 7692 §7.1.2).
fn bits(value: &str) -> Option<u8> {
    let plain = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    let digits = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit()) && !plain.starts_with('0');
    plain.parse().ok().filter(|bits| digits && (8..=15).contains(bits))
}

/// The parts of a list whose separator may also stand within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let literal = escaped;
        escaped = quoted && c == '\\' && !literal;
        quoted ^= c == '"' && !literal;
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const WINDOW: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12";

    #[test]
    fn what_each_offer_gets() {
        for (offered, want) in [
            // Browsers, ws and websockets; Go's gorilla; coder/websocket.
            (&["permessage-deflate; client_max_window_bits"][..], Some(PLAIN)),
            (&["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], Some(PLAIN)),
            (&["permessage-deflate; client_no_context_takeover; server_no_context_takeover"], Some(PLAIN)),
            (&["permessage-deflate"], Some(PLAIN)),
            (&["permessage-deflate;client_max_window_bits=8"], Some(PLAIN)),
            (&["permessage-deflate; client_max_window_bits=\"15\""], Some(PLAIN)),
            (&["permessage-deflate; server_max_window_bits=15"], Some(WINDOW)),
            (&["permessage-deflate; server_max_window_bits = 12 ; client_max_window_bits"], Some(WINDOW)),
            (&["permessage-deflate; server_max_window_bits=\"13\""], Some(WINDOW)),
            // The first that can be met.
            (&["permessage-deflate; server_max_window_bits=11, permessage-deflate"], Some(PLAIN)),
            (&["permessage-deflate; x=\"a, permessage-deflate\", permessage-deflate;y"], None),
            (&["permessage-deflate; x=\"\\\", permessage-deflate\" , permessage-deflate"], Some(PLAIN)),
            (&["x-webkit-deflate-frame", "permessage-bzip2, permessage-deflate"], Some(PLAIN)),
            (&["permessage-deflate; server_max_window_bits=14", "permessage-deflate"], Some(WINDOW)),
            // Nothing, or nothing that can be met or read.
            (&[], None),
            (&["", ",", ";", " , ;permessage-deflate"], None),
            (&["permessage-deflate; server_max_window_bits=11"], None),
            (&["permessage-deflate; server_max_window_bits=8"], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=012"], None),
            (&["permessage-deflate; server_max_window_bits=+12"], None),
            (&["permessage-deflate; server_max_window_bits=\"12"], None),
            (&["permessage-deflate; server_max_window_bits=12; server_max_window_bits=12"], None),
            (&["permessage-deflate; client_max_window_bits=7"], None),
            (&["permessage-deflate; client_max_window_bits="], None),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits=9"], None),
            (&["permessage-deflate; client_no_context_takeover=1"], None),
            (&["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
            (&["permessage-deflate; unknown"], None),
            (&["permessage-deflate;"], None),
            (&["permessage-deflated"], None),
        ] {
            assert_eq!(accept(offered.iter().copied()).as_deref(), want, "{offered:?}");
        }
    }
}
