//! What is meant of datagrams that came in pieces.

use serde_json::Value;

use crate::oracle::purpose::Purpose::{self, FittingPieces, TinyPiece, TunnelledPieces};
use crate::oracle::purpose::{Out, Sent, overhead};

/// The real server that all pieces of what was sent went to, complete; `packet` finds the piece in what came out.
fn whole<'a>(sent: &Sent, got: &'a [Out], packet: impl Fn(&'a Out) -> Option<&'a Value>) -> Option<&'a str> {
    let server = got.first()?.to.as_deref()?;
    let span = |o: &'a Out| {
        let ip = packet(o).filter(|_| o.side == "s" && o.to.as_deref() == Some(server))?;
        let first = ip["off"].as_u64().unwrap_or(0);
        Some((first, first + ip["len"].as_u64()? - 20, ip["mf"] == true))
    };
    let mut spans = got.iter().map(span).collect::<Option<Vec<_>>>()?;
    spans.sort_unstable();
    let end = spans.iter().try_fold(0, |at, (first, end, _)| (*first == at).then_some(*end))?;
    let ends = spans.iter().rev().enumerate().all(|(n, (_, _, more))| *more == (n > 0));
    let header = if sent.text.starts_with("tcp") { 20 } else { 8 };
    (ends && sent.option("len") == end.checked_sub(header)).then_some(server)
}

/// Whether a datagram that came in pieces went through a tunnel to the server that the kernel chose
/// as well, complete, each piece wrapped.
fn wrapped(sent: &Sent, got: &[Out], wanted: &[Value]) -> bool {
    let inner = |o| {
        let Out { ip, .. }: &Out = o;
        let mine = |n: usize, key: &str| Some(sent.word(n).starts_with(ip["inner"][key].as_str()?));
        (overhead(ip).is_some() && mine(1, "src")? && mine(3, "dst")?).then_some(&ip["inner"])
    };
    let Some(server) = whole(sent, got, inner) else { return false };
    !wanted.is_empty() && wanted.iter().all(|w| w["side"] == "s" && w["to"] == server)
}

/// What is meant of a datagram that came in pieces.
pub(super) fn pieces(sent: &Sent, got: &[Out], wanted: &[Value]) -> Option<Purpose> {
    let forwarded = !wanted.is_empty() && wanted.iter().all(|w| w["side"] == "s");
    let tiny = sent.text.starts_with("tcp") && sent.option("frag").is_some_and(|n| n / 8 * 8 < 20);
    if tiny && got.is_empty() && forwarded {
        return Some(TinyPiece);
    }
    let too_big = |w: &Value| w["side"] == sent.side && w["ip"]["type"] == 3 && w["ip"]["code"] == 4;
    if sent.has("df") && sent.side == "c" && matches!(wanted, [w] if too_big(w)) {
        return whole(sent, got, |o| Some(&o.ip)).map(|_| FittingPieces);
    }
    wrapped(sent, got, wanted).then_some(TunnelledPieces)
}
