//! What the streams should have shown, against what they did.

use std::collections::{HashMap, HashSet};

use hdrhistogram::Histogram;
use loadgen::clock::SECOND;
use loadgen::document::parse_uuid;
use serde_json::{Value, json};

use super::commands::Accepted;
use super::streams::Sighting;

/// Latencies over every pair of an accepted command and a stream that it concerns, and what was skipped.
pub fn judge(
    ids: &[String],
    lists: usize,
    accepted: &[Accepted],
    sightings: &[Sighting],
    measure_from: u64,
    now: u64,
) -> Value {
    let single: HashMap<u128, u32> =
        ids.iter().zip(0..).filter_map(|(id, stream)| Some((parse_uuid(id.as_bytes())?, stream))).collect();
    let listed: HashSet<u128> = accepted.iter().filter(|command| command.listed).map(|command| command.id).collect();
    let first_list = ids.len() as u32;
    let mut shown: HashMap<(u32, u128), Vec<&Sighting>> = HashMap::new();
    let mut regressed = 0_u64;
    for sighting in sightings {
        let of = shown.entry((sighting.stream, sighting.id)).or_default();
        // Sent again after a resume it would be, but none is resumed here.
        regressed += u64::from(of.last().is_some_and(|last| last.version >= sighting.version));
        of.push(sighting);
    }
    let mut by_id: HashMap<u128, Vec<&Accepted>> = HashMap::new();
    for command in accepted {
        by_id.entry(command.id).or_default().push(command);
    }
    let mut latency = Histogram::<u64>::new_with_bounds(1_000, 600 * SECOND, 3).expect("valid bounds");
    let (mut pairs, mut never, mut finals_skipped, mut deletes, mut deletes_skipped) =
        (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for (id, commands) in by_id {
        let streams: Vec<u32> = match single.get(&id) {
            Some(stream) => vec![*stream],
            None if listed.contains(&id) => (first_list..first_list + lists as u32).collect(),
            None => continue,
        };
        let is_deleted = commands.iter().any(|command| command.version.is_none());
        let newest = commands.iter().filter_map(|command| command.version).max().unwrap_or(0);
        for stream in streams {
            let seen = shown.get(&(stream, id)).map_or(&[][..], Vec::as_slice);
            for command in &commands {
                pairs += 1;
                let covers = |sighting: &&&Sighting| match command.version {
                    Some(version) => sighting.version >= version,
                    None => sighting.deleted,
                };
                let at = seen.iter().find(covers).map(|sighting| sighting.at);
                never += u64::from(at.is_none());
                if command.intended >= measure_from {
                    latency.saturating_record(at.unwrap_or(now).saturating_sub(command.intended));
                }
            }
            let last = seen.last();
            if is_deleted {
                deletes += 1;
                deletes_skipped += u64::from(!last.is_some_and(|last| last.deleted));
            } else {
                finals_skipped += u64::from(!last.is_some_and(|last| last.version == newest && !last.deleted));
            }
        }
    }
    let ms = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e6;
    json!({
        "commands_by_streams": pairs,
        "measured": latency.len(),
        "never_shown": never,
        "finals_skipped": finals_skipped,
        "deletes": deletes,
        "deletes_skipped": deletes_skipped,
        "regressed": regressed,
        "p50_ms": ms(0.5),
        "p90_ms": ms(0.9),
        "p99_ms": ms(0.99),
        "p999_ms": ms(0.999),
        "max_ms": ms(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01912f5e-0b7c-7cc3-98c4-dc0c0c07398f";
    const LISTED: u128 = 9;

    fn accepted(id: u128, version: Option<u32>, listed: bool) -> Accepted {
        Accepted { id, version, listed, intended: 0 }
    }

    fn sighting(stream: u32, id: u128, version: u32, deleted: bool) -> Sighting {
        Sighting { stream, id, version, deleted, at: 5_000_000 }
    }

    #[test]
    fn a_version_between_may_be_left_out_and_a_final_state_or_a_delete_may_not() {
        let id = parse_uuid(ID.as_bytes()).unwrap();
        let commands = [
            accepted(id, Some(2), false),
            accepted(id, Some(3), false),
            accepted(LISTED, Some(1), true),
            accepted(LISTED, None, false),
            accepted(77, Some(1), false),
        ];
        let ids = [ID.to_owned()];
        let whole = [
            sighting(0, id, 1, false),
            sighting(0, id, 3, false),
            sighting(1, LISTED, 2, true),
            sighting(2, LISTED, 1, false),
            sighting(2, LISTED, 2, true),
        ];
        let judged = judge(&ids, 2, &commands, &whole, 0, SECOND);
        assert_eq!((&judged["commands_by_streams"], &judged["never_shown"]), (&json!(6), &json!(0)), "{judged}");
        assert_eq!(
            (&judged["finals_skipped"], &judged["deletes_skipped"], &judged["regressed"]),
            (&json!(0), &json!(0), &json!(0))
        );
        let judged = judge(&ids, 2, &commands, &[whole[0], whole[3]], 0, SECOND);
        assert_eq!(
            (&judged["finals_skipped"], &judged["deletes"], &judged["deletes_skipped"]),
            (&json!(1), &json!(2), &json!(2))
        );
        assert_eq!(judged["never_shown"], 5, "{judged}");
        let judged = judge(&ids, 2, &commands, &[whole[1], whole[0]], 0, SECOND);
        assert_eq!((&judged["regressed"], &judged["finals_skipped"]), (&json!(1), &json!(1)), "{judged}");
    }
}
